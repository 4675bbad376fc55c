"""``blindharmony verify``: whether the results in a folder are still what was written.

Each result has a record with the SHA-256 of its files: in a study the record of its scan (``OUT/.blindharmony``),
elsewhere the sidecar beside it. :func:`verified` reads every file and compares.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared
from blindharmony.errors import InputError, NothingFoundError
from blindharmony.files import IMAGE_EXTENSIONS, parse_json, read_text, sidecar_name, split_name
from blindharmony.study.ledger import Ledger, file_state

_EPILOG = """\
A result is a harmonized scan with what lies beside it: brain mask, sidecar, report. It is

  intact      every file is as it was written
  changed     a file has another content, or its sidecar cannot be read
  missing     a file, or the sidecar, is not there
  no record   an earlier version wrote it and kept no hashes: nothing can be said

The sidecar of a study's result is checked too; beside single scans it is what the others are compared with. The
fitted scanners of a study are named where one is changed or missing.
Exit code 1 if a result is changed or missing. 'bids' makes such results again; 'harmonize' does with --overwrite.

examples:
  blindharmony verify out
  blindharmony verify study/derivatives/blindharmony --json
"""

INTACT, CHANGED, MISSING, NO_RECORD = "intact", "changed", "missing", "no record"
_RESULT = "desc-harmonized"


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "verify",
        help="check that results are still what was written",
        description="Compare every result in a folder, and below it, with the hashes in its record.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of harmonize or bids")
    p.add_argument("--json", action="store_true", help="for machines: one JSON object a result, a line each")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Say of each result how it is, then how many are how."""
    results = verified(arguments.folder)
    counts = Counter(result.status for result in results)
    for result in results:
        if arguments.json:
            screen.result(json.dumps({"result": result.name, "status": result.status, "files": result.problems}))
        else:
            (screen.note if result.status == INTACT else screen.problem)(str(result))
    if arguments.json:
        states = {s.replace(" ", "_"): counts[s] for s in (INTACT, CHANGED, MISSING, NO_RECORD)}
        screen.result(json.dumps({"status": "end", "results": len(results), **states}))
    else:
        parts = [f"{counts[s]} {s}" for s in (INTACT, CHANGED, MISSING, NO_RECORD) if counts[s]]
        noun = "result" if len(results) == 1 else "results"
        screen.result(f"{arguments.folder}: {len(results)} {noun}: {', '.join(parts)}")
    return int(counts[CHANGED] + counts[MISSING] > 0)


@dataclass(frozen=True)
class Verified:
    """How a result is.

    Attributes:
        name: Its harmonized scan, or sidecar, below the folder.
        status: ``intact``, ``changed``, ``missing`` or ``no record``.
        problems: Name of each file that is not as it was written → ``changed`` or ``missing``.
    """

    name: str
    status: str
    problems: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        details = ", ".join(f"{file} {what}" for file, what in self.problems.items())
        return f"{self.name}: {self.status}" + (f" ({details})" if details else "")


def verified(folder: Path) -> list[Verified]:
    """Read every result in a folder and below it.

    Raises:
        NothingFoundError: If there is no folder, or no result in it.
        InputError: If a folder below it cannot be read.

    Example:
        >>> import tempfile
        >>> from blindharmony.files import file_sha256, write_sidecar, write_text
        >>> out = Path(tempfile.mkdtemp())
        >>> page = write_text(out / "a_desc-harmonized.html", "as it was")
        >>> _ = write_sidecar(out / "a_desc-harmonized.json", {"Results": {page.name: file_sha256(page)}})
        >>> [result.status for result in verified(out)]
        ['intact']
        >>> page.write_text("as it is") and verified(out)[0].problems
        {'a_desc-harmonized.html': 'changed'}
    """
    if not folder.is_dir():
        raise NothingFoundError("no such folder", remedy="give the output folder of a run", path=folder)
    results, recorded = _of_study(Ledger(folder))
    for place in places(folder):
        stem, extension = split_name(place)
        file = folder / place
        if place in recorded:
            continue
        if extension == ".json" and _RESULT in stem.split("_"):
            results.append(by_sidecar(file, place))
        elif _is_result(place) and not os.path.lexists(sidecar := file.with_name(sidecar_name(file))):
            results.append(by_sidecar(sidecar, place))
    if not results:
        raise NothingFoundError("no result of a run is here", remedy="give the output folder of a run", path=folder)
    return sorted(results, key=lambda result: result.name)


def _is_result(place: str) -> bool:
    """Whether this is the name of a harmonized scan."""
    stem, extension = split_name(place)
    return extension.lower() in IMAGE_EXTENSIONS and _RESULT in stem.split("_")


def places(folder: Path) -> Iterator[str]:
    """Files below a folder, without what is hidden."""

    def unreadable(error: OSError) -> None:
        raise InputError(f"cannot be read ({error.strerror})", remedy="check its permissions", path=error.filename)

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name).relative_to(folder).as_posix() for name in names if not name.startswith("."))


def _of_study(ledger: Ledger) -> tuple[list[Verified], set[str]]:
    """Results with a record of a study, and the places of their files."""
    results: list[Verified] = []
    recorded: set[str] = set()
    scanners = set()
    for scan in sorted((ledger.home / "scans").glob("*")):
        record = ledger.record(scan.name) or {}
        if record.get("status") != "done" or not isinstance(record.get("files"), dict) or not record["files"]:
            continue  # an earlier version's: its sidecar may know more
        recorded |= set(record["files"])
        if key := record.get("fingerprint", {}).get("scanner"):
            scanners.add((key, str(record.get("group"))))
        problems = {place.rpartition("/")[2]: what for place, what in ledger.spoiled(record, read=True).items()}
        name = next(filter(_is_result, record["files"]), scan.name)
        results.append(Verified(name, _status(problems), problems))
    for place, what in ledger.spoiled_scanners(scanners).items():
        results.append(Verified(place, what, {place.rpartition("/")[2]: what}))
    return results, recorded


def by_sidecar(sidecar: Path, name: str) -> Verified:
    """A result by what its sidecar says.

    Args:
        sidecar: The JSON file.
        name: What the result is called if the sidecar does not say it.
    """
    if not os.path.lexists(sidecar):
        # It is written last: a run was killed here, or somebody has removed it.
        return Verified(name, MISSING, {sidecar.name: MISSING})
    try:
        content = parse_json(read_text(sidecar))
        hashes = content.get("Results", {})
        named = {file: digest for file, digest in hashes.items() if "/" not in file}
    except (InputError, ValueError, AttributeError):
        return Verified(name, CHANGED, {sidecar.name: CHANGED})
    if not named:
        return Verified(name, NO_RECORD)
    problems = {}
    for file, digest in named.items():
        state = file_state(sidecar.with_name(file))
        if state is None or state[-1] != digest:
            problems[file] = CHANGED if os.path.lexists(sidecar.with_name(file)) else MISSING
    image = next(filter(_is_result, named), sidecar.name)
    return Verified(Path(name).with_name(image).as_posix(), _status(problems), problems)


def _status(problems: Mapping[str, str]) -> str:
    return INTACT if not problems else CHANGED if CHANGED in problems.values() else MISSING
