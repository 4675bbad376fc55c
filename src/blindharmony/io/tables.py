"""Tables of a study: ``participants.tsv``, ``*_scans.tsv`` and tables that say which scanner made a scan.

One reader for all: tab-separated text with names in the first line, written by whatever program (UTF-8 with or without
byte order mark, UTF-16, Latin-1; any line ends). Blanks around names and cells do not count, and what stands for a
missing value (:func:`is_missing`) is no value: two scans of unknown scanners have no scanner in common.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from blindharmony.errors import InputError, ScannerError, UsageError
from blindharmony.files import read_text, scan_name
from blindharmony.io.bids import Scan, named

# BIDS writes "n/a"; pandas, R and spreadsheet programs the rest.
_MISSING = frozenset({"", "n/a", "na", "#n/a", "nan", "<na>", "null", "none"})


def is_missing(value: str) -> bool:
    """Whether a cell stands for "not known".

    Example:
        >>> [is_missing(cell) for cell in ("n/a", " NaN", "", "GE")]
        [True, True, True, False]
    """
    return value.strip().lower() in _MISSING


def read_table(path: Path, error: type[InputError] = InputError) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Columns and rows of a table; cells too few are empty, cells too many do not count.

    Args:
        path: The file.
        error: What to raise.

    Raises:
        InputError: If it cannot be read, or a cell is larger than any name.
    """
    try:
        # str.splitlines would also split at marks that older alphabets use as letters.
        text = io.StringIO(read_text(path, error, other_letters=True), newline=None)
        lines = list(csv.reader(text, delimiter="\t"))
    except csv.Error as problem:
        raise error(f"no table ({problem})", remedy="give a text file, tab-separated", path=path) from None
    filled = [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
    if not filled:
        return (), []
    columns = tuple(filled[0])
    return columns, [dict(zip(columns, line + [""] * len(columns), strict=False)) for line in filled[1:]]


def one_value_each(
    pairs: Iterable[tuple[str, str]], path: Path, column: str, error: type[InputError] = InputError
) -> dict[str, str]:
    """The value of each name; missing ones are left out.

    Args:
        pairs: Name and cell of every row.
        path: The table, for the message.
        column: What the cells are.
        error: What to raise.

    Raises:
        InputError: If two rows give one name different values: either could be meant.
    """
    values: dict[str, str] = {}
    for name, value in pairs:
        if name and not is_missing(value) and values.setdefault(name, value) != value:
            raise error(
                f"the table gives {name} two {column}s, '{values[name]}' and '{value}'",
                remedy="leave one row of it",
                path=path,
            )
    return values


def scanner_table(path: Path) -> dict[str, str]:
    """Name of each scan (:func:`~blindharmony.files.scan_name`) → its scanner, empty where the cell is.

    The columns are ``scan``, a file with or without its folders, and ``scanner``.

    Raises:
        ScannerError: If it cannot be read, lacks a column, or gives a scan two scanners.
    """
    columns, rows = read_table(path, ScannerError)
    if not rows or not {"scan", "scanner"} <= set(columns):
        raise ScannerError(
            "the table has no columns 'scan' and 'scanner'", remedy="separate them by tabs, names first", path=path
        )
    # Tables of other machines name folders in their own way.
    pairs = [(scan_name(row["scan"].replace("\\", "/").rstrip("/")), row["scanner"]) for row in rows]
    return dict.fromkeys((scan for scan, _ in pairs if scan), "") | one_value_each(pairs, path, "scanner", ScannerError)


def unmatched(scans: Sequence[str], rows: Mapping[str, str]) -> list[str]:
    """What a table and a list of scans do not have in common, at most one sentence each way.

    Args:
        scans: Names of the scans.
        rows: Names in the table → value.

    Example:
        >>> unmatched(["a.nii", "b.nii"], {"a.nii": "GE", "B.nii": "GE"})
        ['1 row of the table names no scan: B.nii', '1 scan has no row in the table: b.nii']
    """
    without_scan = [name for name in rows if name not in set(scans)]
    without_row = [name for name in scans if name not in rows]
    without_value = [name for name in scans if name in rows and not rows[name]]
    lines = []
    if without_scan:
        rows_name = (
            "1 row of the table names" if len(without_scan) == 1 else f"{len(without_scan)} rows of the table name"
        )
        lines.append(f"{rows_name} no scan: {named(without_scan)}")
    for names, what in ((without_row, "no row in the table"), (without_value, "no value in the table")):
        if names:
            scans_have = "1 scan has" if len(names) == 1 else f"{len(names)} scans have"
            lines.append(f"{scans_have} {what}: {named(names)}")
    return lines


def column_of(root: Path, scans: Sequence[Scan], column: str) -> tuple[dict[str, str], list[str]]:
    """Each scan's value in a column of its ``*_scans.tsv``, else of ``participants.tsv``; missing ones are left out.

    Args:
        root: The data set's folder.
        scans: The scans.
        column: Name of the column.

    Returns:
        A scan's place → value, and what the tables and the scans do not have in common, one sentence each.

    Raises:
        UsageError: If no table has such a column.
        InputError: If a table cannot be read, or gives a participant or a scan two values.
    """
    people_table = root / "participants.tsv"
    columns, people = read_table(people_table) if people_table.exists() else ((), [])
    every_column = set(columns)
    cells = [(_with_sub(row.get("participant_id", "")), row.get(column, "")) for row in people]
    of_person = one_value_each(cells, people_table, column)
    of_scan: dict[str, str] = {}
    tables: set[Path] = set()
    for scan in scans:
        if (table := _scans_table(scan)) in tables or not table.exists():
            continue
        tables.add(table)
        columns, rows = read_table(table)
        every_column |= set(columns)
        below = table.parent.relative_to(root).as_posix()
        of_scan |= one_value_each(
            ((f"{below}/{row.get('filename', '')}", row.get(column, "")) for row in rows), table, column
        )
    if column not in every_column:
        there = ", ".join(sorted(every_column - {"participant_id", "filename", ""})) or "none"
        raise UsageError(f"no table has a column '{column}'", remedy=f"participants.tsv and *_scans.tsv have: {there}")
    values = {s.place: of_scan.get(s.place) or of_person.get(f"sub-{s.words['sub']}", "") for s in scans}
    labels = {place: value for place, value in values.items() if value}
    # Who is in the table and was not asked for is no news: only a participant that has no folder.
    strangers = [name for name, _ in cells if name != "sub-" and not (root / name).is_dir()]
    notes = [f"participants.tsv names participants without a folder: {named(strangers)}"] if strangers else []
    without = [place for place in values if place not in labels]
    if without and labels:
        notes.append(f"no {column} is given for {named(without)}; harmonized alone")
    return labels, notes


def _scans_table(scan: Scan) -> Path:
    names = [f"{k}-{scan.words[k]}" for k in ("sub", "ses") if k in scan.words]
    return scan.path.parent.parent / f"{'_'.join(names)}_scans.tsv"


def _with_sub(label: str) -> str:
    return label if label.startswith("sub-") else f"sub-{label}"
