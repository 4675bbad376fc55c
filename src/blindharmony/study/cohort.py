"""A cohort in short: what a reader should know first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blindharmony.study.outliers import outliers, severity
from blindharmony.study.table import Row

_REASONS = 3


@dataclass(frozen=True)
class Scanner:
    """Scans that were fitted together.

    Attributes:
        name: Of the group; ``alone`` for all scans that were harmonized by themselves.
        scans: How many.
        before: Median distance from the target before, if known.
        after: Median distance after.
        why: What the scans share, or why they are alone.
    """

    name: str
    scans: int
    before: float | None
    after: float | None
    why: str


@dataclass(frozen=True)
class Cohort:
    """Everything the page says.

    Attributes:
        total: Scans of all runs.
        done: Rows with a result, outliers first.
        missing: Rows without one.
        outliers: Scan's place → why to look at it.
        before: Median distance from the target before.
        after: Median distance after.
        verdicts: Level → scans.
        scanners: Largest first.
        hours: Computing time.
    """

    total: int
    done: Sequence[Row]
    missing: Sequence[Row]
    outliers: Mapping[str, Sequence[str]]
    before: float | None
    after: float | None
    verdicts: Mapping[str, int]
    scanners: Sequence[Scanner]
    hours: float

    @property
    def level(self) -> str:
        """``poor`` if scans have no result, ``caution`` if some stand out, else ``good``."""
        return "poor" if self.missing else "caution" if self.outliers else "good"


def cohort(rows: Sequence[Row]) -> Cohort:
    """Sort and count the rows of a cohort."""
    done, missing = ([r for r in rows if (r["status"] == "done") is wanted] for wanted in (True, False))
    odd = outliers(done)
    missing.sort(key=lambda r: str(r["scan"]))
    done.sort(key=lambda r: (*severity(r, odd), r["scan"]))
    return Cohort(
        total=len(rows),
        done=done,
        missing=missing,
        outliers=odd,
        before=_median(done, "distance_before"),
        after=_median(done, "distance_after"),
        verdicts=Counter(str(r["verdict"]) for r in done if r["verdict"]),
        scanners=_scanners(rows),
        hours=sum(float(r["seconds"] or 0) for r in rows) / 3600,
    )


def group_of(row: Row) -> str:
    """The scanner's name, or ``alone``."""
    return "alone" if row["scanner_scans"] == 1 else str(row["scanner"])


def _scanners(rows: Sequence[Row]) -> list[Scanner]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    found = []
    for name, members in groups.items():
        reasons = sorted({str(m["why"]) for m in members})
        more = f"; and {len(reasons) - _REASONS} reasons more" if len(reasons) > _REASONS else ""
        why = "; ".join(reasons[:_REASONS]) + more
        before, after = (_median(members, key) for key in ("distance_before", "distance_after"))
        found.append(Scanner(name, len(members), before, after, why))
    return sorted(found, key=lambda s: (-s.scans, s.name))


def _median(rows: Sequence[Row], key: str) -> float | None:
    values = [float(r[key]) for r in rows if r[key] is not None]
    return float(np.median(values)) if values else None
