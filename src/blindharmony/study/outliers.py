"""Which scans of a cohort to look at first, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Median absolute deviations, scaled to be standard deviations of a normal sample: Iglewicz and Hoaglin, How to Detect
# and Handle Outliers, 1993.
_FAR = 3.5
_SCALE = 1.4826
_FEWEST = 5
_MEASURES = {
    "distance_after": "distance after",
    "excess_after": "excess after",
    "mean_change_percent": "change in per cent",
}

#: What people read of a verdict that is not good.
WORDS = {"caution": "check", "poor": "poor"}


def outliers(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Scan's place → why it stands out: its verdict, or a number far from those of the other scans.

    Example:
        >>> usual = [{"scan": str(i), "verdict": "good", "distance_after": 5.0 + i / 10} for i in range(9)]
        >>> outliers([*usual, {"scan": "odd", "verdict": "good", "distance_after": 50.0}])
        {'odd': ['distance after 50.0, most have 5.5']}
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.get("verdict") in WORDS:
            found.setdefault(str(row["scan"]), []).append(f"verdict '{WORDS[row['verdict']]}'")
    for measure, words in _MEASURES.items():
        known = [(str(r["scan"]), float(r[measure])) for r in rows if r.get(measure) is not None]
        if len(known) < _FEWEST:
            continue
        values = np.array([value for _, value in known])
        middle = float(np.median(values))
        spread = _SCALE * float(np.median(np.abs(values - middle)))
        for scan, value in known:
            # Only the bad side: a scan closer to the target than the others is no trouble.
            if value - middle > _FAR * max(spread, 1e-3 * abs(middle), 1e-9):
                found.setdefault(scan, []).append(f"{words} {value:.1f}, most have {middle:.1f}")
    return found


def severity(row: Mapping[str, Any], reasons: Mapping[str, Sequence[str]]) -> tuple[float, ...]:
    """A key that sorts outliers first: verdict, number of reasons, then how far from the target."""
    verdict = {"poor": 2, "caution": 1}.get(str(row.get("verdict")), 0)
    numbers = [row.get(k) for k in ("distance_after", "excess_after")]
    return (-verdict, -len(reasons.get(str(row["scan"]), ())), *(-(n if n is not None else -1e9) for n in numbers))
