"""The report's charts: histograms, intensity curve, optimisation."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from blindharmony.report.chart import Band, Line, chart
from blindharmony.report.evidence import Curve, ScanEvidence
from blindharmony.report.histogram import Quantiles, density

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
