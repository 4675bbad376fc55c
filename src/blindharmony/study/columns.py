"""A column of the data set's tables, for every scan."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from blindharmony.errors import InputError, UsageError
from blindharmony.study.layout import Scan

Rows = list[dict[str, str]]


def column_of(root: Path, scans: Iterable[Scan], column: str) -> dict[str, str]:
    """Each scan's value in a column of its ``*_scans.tsv``, else of ``participants.tsv``; missing values are left out.

    Args:
        root: The data set's folder.
        scans: The scans.
        column: Name of the column.

    Raises:
        UsageError: If no table has such a column.
        InputError: If a table cannot be read.
    """
    people = _rows(root / "participants.tsv")
    of_person = {_with_sub(row.get("participant_id", "")): row.get(column, "") for row in people}
    seen = {name for row in people[:1] for name in row if name}
    tables: dict[Path, Mapping[str, str]] = {}
    found: dict[str, str] = {}
    for scan in scans:
        table = _table(scan)
        if table not in tables:
            rows = _rows(table)
            seen |= {name for row in rows[:1] for name in row if name}
            below = table.parent.relative_to(root).as_posix()
            tables[table] = {f"{below}/{row.get('filename', '')}": row.get(column, "") for row in rows}
        values = (tables[table].get(scan.place, ""), of_person.get(f"sub-{scan.words['sub']}", ""))
        value = next((v.strip() for v in values if v and v.strip() not in ("", "n/a")), "")
        if value:
            found[scan.place] = value
    if column not in seen:
        there = ", ".join(sorted(seen - {"participant_id", "filename"})) or "none"
        raise UsageError(f"no table has a column '{column}'", remedy=f"participants.tsv and *_scans.tsv have: {there}")
    return found


def _table(scan: Scan) -> Path:
    names = [f"{k}-{scan.words[k]}" for k in ("sub", "ses") if k in scan.words]
    return scan.path.parent.parent / f"{'_'.join(names)}_scans.tsv"


def _with_sub(label: str) -> str:
    return label if label.startswith("sub-") else f"sub-{label}"


def _rows(path: Path) -> Rows:
    if not path.exists():
        return []
    try:
        # Spreadsheet programs begin their UTF-8 files with a mark.
        return list(csv.DictReader(path.read_text("utf-8-sig").splitlines(), delimiter="\t", restval="", restkey=""))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise InputError("cannot be read", remedy="give a text file, tab-separated", path=path) from None
