"""Find the files of a run again, by their names and hashes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from blindharmony.errors import InputError
from blindharmony.image import file_sha256, parse_json, read_text
from blindharmony.record import BIDS_RAW, Named

_FOLDERS_UP = 4


def places_for(sidecar: Path, inputs: Sequence[Path]) -> list[Path]:
    """Files that may belong to a run: in ``inputs`` with their subfolders, then near its sidecar.

    Raises:
        InputError: If one of ``inputs`` does not exist.
    """
    return [*(f for item in inputs for f in _files(item)), *_near(sidecar)]


def find_input(wanted: Named, what: str, places: Sequence[Path], sidecar: Path) -> Path:
    """The file with this name and hash.

    Raises:
        InputError: If there is none of this name, or none of them has the hash.
    """
    found = [place for place in places if place.name == wanted.name and place.is_file()]
    for file in found:
        if file_sha256(file) == wanted.sha256:
            return file
    included = Path(__file__).parent / "cli" / "assets" / wanted.name  # the demo's scan, wherever its result is
    if not found and included.is_file() and file_sha256(included) == wanted.sha256:
        return included
    if found:
        raise InputError(
            f"this {what} has changed: its SHA-256 begins with {file_sha256(found[0])[:12]}, that of the run's {what} "
            f"with {wanted.sha256[:12]}",
            remedy=f"give the unchanged {what} with --inputs",
            path=found[0],
        )
    raise InputError(
        f"its {what} {wanted.name} was not found", remedy="name the file or its folder with --inputs", path=sidecar
    )


def in_study(result: Path, source: str) -> list[Path]:
    """Where BIDS derivatives say that a result's scan is; empty if they do not, or it is not there.

    Args:
        result: A file among the derivatives.
        source: What its sidecar names as its source.
    """
    place = source.removeprefix(BIDS_RAW)
    if ".." in Path(place).parts:
        return []
    for folder in list(result.resolve().parents)[:_FOLDERS_UP]:
        try:
            said = parse_json(read_text(folder / "dataset_description.json"))
        except (InputError, ValueError):
            continue
        link = said.get("DatasetLinks", {}).get("raw") if isinstance(said, dict) else None
        if isinstance(link, str) and (file := folder / link / place).is_file():
            return [file]
    return []


def _near(sidecar: Path) -> Iterator[Path]:
    for folder in (sidecar.parent, sidecar.parent / "converted", sidecar.parent.parent, Path()):
        if folder.is_dir():
            yield from folder.iterdir()


def _files(item: Path) -> Iterator[Path]:
    if not item.exists():
        raise InputError("no such file or folder", remedy="check --inputs", path=item)
    if item.is_file():
        yield item
    for folder, _, names in os.walk(item):
        yield from (Path(folder, name) for name in sorted(names))
