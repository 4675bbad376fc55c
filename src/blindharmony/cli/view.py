"""``blindharmony view``: a harmonized scan and its source in one page, to scroll through."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared

_EPILOG = """\
The page holds both volumes, cut to the brain and rounded to what a screen can show: one file of 5 to 25 MB that opens
in any current browser, without network. It lies beside RESULT, named ....viewer.html, if --out does not say otherwise.

The scan that RESULT was made from is found by the name and hash in the sidecar (.json): in --inputs, where a BIDS data
set says, beside RESULT, in the folder above, in the current folder. Or name it with --scan.

examples:
  blindharmony view out/sub-01_desc-harmonized_T1w.nii.gz --inputs study
  blindharmony view derivatives/sub-01/anat/sub-01_desc-harmonized_T1w.json --open
  blindharmony harmonize scan.nii.gz --viewer --out out      makes the page at once
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "view",
        help="look through a result and its scan, slice by slice",
        description="Make a page to scroll through a harmonized scan and the scan it was made from, side by side.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("result", type=Path, metavar="RESULT", help="harmonized scan, or the .json or .html beside it")
    p.add_argument("--scan", type=Path, metavar="FILE", help="the scan it was made from")
    p.add_argument("--inputs", type=Path, nargs="+", default=[], metavar="PATH", help="where the scan is")
    p.add_argument("--out", type=Path, metavar="FILE", help="the page (default: beside RESULT)")
    p.add_argument("--open", action="store_true", help="open it in the browser")
    p.add_argument("--overwrite", action="store_true", help="replace an existing page")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write the page and say where it is."""
    from blindharmony.provenance import view

    page = view(
        arguments.result,
        scan=arguments.scan,
        inputs=arguments.inputs,
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    screen.result(str(page))
    screen.note(f"open {page.resolve().as_uri()} in a browser ({page.stat().st_size / 1e6:.0f} MB)")
    if arguments.open:
        webbrowser.open(page.resolve().as_uri())
    return 0
