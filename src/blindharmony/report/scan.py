"""The report of one scan.

The report's charts: histograms, intensity curve, optimisation.

Scales that place the scan, before and after, against the range of the target's own scans.

Evidence in, one HTML file out that asks for nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from blindharmony.files import write_text
from blindharmony.quality.metrics import tissue_medians
from blindharmony.report import pictures as viewers
from blindharmony.report.charts import Band, Line, chart, gradient
from blindharmony.report.evidence import Confidence, Curve, ScanEvidence
from blindharmony.report.histogram import Distance, density, distances, quantiles
from blindharmony.report.html import asset_text, number, page_environment, script_hash

_MOST_SERIES = 6


def histogram_chart(evidence: ScanEvidence, before: Quantiles, after: Quantiles) -> Markup:
    """Densities of the scan and the harmonized scan over the band of the target scans.

    Args:
        evidence: The target's quantiles and their levels, the unit.
        before: Quantiles of the scan at the same levels.
        after: Quantiles of the harmonized scan at the same levels.
    """
    scans = (before, after, *evidence.target_quantiles)
    levels = evidence.levels
    low, high = min(float(q[0]) for q in scans), max(float(q[-1]) for q in scans)
    at = np.linspace(min(low, 0.0), high if high > low else low + 1.0, 400)
    first, second, *target = (density(q, levels, at) for q in scans)
    least, most = np.quantile(target, [0.05, 0.95], axis=0)
    top = 1.1 * max(float(d[at > at[0]].max()) for d in (second, *target))
    unseen = target[len(target) - evidence.held_out :] if evidence.held_out else []
    return chart(
        Band(at, least, most, "target"),
        *(Line(at, scan, "held") for scan in unseen),
        Line(at, np.median(target, axis=0), "target"),
        Line(at, first, "before"),
        Line(at, second, "after"),
        label="Histograms of the scan, the harmonized scan and the target scans",
        x_label=f"Intensity [{short(evidence.unit)}]",
        y_label="Share of brain voxels",
        y_range=(0.0, max(top, 0.6 * float(first.max()), 1e-12)),
        y_numbers=False,
    )


def curve_chart(curve: Curve, unit: str) -> Markup:
    """The intensity curve with the spread of single voxels around it, and the line of no change."""
    return chart(
        Band(curve.x, curve.low, curve.high, "after"),
        Line(curve.x, curve.x, "identity"),
        Line(curve.x, curve.y, "after"),
        label="Intensity curve from scan to harmonized scan",
        x_label=f"Before [{short(unit)}]",
        y_label=f"After [{short(unit)}]",
    )


def error_chart(evidence: ScanEvidence) -> Markup | None:
    """One standard deviation of the error at each intensity; None if it is not known."""
    sure = evidence.confidence
    if sure is None or sure.intensity.size < 2:
        return None
    top = float(np.nanmax(sure.deviation))
    return chart(
        Line(sure.intensity, sure.deviation, "after"),
        label="Error of the harmonized intensity at each intensity",
        x_label=f"After [{short(evidence.unit)}]",
        y_label=f"Error (SD) [{short(evidence.unit)}]",
        y_range=(0.0, 1.1 * top if top > 0 else 1.0),
    )


def trace_charts(evidence: ScanEvidence) -> list[tuple[str, Markup]]:
    """One small chart per series of the optimisation, by name, the objective first."""
    trace = evidence.trace
    if len(trace) < 2:
        return []
    names = list(dict.fromkeys(key for row in trace for key in row if key != "step"))
    names.sort(key=lambda name: name != "objective")
    steps = np.array([float(row.get("step", index)) for index, row in enumerate(trace)])
    return [
        (
            name,
            chart(
                Line(steps, np.array([float(row.get(name, np.nan)) for row in trace]), "after"),
                label=f"{name} at each step",
                x_label="Step",
            ),
        )
        for name in names[:_MOST_SERIES]
    ]


def short(unit: str) -> str:
    """The unit without its explanation in brackets.

    Example:
        >>> short("target units (scanner intensity)")
        'target units'
    """
    return unit.partition(" (")[0]


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


_STYLES = ("style.css", "pictures.css", "charts.css")
_LEVELS = {"good": ("✓", "Good"), "caution": ("!", "Check"), "poor": ("✕", "Poor")}


def render_report(evidence: ScanEvidence) -> str:
    """The report as one HTML page; equal evidence gives equal text.

    Args:
        evidence: What is known about one harmonized scan.

    Returns:
        HTML with every picture, style and script inside.
    """
    levels, target = evidence.levels, evidence.target_quantiles
    before = quantiles(evidence.before, evidence.mask, levels)
    after = quantiles(evidence.after, evidence.mask, levels)
    distance = distances(before, after, target, levels)
    difference, difference_limit = viewers.difference(evidence)
    bias, bias_limit = viewers.bias(evidence) if evidence.log_bias is not None else ([], 0.0)
    script = asset_text("script.js")
    icon, word = _LEVELS[evidence.verdict.level]
    return (
        page_environment()
        .get_template("report.html")
        .render(
            evidence=evidence,
            icon=icon,
            word=word,
            unit=short(evidence.unit),
            distance=distance,
            distance_gauge=distance_gauge(distance),
            window=viewers.window(evidence),
            comparison=viewers.comparison(evidence),
            difference=difference,
            difference_limit=difference_limit,
            bias=bias,
            bias_limit=bias_limit,
            registration=viewers.registration(evidence),
            scale=gradient(),
            histogram=histogram_chart(evidence, before, after),
            curve=curve_chart(evidence.curve, evidence.unit) if evidence.curve else None,
            tissues=tissue_gauges(before, after, target, levels),
            levels=level_gauges(evidence.confidence) if evidence.confidence else [],
            errors=error_chart(evidence),
            trace=trace_charts(evidence),
            style=asset_text(*_STYLES),
            script=script,
            script_hash=script_hash(script),
        )
    )


def write_report(evidence: ScanEvidence, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the report, or nothing.

    Args:
        evidence: What is known about one harmonized scan.
        path: The HTML file.
        overwrite: Whether it may exist already.

    Raises:
        OutputError: If it exists already, or the folder or disk does not take it.
    """
    return write_text(path, render_report(evidence), overwrite=overwrite)
