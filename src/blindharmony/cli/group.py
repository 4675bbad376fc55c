"""The scans of one scanner, fitted together before each is harmonized."""

from __future__ import annotations

import argparse
import csv
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blindharmony.cli.console import Screen
from blindharmony.errors import OutputError, ScannerError, UsageError
from blindharmony.image import read_text
from blindharmony.study.sizes import kept_gb, largest

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.harmonization.summary import ScanSummary
    from blindharmony.target import Target

# About 300 scans of 1 mm; a larger group is prepared again for each look, as with 'bids --scratch-gb'.
_MOST_GB = 50


def add_options(p: argparse.ArgumentParser) -> None:
    """Options about scans that share a scanner."""
    p.add_argument(
        "--group",
        action="store_true",
        help="the scans share one scanner and sequence: fit one curve to all, which keeps differences between people",
    )
    p.add_argument(
        "--group-table",
        type=Path,
        metavar="TSV",
        help="several scanners: a table with columns 'scan' (file name) and 'scanner'; the rest goes one by one",
    )
    p.add_argument(
        "--save-scanner",
        type=Path,
        metavar="FILE",
        help="keep the fitted scanner for later scans (.json); with --group-table a folder",
    )
    p.add_argument("--scanner", type=Path, metavar="FILE", help="use a scanner fitted before: scan by scan later on")


def check(arguments: argparse.Namespace) -> None:
    """Refuse combinations that make no sense, before any work.

    Raises:
        UsageError: If options contradict each other.
        OutputError: If the scanner file exists already.
    """
    together = bool(arguments.group or arguments.group_table)
    if sum(map(bool, (arguments.group, arguments.group_table, arguments.scanner))) > 1:
        raise UsageError("--group, --group-table and --scanner exclude each other", remedy="use one of them")
    if arguments.save_scanner and not together:
        raise UsageError("--save-scanner needs several scans to fit", remedy="add --group")
    if (together or arguments.scanner) and arguments.method != "curve":
        raise UsageError(f"the method '{arguments.method}' has no scanner model", remedy="use --method curve")
    if arguments.save_scanner and arguments.group:
        _not_there(arguments.save_scanner, arguments)


def groups_of(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, list[Path]]:
    """Scanner's name → its scans; empty if scans go one by one.

    Raises:
        ScannerError: If the table cannot be read or lacks a column.
        OutputError: If a scanner's file exists already.
    """
    if arguments.group:
        return {"": paths}
    if not arguments.group_table:
        return {}
    scanner_of = _table(arguments.group_table)
    found: dict[str, list[Path]] = {}
    for path in paths:
        if name := scanner_of.get(path.name, ""):
            found.setdefault(name, []).append(path)
    if not found:
        raise ScannerError(
            "none of the scans is in this table",
            remedy="give the scans' file names in its column 'scan'",
            path=arguments.group_table,
        )
    files = Counter(_safe(name) for name in found)
    if arguments.save_scanner and (twice := [name for name in found if files[_safe(name)] > 1]):
        raise ScannerError(
            f"the scanners {' and '.join(twice[:2])} would be written to one file",
            remedy="give them names that differ in letters or digits",
            path=arguments.group_table,
        )
    for name in found if arguments.save_scanner else ():
        _not_there(_scanner_file(arguments, name), arguments)
    return found


def _scanner_file(arguments: argparse.Namespace, name: str) -> Path:
    """Where a fitted scanner is kept: the file that was named, or one of a table's in the folder that was named."""
    kept: Path = arguments.save_scanner
    return kept / f"{_safe(name)}.json" if name else kept


def _not_there(file: Path, arguments: argparse.Namespace) -> None:
    if file.exists() and not arguments.overwrite:
        raise OutputError("exists already", remedy="pass --overwrite or choose another name", path=file)


def _table(path: Path) -> Mapping[str, str]:
    try:
        rows = list(csv.DictReader(read_text(path, ScannerError).splitlines(), delimiter="\t"))
    except csv.Error as error:
        raise ScannerError(f"no table ({error})", remedy="give a text file, tab-separated", path=path) from None
    if not rows or not {"scan", "scanner"} <= set(rows[0]):
        raise ScannerError(
            "the table has no columns 'scan' and 'scanner'", remedy="separate them by tabs, names first", path=path
        )
    found: dict[str, str] = {}
    for row in rows:
        scan, scanner = Path(row["scan"] or "").name, (row["scanner"] or "").strip()
        if found.setdefault(scan, scanner) != scanner:
            raise ScannerError(
                f"the table gives {scan} two scanners", remedy="name every scan once (file names count)", path=path
            )
    return found


@contextmanager
def prepared_scans(out: Path, paths: list[Path]) -> Iterator[Path | None]:
    """A folder for prepared scans, so that each is prepared once; None if they would take too much of the disk."""
    cache = out / ".prepared"
    try:
        yield cache if kept_gb(largest(paths)) * len(paths) <= _MOST_GB else None
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def fitted_scanners(
    arguments: argparse.Namespace,
    groups: dict[str, list[Path]],
    masks: dict[Path, Path],
    target: Target,
    cache: Path | None,
    screen: Screen,
) -> dict[Path, ScannerModel]:
    """Look at every scan of every group, then fit one scanner model to each group.

    A scan that cannot be prepared is left out here and reported when its turn comes to be harmonized.
    """
    from blindharmony.group import fitted_in_rounds

    found: dict[Path, ScannerModel] = {}
    for name, members in groups.items():
        called = f"scanner {name}" if name else "one scanner"
        scanner = fitted_in_rounds(partial(_looked_at, arguments, members, masks, target, cache, screen), target)
        if scanner is None:
            continue
        screen.note(f"fitted {called} to {scanner.rounds[0].scans} scans")
        if scanner.rounds[0].scans == 1:
            screen.problem(f"blindharmony: warning: {called} has one scan, which is no better than the scan alone")
        if arguments.save_scanner:
            file = _scanner_file(arguments, name)
            scanner.save(file, overwrite=arguments.overwrite)
            (screen.note if arguments.json else screen.result)(str(file))
        found |= dict.fromkeys(members, scanner)
    return found


def _looked_at(
    arguments: argparse.Namespace,
    paths: list[Path],
    masks: dict[Path, Path],
    target: Target,
    cache: Path | None,
    screen: Screen,
    scanner: ScannerModel | None,
) -> list[ScanSummary]:
    from blindharmony.group import summarize_scan

    found = []
    with screen.progress("looking at the group", lines=True) as stage:
        for index, path in enumerate(paths):
            look = ("first", "second", "third")[len(scanner.rounds) if scanner else 0]
            stage(f"{look} look at {path.name}", index / len(paths))
            try:
                found.append(
                    summarize_scan(
                        path,
                        target,
                        scanner=scanner,
                        mask=masks.get(path),
                        mask_command=arguments.mask_command,
                        device=arguments.device,
                        cache=cache,
                    )
                )
            except (UsageError, OutputError):
                raise
            except Exception:
                if arguments.debug:
                    raise
                continue  # it will be reported when its turn comes
    return found


def _safe(name: str) -> str:
    """A scanner's name as a file name.

    Example:
        >>> _safe("../Site A/3T")
        'Site-A-3T'
    """
    return (
        "-".join("".join(c if c.isalnum() or c in "_.+" else " " for c in name).replace("..", " ").split()).strip(".")
        or "scanner"
    )
