"""``blindharmony sample``: heads that a target's flow makes up, to see what it has learnt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared, masks_named, whole
from blindharmony.errors import InputError

_EPILOG = """\
Written: sample-01_temperature-0.50.nii.gz, ... (2 mm template grid, intensity units of the target scanner),
samples.json (how they were made), samples.html (all of them beside the target's mean image, one file).
They are nobody's heads and no data to analyze: look at them to judge the flow.

examples:
  blindharmony sample ds002748 --out samples
  blindharmony sample mysite.safetensors --number 2 --temperature 0.7 1.0 --seed 3 --out samples
  blindharmony sample ds002748 --scan sub-01_T1w.nii.gz --out samples     also this scan, its fine details drawn anew
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "sample",
        help="draw heads from a target's flow",
        description="Draw heads from a target's flow, to see what it has learned.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("target", metavar="TARGET", help="model file or included name")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    p.add_argument("--number", type=int, default=1, help="heads of each temperature (default: %(default)s)")
    p.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        default=[0.5, 0.8, 1.0],
        metavar="T",
        help="size of what is random: 1 as the flow believes, 0 nothing (default: 0.5 0.8 1.0)",
    )
    p.add_argument("--seed", type=whole, default=0, help="equal seeds give equal files (default: %(default)s)")
    p.add_argument("--scan", type=Path, help="a scan whose fine details are drawn anew, level by level")
    p.add_argument("--mask", type=Path, help="brain mask on that scan's grid")
    p.add_argument("--overwrite", action="store_true", help="replace existing results")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Draw, write, and say where to look."""
    masks_named(arguments.mask, None, [] if arguments.scan is None else [arguments.scan])
    if arguments.scan is not None and not arguments.scan.exists():
        raise InputError("no such scan", remedy="check the path", path=arguments.scan)
    from blindharmony.sampling import sample

    files = sample(
        arguments.target,
        arguments.out,
        number=arguments.number,
        temperatures=arguments.temperature,
        seed=arguments.seed,
        scan=arguments.scan,
        mask=arguments.mask,
        overwrite=arguments.overwrite,
    )
    for file in files:
        screen.result(str(file))
    screen.note(f"open {files[-1].resolve().as_uri()} in a browser to see them")
    return 0
