"""The report of one scan: evidence in, one HTML file out that asks for nothing else.

It begins with one sentence and the pictures: the scan as it came, the result, a head of the target. Then come what
was done to the file, every check, charts (histograms, intensity curve, course of an
optimisation), and gauges: scales that place the scan, before and after, against the limits of its checks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from blindharmony.files import write_text
from blindharmony.quality.checks import DIRECTION_OF, Check, Severity, Topic
from blindharmony.quality.typicality import CONTRAST
from blindharmony.report import pictures as viewers
from blindharmony.report.charts import Band, Line, chart, density, gradient
from blindharmony.report.evidence import Curve, ScanEvidence
from blindharmony.report.html import asset_text, limit_text, number, page_environment, script_hash

_MOST_SERIES = 6


def histogram_chart(evidence: ScanEvidence) -> Markup:
    """Densities of the scan and the harmonized scan over the band of the target scans."""
    scans = (*evidence.quantiles, *evidence.target_quantiles)
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


@dataclass(frozen=True)
class Gauge:
    """One quantity on a scale of its own.

    Attributes:
        label: What is measured.
        before: Of the scan.
        after: Of the harmonized scan.
        low: Lower limit of the check, None if it has none.
        high: Upper limit, likewise.
        start: Value at the left end of the scale.
        end: Value at the right end.
        within: Whether the harmonized scan lies within the limits: whether its check is good.
        farther: Whether harmonizing moved it away from the target all the same.
        digits: With which values are printed, so that one beyond a limit does not look equal to it.
    """

    label: str
    before: float
    after: float
    low: float | None
    high: float | None
    start: float
    end: float
    within: bool
    farther: bool = False
    digits: int = 4

    @classmethod
    def of(cls, check: Check, before: Check | None, label: str = "", direction: Check | None = None) -> Gauge | None:
        """The gauge of a check: its green range is the check's limit.

        Args:
            check: Of the result.
            before: The same check of the scan as it came.
            label: What is measured; the check's name if not given.
            direction: The check whether it was moved away from the target.

        Returns:
            None if the check has no value or no limit.

        Example:
            >>> check = Check("distance", Severity.GOOD, "", value=2.0, limit=(None, 3.0))
            >>> gauge = Gauge.of(check, Check("distance", Severity.CAUTION, "", value=8.0, limit=(None, 3.0)))
            >>> gauge.words, gauge.within
            ('before 8, after 2, usual at most 3', True)
        """
        if check.value is None or check.limit is None:
            return None
        low, high = check.limit
        first = check.value if before is None or before.value is None else before.value
        values = [value for value in (first, check.value, low, high) if value is not None]
        least, most = min(values), max(values)
        room = 0.08 * (most - least) or 0.5 * abs(most) or 1.0
        # What cannot be negative starts at zero where nothing limits it from below.
        start = 0.0 if low is None and 0 <= least < 0.5 * most else least - room
        name = label or check.name
        shown = name[:1].upper() + name[1:]
        within = check.severity is Severity.GOOD
        farther = direction is not None and direction.severity > Severity.GOOD
        return cls(shown, first, check.value, low, high, start, most + room, within, farther, check.digits)

    def position(self, value: float | None) -> str:
        """Where the value lies on the scale, as a CSS length; an open low end is the scale's."""
        at = self.start if value is None else value
        return f"{100 * (at - self.start) / (self.end - self.start):.1f}%"

    def share(self) -> str:
        """How wide the green range is on the scale, as a CSS length; thin but visible at least."""
        low = self.start if self.low is None else self.low
        high = self.end if self.high is None else self.high
        return f"{max(100 * (high - low) / (self.end - self.start), 0.6):.1f}%"

    @property
    def range(self) -> str:
        """The green range in words."""
        return limit_text((self.low, self.high), self.digits)

    @property
    def words(self) -> str:
        """The gauge as a sentence."""
        before, after = (number(value, self.digits) for value in (self.before, self.after))
        return f"before {before}, after {after}, usual {self.range}"


def gauges(evidence: ScanEvidence, names: Sequence[str]) -> list[Gauge]:
    """The gauges of the checks of these names, as far as they have a value and a limit."""
    drawn = []
    for name in names:
        check = evidence.verdict.named(name)
        moved = evidence.verdict.named(DIRECTION_OF + ("contrast" if name == CONTRAST else name))
        gauge = Gauge.of(check, evidence.verdict_before.named(name), direction=moved) if check else None
        drawn += [gauge] if gauge else []
    return drawn


def level_gauges(evidence: ScanEvidence) -> list[Gauge]:
    """The gauges of every level of the flow, and of all together."""
    names = [check.name for check in evidence.verdict.of(Topic.LIKENESS)]
    shown = (*(name for name in names if name.startswith(("detail", "brightness"))), "likelihood")
    return gauges(evidence, shown)


_STYLES = ("style.css", "pictures.css", "charts.css")
_TISSUES = (CONTRAST, "white matter", "gray matter", "fluid")
_LEVELS = {"good": ("✓", "Good"), "caution": ("!", "Look first"), "poor": ("✕", "Poor")}


def render_report(evidence: ScanEvidence) -> str:
    """The report as one HTML page; equal evidence gives equal text.

    Args:
        evidence: What is known about one harmonized scan.

    Returns:
        HTML with every picture, style and script inside.
    """
    change, parts, change_limit = viewers.changes(evidence)
    script = asset_text("script.js")
    icon, word = _LEVELS[evidence.verdict.level]
    distance = gauges(evidence, ["intensities"])
    template = page_environment().get_template("report.html")
    return template.render(
        evidence=evidence,
        icon=icon,
        word=word,
        unit=short(evidence.unit),
        levels_of={level: {"icon": sign, "word": name} for level, (sign, name) in _LEVELS.items()},
        distance=distance[0] if distance else None,
        window=viewers.window(evidence),
        views=viewers.side_by_side(evidence),
        change=change,
        parts_changed=parts,
        change_limit=change_limit,
        places=viewers.unlike_places(evidence),
        registration=viewers.registration(evidence),
        scale=gradient(),
        histogram=histogram_chart(evidence),
        curve=curve_chart(evidence.curve, evidence.unit) if evidence.curve else None,
        tissues=gauges(evidence, _TISSUES),
        levels=level_gauges(evidence),
        errors=error_chart(evidence),
        trace=trace_charts(evidence),
        style=asset_text(*_STYLES),
        script=script,
        script_hash=script_hash(script),
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
