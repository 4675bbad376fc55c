"""The cohort as one HTML page that asks for nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from blindharmony.image import write_text
from blindharmony.report.page import Section, render_page
from blindharmony.study.ledger import Ledger
from blindharmony.study.table import Row

_HEAD = ("scan", "status", "scanner", "verdict", "excess before", "excess after", "change (%)", "seconds", "warnings")


def write_cohort_page(ledger: Ledger, rows: Sequence[Row], title: str) -> Path:
    """Write ``cohort.html``.

    Raises:
        OutputError: If it cannot be written.
    """
    sections = [_summary(rows), _scanners(rows), _problems(rows), _scans(rows)]
    page = render_page(title, "Cohort report", [s for s in sections if s.rows or s.facts])
    return write_text(ledger.out / "cohort.html", page, overwrite=True)


def _summary(rows: Sequence[Row]) -> Section:
    states = Counter(row["status"] for row in rows)
    verdicts = Counter(row["verdict"] for row in rows if row["verdict"])
    before, after = _medians(rows)
    facts = [
        ("scans", str(len(rows))),
        *((state, str(count)) for state, count in sorted(states.items())),
        *((f"verdict '{level}'", str(verdicts[level])) for level in ("good", "caution", "poor") if verdicts[level]),
        ("median excess before and after", f"{before} and {after}"),
        ("computing time", f"{sum(r['seconds'] or 0 for r in rows) / 3600:.1f} h"),
    ]
    return Section(
        "In short",
        notes=(
            "Excess is the distance from the target's own unseen scans, in their spreads, at the level of detail where "
            "it is greatest: 0 is typical, above 4 nothing of the target was ever seen.",
        ),
        facts=facts,
    )


def _scanners(rows: Sequence[Row]) -> Section:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault("alone" if row["scanner_scans"] == 1 else row["scanner"], []).append(row)
    cells = []
    for name, members in sorted(groups.items()):
        before, after = _medians(members)
        reasons = sorted({m["why"] for m in members})
        more = f"; and {len(reasons) - 3} reasons more" if len(reasons) > 3 else ""
        cells.append((name, str(len(members)), before, after, "; ".join(reasons[:3]) + more))
    return Section(
        "Scanners",
        notes=("Scans of one scanner are fitted together, so that differences between people are kept.",),
        head=("scanner", "scans", "median excess before", "after", "why these scans"),
        rows=cells,
    )


def _problems(rows: Sequence[Row]) -> Section:
    cells = [(r["scan"], r["status"], str(r["reason"] or "")) for r in rows if r["status"] != "done"]
    return Section("Without a result", head=("scan", "status", "why"), rows=cells)


def _scans(rows: Sequence[Row]) -> Section:
    # What needs a look comes first.
    worst = sorted(rows, key=lambda r: (-(r["excess_after"] if r["excess_after"] is not None else -99), r["scan"]))
    cells = [
        (
            r["scan"],
            r["status"],
            "alone" if r["scanner_scans"] == 1 else r["scanner"],
            r["verdict"] or "–",
            *(_number(r[k]) for k in ("excess_before", "excess_after", "mean_change_percent", "seconds")),
            str(len(r["warnings"])),
        )
        for r in worst
    ]
    return Section("Scans", notes=("The least typical results first.",), head=_HEAD, rows=cells)


def _medians(rows: Sequence[Row]) -> tuple[str, str]:
    before, after = ([r[k] for r in rows if r[k] is not None] for k in ("excess_before", "excess_after"))
    return _median(before), _median(after)


def _median(values: Sequence[float]) -> str:
    ordered, n = sorted(values), len(values)
    return _number((ordered[(n - 1) // 2] + ordered[n // 2]) / 2) if n else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}".replace("-", "−")
