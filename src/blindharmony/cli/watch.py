"""``blindharmony watch``: whether a scanner changed, from the results of its scans in order of date."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.cli.console import Screen, counted
from blindharmony.cli.options import add_shared
from blindharmony.errors import InputError, NothingFoundError, UsageError
from blindharmony.files import entities, parse_json, read_text, write_text
from blindharmony.io.tables import is_missing, read_table
from blindharmony.quality.drift import Change, changes, usual
from blindharmony.quality.metrics import WATCHED
from blindharmony.report.charts import Band, Dots, Line, chart
from blindharmony.report.html import asset_text, page_environment
from blindharmony.study.ledger import Ledger

_EPILOG = """\
What is followed, of every scan as it came: contrast of gray and of fluid to white matter, smoothness, and shading.
RESULTS is an output folder of 'harmonize' or 'bids'. Dates come from

  --dates STUDY    a BIDS study with scans.tsv (column acq_time)
  --dates TABLE    a tab-separated table: filename, or participant_id [and session_id]; acq_time; scanner, if there are
                   several

Without dates the scans are taken in order of their names, and that is said. Dates that were shifted to hide them serve
as well, if all of a scanner were shifted alike. Scanners are those of the table's column, else those that 'bids' found.
A change is certain after about ten scans, sooner if it is large. Five scans are needed before the first.

examples:
  blindharmony watch out --dates study
  blindharmony watch study/derivatives/blindharmony --dates study --out watch.html
  blindharmony watch out --dates dates.tsv --json
"""
_TIMES = ("acq_time", "date", "acquisition_time", "acquisition_date")
_STYLES = ("style.css", "charts.css", "page.css", "watch.css")
_ONE = "all scans"


@dataclass(frozen=True)
class DatedScan:
    """A scan of a scanner.

    Attributes:
        name: Of its file.
        scanner: That made it.
        date: When, if known.
        figures: Watched measure → value.
    """

    name: str
    scanner: str
    date: datetime | None
    figures: Mapping[str, float]

    @property
    def day(self) -> str:
        """The date in words, else the name."""
        return f"{self.date:%Y-%m-%d}" if self.date else self.name


@dataclass(frozen=True)
class Watched:
    """A scanner, its scans in order of date, and what changed."""

    scanner: str
    scans: Sequence[DatedScan]
    changes: Sequence[Change] = field(default_factory=tuple)

    def values(self, measure: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """One measure of all scans, NaN where it is not known."""
        return np.array([scan.figures.get(measure, np.nan) for scan in self.scans], np.float64)

    @property
    def order(self) -> str:
        """What the scans are in order of."""
        dated = sum(scan.date is not None for scan in self.scans)
        return "date" if dated == len(self.scans) else "date, then of name" if dated else "name: no date is known"

    def sentence(self, change: Change) -> str:
        """A change with its days."""
        since, certain = self.scans[change.at], self.scans[change.noticed]
        return f"since {since.day}: {change.sentence.replace(' before', '', 1)}; certain at {certain.day}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "scanner": self.scanner,
            "scans": len(self.scans),
            "first": self.scans[0].day,
            "last": self.scans[-1].day,
            "changes": [
                {
                    "measure": change.measure,
                    "since": self.scans[change.at].name,
                    "day": self.scans[change.at].day,
                    "certain_at": self.scans[change.noticed].name,
                    "before": round(change.before, 5),
                    "after": round(change.after, 5),
                    "size_sd": round(change.size, 2) if np.isfinite(change.size) else None,
                }
                for change in self.changes
            ],
        }


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "watch",
        help="say whether a scanner changed",
        description="Say whether a scanner changed, from the results of its scans in order of date.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", type=Path, metavar="RESULTS", help="output folder of harmonize or bids")
    p.add_argument("--dates", type=Path, metavar="STUDY|TABLE", help="when the scans were made")
    p.add_argument("--out", type=Path, metavar="FILE.html", help="write a page with a chart of every measure")
    p.add_argument(
        "--false-alarms",
        type=float,
        default=0.05,
        metavar="P",
        help="probability of a false alarm within a hundred scans of a scanner (%(default)s)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the page")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output, for machines")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Say of each scanner what changed."""
    if not 0 < arguments.false_alarms < 1:
        raise UsageError(
            f"--false-alarms is {arguments.false_alarms:g}, not between 0 and 1", remedy="0.05 is one scanner in twenty"
        )
    scanners = watched(arguments.folder, arguments.dates, rate=arguments.false_alarms)
    undated = sum(scan.date is None for one in scanners for scan in one.scans)
    if undated:
        total = sum(len(one.scans) for one in scanners)
        screen.problem(f"{undated} of {counted(total)} without a date: taken in order of their names, after the others")
    if arguments.out:
        write_text(arguments.out, page(scanners, arguments.folder.resolve().name), overwrite=arguments.overwrite)
        screen.note(f"charts: {arguments.out}")
    if arguments.json:
        screen.result(json.dumps({"scanners": [one.as_json() for one in scanners]}, indent=2))
        return 0
    for one in scanners:
        screen.result(f"{one.scanner}: {counted(len(one.scans))}, {one.scans[0].day} to {one.scans[-1].day}")
        for line in [one.sentence(change) for change in one.changes] or ["no change"]:
            screen.result(f"  {line}")
    return 0


def watched(folder: Path, dates: Path | None, *, rate: float = 0.05) -> list[Watched]:
    """Every scanner of a folder of results, largest first.

    Args:
        folder: Output of ``harmonize`` or ``bids``.
        dates: BIDS study with ``scans.tsv``, or a table.
        rate: Probability of a false alarm within a hundred scans of a scanner.

    Raises:
        NothingFoundError: If there is no result that has what is followed.
        InputError: If a table cannot be read, or a date in it is none.
    """
    rows, named = _dates(dates) if dates else {}, _scanners(folder)
    groups: dict[str, list[DatedScan]] = {}
    for name, figures in _results(folder):
        date, scanner = next((rows[key] for key in _keys(name) if key in rows), (None, ""))
        scanner = scanner or named.get(name) or _ONE
        groups.setdefault(scanner, []).append(DatedScan(name, scanner, date, figures))
    if not groups:
        raise NothingFoundError(
            "no result here has the numbers that are followed",
            remedy="name the output folder of 'harmonize' or 'bids'; results of versions before 0.2 do not have them",
            path=folder,
        )
    out = []
    for scanner, scans in groups.items():
        scans.sort(key=lambda s: (s.date is None, s.date or datetime.min, s.name))
        one = Watched(scanner, scans)
        columns = {name: one.values(name) for name in WATCHED}
        shifts = changes({n: c for n, c in columns.items() if np.isfinite(c).any()}, rate=rate)
        out.append(Watched(scanner, scans, shifts))
    return sorted(out, key=lambda one: (-len(one.scans), one.scanner))


def _results(folder: Path) -> Iterable[tuple[str, dict[str, float]]]:
    """Name of each scan that was harmonized, and its watched figures."""
    if not folder.is_dir():
        raise InputError(
            "there is no such folder", remedy="name the output folder of 'harmonize' or 'bids'", path=folder
        )
    for file in sorted(folder.rglob("*desc-harmonized*.json")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue  # of a run that goes on, or was ended by force
        try:
            content = parse_json(read_text(file, InputError))
        except ValueError as error:
            what = f"this sidecar is damaged ({str(error)[:120]})"
            raise InputError(what, remedy="harmonize its scan again, or remove it", path=file) from None
        figures = content.get("Figures") if isinstance(content, Mapping) else None
        if not isinstance(figures, Mapping):
            continue
        values = {name: float(figures[name]) for name in WATCHED if isinstance(figures.get(name), int | float)}
        sources = content.get("Sources")
        if values and isinstance(sources, list) and sources:
            yield str(sources[0]).rpartition("/")[2].rpartition(":")[2], values


def _keys(name: str) -> list[str]:
    """What a row may call a scan: its file, its person's session, its person."""
    words = entities(name)
    person = f"sub-{words['sub']}" if "sub" in words else name
    return [name, *([f"{person}/ses-{words['ses']}"] if "ses" in words else []), person]


def _dates(place: Path) -> dict[str, tuple[datetime | None, str]]:
    """Key of a scan → its date and scanner."""
    tables = sorted(place.rglob("*_scans.tsv")) if place.is_dir() else [place]
    if not tables:
        raise InputError(
            "this study has no scans.tsv",
            remedy="give a table with participant_id (or filename) and acq_time",
            path=place,
        )
    rows: dict[str, tuple[datetime | None, str]] = {}
    for table in tables:
        columns, lines = read_table(table)
        time = next((c for c in _TIMES if c in columns), None)
        if time is None or not {"filename", "participant_id"} & set(columns):
            raise InputError(
                f"this table has the columns {', '.join(columns) or 'none'}",
                remedy="it needs filename (or participant_id) and acq_time",
                path=table,
            )
        for row in lines:
            if not (row.get("filename") or row.get("participant_id")):
                continue  # it names no scan
            rows[_key_of(row)] = (_date(row[time], table), "" if is_missing(row.get("scanner", "")) else row["scanner"])
    return rows


def _key_of(row: Mapping[str, str]) -> str:
    if row.get("filename"):
        return row["filename"].rpartition("/")[2]
    person = f"sub-{row['participant_id'].removeprefix('sub-')}"
    session = row.get("session_id", "")
    return person if is_missing(session) else f"{person}/ses-{session.removeprefix('ses-')}"


def _date(text: str, table: Path) -> datetime | None:
    if is_missing(text):
        return None
    try:
        # Times of one scanner are compared with each other: in whichever zone.
        return datetime.fromisoformat(text.strip()).replace(tzinfo=None)
    except ValueError:
        raise InputError(f"'{text[:40]}' is no date", remedy="write dates as 2026-05-31", path=table) from None


def _scanners(folder: Path) -> dict[str, str]:
    """Name of a scan → its scanner, as ``bids`` found them; nothing where every scan is on its own."""
    tables = (Ledger(folder).table("cohort"), folder / "cohort.tsv")  # the second: of version 0.1
    table = next((table for table in tables if table.is_file()), None)
    if table is None:
        return {}
    columns, rows = read_table(table)
    if not {"scan", "scanner"} <= set(columns):
        return {}
    names = {row["scan"].rpartition("/")[2]: row["scanner"] for row in rows if not is_missing(row["scanner"])}
    return names if len(set(names.values())) < len(names) else {}


def page(scanners: Sequence[Watched], title: str) -> str:
    """The page; equal input gives equal text."""
    return (
        page_environment()
        .get_template("watch.html")
        .render(
            title=title,
            scanners=[
                {"watched": one, "charts": [_chart(one, name) for name in WATCHED if _has(one, name)]}
                for one in scanners
            ],
            style=asset_text(*_STYLES),
        )
    )


def _has(one: Watched, measure: str) -> bool:
    return bool(np.isfinite(one.values(measure)).any())


def _chart(one: Watched, measure: str) -> Any:
    """Every scan as a point, over what was usual since the last change."""
    values, shifts = one.values(measure), [c for c in one.changes if c.measure == measure]
    number = np.arange(1, len(values) + 1, dtype=np.float64)
    marks: list[Any] = []
    for first, last, mean, spread in usual(values, shifts):
        at = np.array([first + 0.6, last + 1.4])
        marks += [Band(at, np.full(2, mean - 2 * spread), np.full(2, mean + 2 * spread), "target")]
        marks += [Line(at, np.full(2, mean), "target")]
    labels = [f"{scan.name}, {scan.day}: {value:.3g}" for scan, value in zip(one.scans, values, strict=True)]
    changed = {change.at for change in shifts}
    styles = ["poor" if index in changed else "" for index in range(len(values))]
    words = measure.replace(" before", "", 1)
    return chart(
        *marks,
        Dots(number, values, styles, labels),
        label=f"{words} of {len(values)} scans of {one.scanner}, in order of {one.order}",
        x_label=f"Scan, in order of {one.order}",
        y_label=words[0].upper() + words[1:],
        x_range=(0.5, len(values) + 0.5),
    )
