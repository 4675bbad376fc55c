"""``blindharmony export``: a target model in the form that other programs run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared

_EPILOG = """\
A MONAI bundle is a folder: configs/metadata.json, configs/inference.json, models/model.safetensors, docs/README.md,
LICENSE. Run it where blindharmony and MONAI are installed:

  python -m monai.bundle run --config_file BUNDLE/configs/inference.json --bundle_root BUNDLE \\
    --dataset_dir SCANS --output_dir OUT

examples:
  blindharmony export ds002748 --monai-bundle bundle
  blindharmony export mysite.safetensors --monai-bundle bundle
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "export",
        help="write a target model as a MONAI bundle",
        description="Write a target model in the form that other programs run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("target", metavar="TARGET", help="model file or included name")
    p.add_argument("--monai-bundle", required=True, type=Path, metavar="DIR", help="folder for the bundle")
    p.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write the bundle and say how to run it."""
    from blindharmony.integrations.bundle import write_bundle

    folder = write_bundle(arguments.target, arguments.monai_bundle, overwrite=arguments.overwrite)
    screen.result(str(folder))
    screen.note(f"how to run it: {folder / 'docs' / 'README.md'}")
    return 0
