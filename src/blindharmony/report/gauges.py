"""Scales that place the scan, before and after, against the range of the target's own scans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.report.evidence import Confidence
from blindharmony.report.histogram import Distance
from blindharmony.report.metrics import tissue_medians
from blindharmony.report.numbers import number

Quantiles = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Gauge:
    """One quantity on a scale of its own.

    Attributes:
        label: What is measured.
        before: Of the scan.
        after: Of the harmonized scan.
        low: Lower end of the middle nine tenths of the target scans.
        high: Upper end; one odd scan among them does not widen the range.
        start: Value at the left end of the scale.
        end: Value at the right end.
        range: What lies between ``low`` and ``high``, one word.
    """

    label: str
    before: float
    after: float
    low: float
    high: float
    start: float
    end: float
    range: str = "target"

    @classmethod
    def around(cls, label: str, before: float, after: float, target: list[float], *, zero: bool) -> Gauge:
        """A gauge whose scale holds all values, from zero if ``zero``.

        Example:
            >>> Gauge.around("distance", 8.0, 2.0, [1.0, 3.0], zero=True).position(2.0)
            '23.1%'
        """
        low, high = (float(end) for end in np.quantile(target, [0.05, 0.95]))
        least, most = min(before, after, low), max(before, after, high)
        room = 0.08 * (most - least) or 0.5 * abs(most) or 1.0
        start = 0.0 if zero and least >= 0 else least - room
        return cls(label, before, after, low, high, start, most + (0.0833 * most if zero else room))

    def position(self, value: float) -> str:
        """Where the value lies on the scale, as a CSS length."""
        return f"{100 * (value - self.start) / (self.end - self.start):.1f}%"

    def share(self) -> str:
        """How wide the target's range is on the scale, as a CSS length; thin but visible at least."""
        return f"{max(100 * (self.high - self.low) / (self.end - self.start), 0.6):.1f}%"

    @property
    def words(self) -> str:
        """The gauge as a sentence."""
        span = f"{self.range} {number(self.low)} to {number(self.high)}"
        return f"before {number(self.before)}, after {number(self.after)}, {span}"

    @property
    def within(self) -> bool:
        """Whether the harmonized scan lies in the target's range."""
        return self.low <= self.after <= self.high


def distance_gauge(distance: Distance) -> Gauge:
    """Distance from the target's median scan; no distance is too small to be the target's."""
    gauge = Gauge.around("Distance from the target", distance.before, distance.after, list(distance.usual), zero=True)
    return replace(gauge, low=0.0)


def level_gauges(confidence: Confidence) -> list[Gauge]:
    """How far each level of detail is from the target's unseen scans, in their spreads, beside the verdict's limit."""
    limit, found = confidence.limit, []
    for name, before, after in confidence.levels:
        gauge = Gauge.around(name, round(before, 2), round(after, 2), [-limit, limit], zero=False)
        # The limits themselves, not their middle nine tenths; one scale for all unless a level leaves it.
        room = 1.5 * limit
        found.append(
            replace(
                gauge,
                low=-limit,
                high=limit,
                start=min(gauge.start, -room),
                end=max(gauge.end, room),
                range="like the target",
            )
        )
    return found


def tissue_gauges(before: Quantiles, after: Quantiles, target: Quantiles, levels: Quantiles) -> list[Gauge]:
    """The gray/white ratio and the three tissues' intensities; empty if they cannot be told apart.

    Args:
        before: Quantiles of the scan, shape ``(levels,)``.
        after: Quantiles of the harmonized scan, same shape.
        target: Quantiles of the target scans, shape ``(subjects, levels)``.
        levels: The levels.
    """
    try:
        first, second, *rest = (_tissues(scan, levels) for scan in (before, after, *target))
    except ValueError:
        return []
    names = ("Gray / white contrast", "White matter", "Gray matter", "Fluid")
    return [
        Gauge.around(name, first[i], second[i], [scan[i] for scan in rest], zero=False) for i, name in enumerate(names)
    ]


def _tissues(scan: Quantiles, levels: Quantiles) -> tuple[float, float, float, float]:
    # Quantiles at even levels are a sample of the scan: all scans are treated alike.
    even = np.interp(np.linspace(levels[0], levels[-1], 1000), levels, scan)
    fluid, gray, white = tissue_medians(even)
    if white == 0:
        raise ValueError("white matter is dark")
    return gray / white, white, gray, fluid
