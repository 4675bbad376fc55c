"""``blindharmony info``: what a target model is."""

from __future__ import annotations

import argparse
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.errors import one_line


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "info",
        help="say what a target model is",
        description="Print data, preparation, size, held-out figures, licence and hash of a target model.",
        epilog="example:\n  blindharmony info ds002748",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("target", nargs="?", default="ds002748", help="model file or included name (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="for machines")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print the model's card."""
    import json

    from blindharmony.models.file import load_target
    from blindharmony.models.target import card_rows

    target = load_target(arguments.target)
    if arguments.json:
        screen.result(json.dumps({"digest": target.digest, **target.info.model_dump(mode="json")}, indent=2))
        return 0
    rows = card_rows(target)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        screen.result(one_line(f"{name:<{width}}  {value}"))
    return 0
