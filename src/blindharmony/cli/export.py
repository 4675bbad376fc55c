"""``blindharmony export``: a target model, or the command itself, in the form that other programs run.

A target becomes a MONAI bundle (:mod:`blindharmony.integrations.bundle`). The command ``harmonize`` becomes a Boutiques
descriptor (:func:`descriptor`), made from its own grammar and so from the settings: Boutiques, CBRAIN and Nipype run
tools by such a file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from blindharmony.cli.completion import grammars
from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared, amount, count, from_zero, whole
from blindharmony.errors import UsageError
from blindharmony.files import check_outputs, write_text
from blindharmony.version import VERSION

_EPILOG = """\
A MONAI bundle is a folder: configs/metadata.json, configs/inference.json, models/model.safetensors, docs/README.md,
LICENSE. Run it where blindharmony and MONAI are installed:

  python -m monai.bundle run --config_file BUNDLE/configs/inference.json --bundle_root BUNDLE \\
    --dataset_dir SCANS --output_dir OUT

A Boutiques descriptor says what 'blindharmony harmonize' takes and gives, for programs that run tools by such files:

  bosh exec launch harmonize.json invocation.json

examples:
  blindharmony export ds002748 --monai-bundle bundle
  blindharmony export mysite.safetensors --monai-bundle bundle
  blindharmony export --boutiques harmonize.json
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "export",
        help="write a target model as a MONAI bundle, or the command as a Boutiques descriptor",
        description="Write a target model, or the command itself, in the form that other programs run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("target", nargs="?", metavar="TARGET", help="model file or included name, for a bundle")
    p.add_argument("--monai-bundle", type=Path, metavar="DIR", help="folder for the bundle")
    p.add_argument("--boutiques", type=Path, metavar="FILE", help="file for the descriptor (.json)")
    p.add_argument("--overwrite", action="store_true", help="replace what is there")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write the bundle or the descriptor, and say how to run it."""
    if (arguments.monai_bundle is None) == (arguments.boutiques is None):
        raise UsageError("nothing says what to write, or both do", remedy="give --monai-bundle DIR or --boutiques FILE")
    if bool(arguments.target) != bool(arguments.monai_bundle):
        what = "a bundle needs a target model" if arguments.monai_bundle else "a descriptor has no target model"
        raise UsageError(what, remedy="write export TARGET --monai-bundle DIR, or export --boutiques FILE")
    if arguments.boutiques:
        from blindharmony.cli.main import parser

        check_outputs([arguments.boutiques], [])
        text = json.dumps(descriptor(grammars(parser())["harmonize"]), indent=2) + "\n"
        screen.result(str(write_text(arguments.boutiques, text, overwrite=arguments.overwrite)))
        screen.note(f"how to run it: bosh exec launch {arguments.boutiques} INVOCATION.json")
        return 0
    from blindharmony.integrations.bundle import write_bundle

    folder = write_bundle(arguments.target, arguments.monai_bundle, overwrite=arguments.overwrite)
    screen.result(str(folder))
    screen.note(f"how to run it: {folder / 'docs' / 'README.md'}")
    return 0


# Written, so they need not be there; and what Boutiques cannot say: an option that is repeated with its flag.
_PLACES = {"out", "file", "save_scanner"}
_LEFT_OUT = {"help", "set"}


def descriptor(grammar: argparse.ArgumentParser) -> dict[str, Any]:
    """The Boutiques descriptor of ``blindharmony harmonize``.

    Args:
        grammar: The command's.

    Source:
        Glatard et al., Boutiques: a flexible framework to integrate command-line applications in computing platforms,
        GigaScience 7(5), 2018; schema 0.5.
    """
    actions = [action for action in grammar._actions if action.dest not in _LEFT_OUT]
    keys = [f"[{action.dest.upper()}]" for action in actions]
    return {
        "name": "blindharmony",
        "description": grammar.description,
        "tool-version": VERSION,
        "schema-version": "0.5",
        "command-line": " ".join(["blindharmony harmonize", *keys]),
        "inputs": [_input(action) for action in actions],
        "groups": [
            {
                "id": "results",
                "name": "where the results go",
                "members": ["out", "file"],
                "mutually-exclusive": True,
                "one-is-required": True,
            }
        ],
        "output-files": [
            {"id": "folder", "name": "Results", "path-template": "[OUT]", "optional": True},
            {"id": "scan", "name": "Harmonized scan", "path-template": "[FILE]", "optional": True},
            {"id": "scanner_model", "name": "Fitted scanner", "path-template": "[SAVE_SCANNER]", "optional": True},
        ],
        "tags": {"domain": ["neuroinformatics", "mri"]},
    }


def _input(action: argparse.Action) -> dict[str, Any]:
    content: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": (action.help or "").replace("%%", "%") % {"default": action.default},
        "value-key": f"[{action.dest.upper()}]",
        "optional": not action.required and bool(action.option_strings),
    }
    if action.option_strings:
        content["command-line-flag"] = max(action.option_strings, key=len).replace("_", "-")
    if action.nargs == 0:
        return {**content, "type": "Flag"}
    if action.choices:
        content["value-choices"] = [str(choice) for choice in action.choices]
    if action.nargs == "+":
        content["list"] = True
    kind = action.type
    if kind in (count, whole):
        return {**content, "type": "Number", "integer": True, "minimum": 1 if kind is count else 0}
    if kind in (amount, from_zero):
        return {**content, "type": "Number", "minimum": 0}
    is_file = (kind is Path and action.dest not in _PLACES) or action.dest == "scans"
    return {**content, "type": "File" if is_file else "String"}
