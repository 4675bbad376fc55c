"""Finished files get their names: all staged first, then moved, then recorded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blindharmony.errors import OutputError
from blindharmony.image import write_sidecar
from blindharmony.study.ledger import read_json, record_path


def publish(staged: Path, out: Path, folder: str, home: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Move all files of a folder to their place and write the scan's record, which makes them count.

    Killed in between, some files are there that the record (none, or that of an earlier run) does not describe: the
    next run sees it by their sizes or by what they were made of, and writes them again. The move itself is atomic, so
    no name ever stands for half a file.

    Args:
        staged: Folder of finished files, on the output's own disk.
        out: The output folder.
        folder: Place of the files below it.
        home: The scan's folder in the ledger.
        record: What the record says besides the outputs.

    Returns:
        The record as written.

    Raises:
        OutputError: If ``folder`` leads out of ``out``, or the disk does not take the files.
    """
    place = inside(out, folder)
    old = read_json(record_path(home)) or {}
    outputs = {}
    try:
        place.mkdir(parents=True, exist_ok=True)
        # JSON last: where the sidecar is, everything is.
        for file in sorted(staged.iterdir(), key=lambda f: (f.suffix == ".json", f.name)):
            outputs[f"{folder}/{file.name}"] = file.stat().st_size
            file.replace(place / file.name)
        _settle(place)
    except OSError as error:
        what = f"the results cannot be moved to their place ({error.strerror})"
        raise OutputError(what, remedy="check the output folder and run again", path=place) from error
    whole = {**record, "outputs": outputs}
    write_sidecar(record_path(home), whole, overwrite=True)
    remove(out, [p for p in old.get("outputs", {}) if p not in outputs])
    shutil.rmtree(staged, ignore_errors=True)
    return whole


def inside(out: Path, folder: str) -> Path:
    """A place below the output folder, links followed.

    Raises:
        OutputError: If it is not below it.
    """
    place, root = (out / folder).resolve(), out.resolve()
    if not place.is_relative_to(root) or place == root:
        raise OutputError("leads out of the output folder", remedy="remove the link", path=out / folder)
    return out / folder


def remove(out: Path, places: list[str]) -> None:
    """Remove results that no longer belong to their scan; only names below the output folder."""
    for place in places:
        file = out / place
        if file.parent.resolve().is_relative_to(out.resolve()):
            file.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    # After a power cut a record must not stand for moves that the disk has forgotten.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
