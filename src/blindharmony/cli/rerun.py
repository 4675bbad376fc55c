"""``blindharmony rerun``: repeat a run from its sidecar and compare the bytes."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared
from blindharmony.errors import OutputError

_EPILOG = """\
The sidecar names scan, mask and target without their folders, and gives their hashes. They are looked for in --inputs
(with subfolders), then beside the sidecar, in the folder above it, and in the current folder. One that has changed is
refused. Without --out the results are compared and thrown away.

Equal bytes can be expected with the same versions (the sidecar has them) on the same kind of machine.

examples:
  blindharmony rerun out/sub-01_desc-harmonized_T1w.json --inputs study
  blindharmony rerun scan_desc-harmonized.json --inputs scan.nii.gz --target mysite.safetensors --out again

exit codes: 0 equal, 1 not equal or not possible, 2 wrong use (a model or sidecar that is none)
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "rerun",
        help="repeat a run from its sidecar and compare",
        description="Repeat the run that made a harmonized scan, and say whether the same bytes come out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("sidecar", type=Path, metavar="SIDECAR", help="the .json beside a harmonized scan")
    p.add_argument("--out", type=Path, metavar="DIR", help="keep the results here")
    p.add_argument("--inputs", type=Path, nargs="+", default=[], metavar="PATH", help="where scan, mask and model are")
    p.add_argument("--target", help="model file or included name, if it is not found by itself")
    p.add_argument("--mask-command", metavar="CMD", help="that of the first run: no file is trusted to start a program")
    p.add_argument("--device", help="another device than that of the first run")
    p.add_argument("--overwrite", action="store_true", help="replace results in --out")
    add_shared(p, "--verbose", "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Repeat and compare."""
    from blindharmony.provenance import rerun

    with ExitStack() as stack:
        out = arguments.out or Path(stack.enter_context(_temporary()))
        stage = stack.enter_context(screen.progress(arguments.sidecar.name))
        repeated = rerun(
            arguments.sidecar,
            out,
            inputs=arguments.inputs,
            target=arguments.target,
            mask_command=arguments.mask_command,
            device=arguments.device,
            overwrite=arguments.overwrite,
            progress=stage,
        )
    for name, equal in repeated.equal.items():
        screen.result(f"{'equal    ' if equal else 'NOT EQUAL'}  {name}")
    for change in repeated.changed:
        screen.problem(f"blindharmony: warning: {change}")
    if all(repeated.equal.values()):
        screen.note("every file has the bytes of the first run")
        return 0
    screen.problem("blindharmony: the bytes are not those of the first run")
    return 1


def _temporary() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError:  # a container may be read-only but for the output
        raise OutputError("no folder for temporary files can be written", remedy="give --out, or set TMPDIR") from None
