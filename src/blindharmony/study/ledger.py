"""What is done: one small file for each scan, written after its results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindharmony.image import parse_json, write_sidecar

FOLDER = ".blindharmony"


@dataclass(frozen=True)
class Ledger:
    """The records of an output folder.

    Attributes:
        out: The output folder.
    """

    out: Path

    @property
    def home(self) -> Path:
        """Where records, intermediate results and the lock are."""
        return self.out / FOLDER

    def scan(self, scan_id: str) -> Path:
        """The folder of one scan's record and summaries."""
        return self.home / "scans" / scan_id

    def summary(self, scan_id: str, stage: int, key: str) -> Path:
        """The summary of a scan in a round of fitting."""
        return self.scan(scan_id) / f"round{stage + 1}.{key}.safetensors"

    def scanner(self, key: str) -> Path:
        """A fitted scanner."""
        return self.home / "scanners" / f"{key}.json"

    def note(self, key: str) -> dict[str, Any] | None:
        """What the fit of a scanner said, if it is finished."""
        return read_json(note_path(self.scanner(key))) if self.scanner(key).exists() else None

    def staging(self, run: str, scan_id: str) -> Path:
        """Where a run writes a scan's results before they get their names."""
        return self.home / "staging" / run / scan_id

    def record(self, scan_id: str) -> dict[str, Any] | None:
        """A scan's record, None if there is none or it is damaged."""
        return read_json(record_path(self.scan(scan_id)))

    def write(self, scan_id: str, record: Mapping[str, Any]) -> None:
        """Replace a scan's record.

        Raises:
            OutputError: If it cannot be written.
        """
        write_sidecar(record_path(self.scan(scan_id)), record, overwrite=True)

    def whole(self, record: Mapping[str, Any]) -> bool:
        """Whether all results of a record are there with the size they had."""
        return all(_size(self.out / place) == size for place, size in record.get("outputs", {}).items())

    def finished(self, scan_id: str) -> bool:
        """Whether a scan is done and all its results are there."""
        record = self.record(scan_id)
        return record is not None and record.get("status") == "done" and self.whole(record)

    def sweep(self) -> None:
        """Remove what runs that were killed left unfinished. Only for the holder of the lock."""
        shutil.rmtree(self.home / "staging", ignore_errors=True)
        # Only a writer that died leaves its temporary file.
        for left in self.home.rglob(".*.tmp*"):
            left.unlink(missing_ok=True)
        for left in self.out.glob(".*.tmp*"):
            left.unlink(missing_ok=True)


def record_path(folder: Path) -> Path:
    """The record in a scan's folder."""
    return folder / "record.json"


def note_path(scanner: Path) -> Path:
    """What a fit said, beside the scanner it fitted."""
    return scanner.with_suffix(".note.json")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of any size (a plan grows with its cohort), None if it is not there or is none."""
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
