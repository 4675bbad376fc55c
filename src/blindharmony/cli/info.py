"""``blindharmony targets`` and ``info``: which target models there are, and what one is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, InputError, one_line


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "info",
        help="say what a target model is",
        description="Print data, preparation, size, held-out figures, license and hash of a target model.",
        epilog="example:\n  blindharmony info ds002748",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("target", nargs="?", default="ds002748", help="model file or included name (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="for machines")
    p.set_defaults(run=run)
    p = verbs.add_parser(
        "targets",
        help="list the included targets, and those of a folder",
        description="List the target models: the included ones, and those of the folders and files that are named.",
        epilog="example:\n  blindharmony targets models/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("places", nargs="*", type=Path, metavar="PLACE", help="folders of models, or model files")
    p.add_argument("--json", action="store_true", help="for machines")
    p.set_defaults(run=run_targets)


def run_targets(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print the models, one after another; a file that is none is named, and the code is 1."""
    import json

    # Not loaded: that takes seconds, and a list needs only what the files say of themselves.
    from blindharmony.models.card import ABOUT, about, description_of, digest_of, included_targets, target_content

    named = list(included_targets())
    for place in arguments.places:
        if not place.exists():
            raise InputError("is not there", remedy="name a folder of models, or model files", path=place)
        paths = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
        named += [str(path) for path in paths]
    code, cards = 0, []
    for name in named:  # an included name, or a place
        try:
            path, content = target_content(name)
            info = description_of(content, path)
        except BlindHarmonyError as error:
            screen.problem(str(error))
            code = error.exit_code
            continue
        told = about(name, _table(info, "notes"))
        cards.append(
            {
                "target": name,
                "contrast": info.get("suffix", "T1w"),
                "scans": sum(
                    n for n in (info.get("scans"), _table(info, "held_out").get("scans")) if isinstance(n, int)
                ),
                **{key: told.get(key, "not recorded") for key in ABOUT},
                "data": info.get("data") or "not recorded",
                "license": info.get("licence") or "not recorded",
                "hash": digest_of(content),
            }
        )
    if arguments.json:
        screen.result(json.dumps(cards, indent=2))
        return code
    for card in cards:
        screen.result(one_line(f"{card['target']} (--target {card['target']})"))
        for key, value in list(card.items())[1:]:
            screen.result(one_line(f"  {key:<8}  {value}"))
    return code


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


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
