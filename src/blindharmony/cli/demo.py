"""``blindharmony demo``: the main job on the included scan with the included model."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import Any

from blindharmony.cli import harmonize
from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared

_EPILOG = """\
examples:
  blindharmony demo
  blindharmony demo out --viewer --overwrite
  blindharmony demo out --target mysite.safetensors
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "demo",
        help="harmonize the included scan",
        description="Harmonize an included head of another scanner (OpenNeuro ds000011, PDDL) to the included target.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("out", nargs="?", default="blindharmony-demo", help="folder for the results (default: %(default)s)")
    add_shared(p, "--target", "--viewer")
    p.add_argument("--overwrite", action="store_true", help="replace existing results")
    add_shared(p, "--verbose", "--quiet")
    p.set_defaults(run=run)


def demo_scan() -> Path:
    """The included scan.

    Example:
        >>> demo_scan().name
        'sub-01_T1w.nii.gz'
    """
    return Path(str(resources.files("blindharmony").joinpath("assets", "sub-01_T1w.nii.gz")))


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Harmonize it and say where to look."""
    words = ["harmonize", str(demo_scan()), "--out", arguments.out, "--target", arguments.target]
    grammar = argparse.ArgumentParser()
    harmonize.add_parser(grammar.add_subparsers())
    flags = [f"--{name}" for name in ("overwrite", "quiet", "verbose", "viewer") if getattr(arguments, name)]
    # What stands before the verb belongs to all verbs.
    harmonize_arguments = grammar.parse_args([*words, *flags], argparse.Namespace(debug=arguments.debug))
    code = harmonize.run(harmonize_arguments, screen)
    if code == 0:
        report = Path(arguments.out, "sub-01_desc-harmonized_T1w.html").resolve()
        screen.note(f"open {report.as_uri()} in a browser to see what changed")
    return code
