"""``blindharmony export``: a target model, or the command itself, in the form that other programs run.

A target becomes a MONAI bundle (:mod:`blindharmony.integrations.bundle`). The commands ``harmonize`` and ``bids``
become Boutiques descriptors (:func:`descriptor`), made from their own grammar and so from the settings: Boutiques,
CBRAIN and Nipoppy run tools by such files. A folder for Nipoppy (:func:`nipoppy_files`) has one and what Nipoppy asks
beside it.
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

A Boutiques descriptor says what 'blindharmony harmonize' (or bids) takes and gives, for programs that run tools by such
files:

  bosh exec launch harmonize.json invocation.json

A Nipoppy pipeline is a folder that 'nipoppy pipeline install' takes.

examples:
  blindharmony export ds002748 --monai-bundle bundle
  blindharmony export mysite.safetensors --monai-bundle bundle
  blindharmony export --boutiques harmonize.json
  blindharmony export --boutiques bids.json --verb bids
  blindharmony export --nipoppy pipeline
"""


_VERBS = ("harmonize", "bids")


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "export",
        help="write a target model as a MONAI bundle, or the command for Boutiques or Nipoppy",
        description="Write a target model, or the command itself, in the form that other programs run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("target", nargs="?", metavar="TARGET", help="model file or included name, for a bundle")
    p.add_argument("--monai-bundle", type=Path, metavar="DIR", help="folder for the bundle")
    p.add_argument("--boutiques", type=Path, metavar="FILE", help="file for the descriptor (.json)")
    p.add_argument("--verb", choices=_VERBS, default=_VERBS[0], help="what the descriptor is of (default: %(default)s)")
    p.add_argument("--nipoppy", type=Path, metavar="DIR", help="folder for a Nipoppy pipeline")
    p.add_argument("--overwrite", action="store_true", help="replace what is there")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write bundle, descriptor or pipeline, and say how to run it."""
    ways = [arguments.monai_bundle, arguments.boutiques, arguments.nipoppy]
    if sum(way is not None for way in ways) != 1:
        raise UsageError(
            "nothing says what to write, or more than one option does",
            remedy="give --monai-bundle DIR, --boutiques FILE or --nipoppy DIR",
        )
    if bool(arguments.target) != bool(arguments.monai_bundle):
        what = "a bundle needs a target model" if arguments.monai_bundle else "only a bundle has a target model"
        raise UsageError(what, remedy="write export TARGET --monai-bundle DIR, or export --boutiques FILE")
    if arguments.verb != _VERBS[0] and not arguments.boutiques:
        raise UsageError("--verb is for a descriptor", remedy="use --boutiques FILE with it")
    if arguments.monai_bundle:
        from blindharmony.integrations.bundle import write_bundle

        folder = write_bundle(arguments.target, arguments.monai_bundle, overwrite=arguments.overwrite)
        screen.result(str(folder))
        screen.note(f"how to run it: {folder / 'docs' / 'README.md'}")
        return 0
    from blindharmony.cli.main import parser

    known = grammars(parser())
    if arguments.boutiques:
        files = {arguments.boutiques: descriptor(known[arguments.verb], arguments.verb)}
        how = f"bosh exec launch {arguments.boutiques} INVOCATION.json"
    else:
        files = {arguments.nipoppy / name: content for name, content in nipoppy_files(known["bids"]).items()}
        how = f"nipoppy pipeline install {arguments.nipoppy}, then nipoppy process --pipeline blindharmony"
    check_outputs(list(files), [])
    for file, content in files.items():
        write_text(file, json.dumps(content, indent=2) + "\n", overwrite=arguments.overwrite)
    screen.result(str(arguments.boutiques or arguments.nipoppy))
    screen.note(f"how to run it: {how}")
    return 0


# Written, so they need not be there; and what Boutiques cannot say: an option that is repeated with its flag.
_PLACES = {"out", "file", "save_scanner", "output_dir"}
_LEFT_OUT = {"help", "set"}
_OUTPUTS = {
    "harmonize": [
        {"id": "folder", "name": "Results", "path-template": "[OUT]", "optional": True},
        {"id": "scan", "name": "Harmonized scan", "path-template": "[FILE]", "optional": True},
        {"id": "scanner_model", "name": "Fitted scanner", "path-template": "[SAVE_SCANNER]", "optional": True},
    ],
    "bids": [{"id": "folder", "name": "Results", "path-template": "[OUTPUT_DIR]", "optional": True}],
}
_ONE_PLACE = {
    "id": "results",
    "name": "where the results go",
    "members": ["out", "file"],
    "mutually-exclusive": True,
    "one-is-required": True,
}


def descriptor(grammar: argparse.ArgumentParser, verb: str = _VERBS[0]) -> dict[str, Any]:
    """The Boutiques descriptor of a command.

    Args:
        grammar: The command's.
        verb: Its name: ``harmonize`` or ``bids``.

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
        "command-line": " ".join([f"blindharmony {verb}", *keys]),
        "inputs": [_input(action) for action in actions],
        **({"groups": [_ONE_PLACE]} if verb == "harmonize" else {}),
        "output-files": _OUTPUTS[verb],
        "tags": {"domain": ["neuroinformatics", "mri"]},
    }


# A scanner's scans are fitted together: one job has the whole study.
_STEPS = {"harmonize": "participant", "cohort": "group"}
_SUBJECT = "[[NIPOPPY_BIDS_PARTICIPANT_ID]]"
_SESSION = "[[NIPOPPY_BIDS_SESSION_ID]]"


def nipoppy_files(grammar: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    """The files of a Nipoppy pipeline, by name: two steps, the harmonization of a study and the page of the cohort.

    Args:
        grammar: That of ``bids``.

    Source:
        Nipoppy 0.4, schema 1.0 of processing pipelines.
    """
    steps = [
        {
            "NAME": name,
            "ANALYSIS_LEVEL": "group",
            "DESCRIPTOR_FILE": "descriptor.json",
            "INVOCATION_FILE": f"invocation-{name}.json",
            **({"TRACKER_CONFIG_FILE": "tracker.json"} if name == "harmonize" else {}),
            "HPC_CONFIG_FILE": "hpc.json",
            "GENERATE_PYBIDS_DATABASE": False,
        }
        for name in _STEPS
    ]
    places = {"bids_dir": "[[NIPOPPY_DPATH_BIDS]]", "output_dir": "[[NIPOPPY_DPATH_PIPELINE_OUTPUT]]"}
    asked = {"participant": {"target": "ds002748", "skip_bids_validation": True}, "group": {}}
    visit = f"{_SUBJECT}/{_SESSION}"
    result = f"{visit}/anat/{_SUBJECT}_{_SESSION}*_desc-harmonized_T1w"
    return {
        "config.json": {
            "NAME": "blindharmony",
            "VERSION": VERSION,
            "DESCRIPTION": "Blind harmonization of MR scans",
            "PIPELINE_TYPE": "processing",
            "STEPS": steps,
            "SCHEMA_VERSION": "1.0",
        },
        "descriptor.json": descriptor(grammar, "bids"),
        **{f"invocation-{name}.json": {**places, "level": level, **asked[level]} for name, level in _STEPS.items()},
        "tracker.json": {
            "PATHS": [f"{result}.nii.gz", f"{result}.json"],
            "PARTICIPANT_SESSION_DIR": visit,
            "SCHEMA_VERSION": "1.0",
        },
        "hpc.json": {"ACCOUNT": "[[HPC_ACCOUNT_NAME]]", "TIME": "24:00:00", "CORES": "8", "MEMORY": "24G"},
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
    if kind in (int, float):
        return {**content, "type": "Number", "integer": kind is int}
    is_file = (kind is Path and action.dest not in _PLACES) or action.dest == "scans"
    return {**content, "type": "File" if is_file else "String"}
