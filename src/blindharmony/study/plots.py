"""The pictures of a cohort: distances, histograms, profiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from blindharmony.report.chart import Band, Dots, Line, Mark, chart
from blindharmony.report.histogram import density
from blindharmony.study.outliers import WORDS
from blindharmony.study.profiles import LEVELS, Profile
from blindharmony.study.table import Row

_UNIT = "target units"
# With more lines nothing can be told apart: bands alone then.
_MOST_LINES = 60
POINTS = 100


def distance_chart(rows: Sequence[Row], limit: float | None) -> Markup:
    """Every scan as a point: distance from the target before and after, over the range of the target's own scans."""
    x, y = (np.array([np.nan if r[k] is None else r[k] for r in rows]) for k in ("distance_before", "distance_after"))
    right = 1.06 * max(float(np.nanmax(x)), 1e-9)
    top = 1.12 * max(float(np.nanmax(y)), limit or 0.0, 1e-9)
    ends = np.array([0.0, right])
    marks: list[Mark] = [Line(ends, ends, "identity")]
    if limit is not None:
        marks.insert(0, Band(ends, np.zeros(2), np.full(2, limit), "target"))
    labels = [
        f"{r['scan'].rpartition('/')[2]} ({WORDS.get(r['verdict'], r['verdict'])}): {a:.1f} before, {b:.1f} after"
        for r, a, b in zip(rows, x, y, strict=True)
    ]
    return chart(
        *marks,
        Dots(x, y, [str(r["verdict"]) for r in rows], labels),
        label="Distance from the target of every scan, before and after",
        x_label=f"Distance before [{_UNIT}]",
        y_label=f"Distance after [{_UNIT}]",
        x_range=(0.0, right),
        y_range=(0.0, top),
        name="distances",
    )


def axis_of(profiles: Sequence[Profile]) -> NDArray[np.float64]:
    """Intensities that hold all profiles, evenly spaced, shape ``(100,)``."""
    low, high = min(float(p[0]) for p in profiles), max(float(p[-1]) for p in profiles)
    return np.linspace(min(low, 0.0), high if high > low else low + 1, POINTS)


def densities(profiles: Sequence[Profile], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of voxels per unit of intensity of each scan, shape ``(scans, 100)``."""
    return np.array([density(p, LEVELS, at) for p in profiles])


def histogram_chart(
    drawn: NDArray[np.float64], target: NDArray[np.float64] | None, at: NDArray[np.float64], *, top: float, when: str
) -> Markup:
    """All histograms of the cohort at once."""
    return chart(
        *_bands(at, drawn, target, when),
        label=f"Histograms of all scans {when}",
        x_label=f"Intensity [{_UNIT}]",
        y_label="Share of brain voxels",
        x_range=(float(at[0]), float(at[-1])),
        y_range=(0.0, 1.08 * top),
        y_numbers=False,
        name=f"histogram-{when}",
    )


def profile_chart(
    drawn: NDArray[np.float64], target: NDArray[np.float64] | None, *, limits: tuple[float, float], when: str
) -> Markup:
    """How far each scan is from the target's median at every rank of its intensities."""
    return chart(
        Line(np.array([0.0, 100.0]), np.zeros(2), "identity"),
        *_bands(100 * LEVELS, drawn, target, when),
        label=f"Intensity profiles of all scans {when}",
        x_label="Rank of the voxel, dark to bright [%]",
        y_label=f"Above target [{_UNIT}]",
        x_range=(0.0, 100.0),
        y_range=limits,
        name=f"profile-{when}",
    )


def _bands(
    x: NDArray[np.float64], drawn: NDArray[np.float64], target: NDArray[np.float64] | None, style: str
) -> list[Mark]:
    marks: list[Mark] = []
    if target is not None and len(target):
        marks.append(_middle(x, target, "target"))
    if len(drawn) > _MOST_LINES:
        marks.append(Band(x, drawn.min(0), drawn.max(0), f"{style} outer"))
        marks.append(_middle(x, drawn, style))
    else:
        marks += [Line(x, row, f"{style} thin") for row in drawn]
    return [*marks, Line(x, np.median(drawn, axis=0), style)]


def _middle(x: NDArray[np.float64], rows: NDArray[np.float64], style: str) -> Band:
    """The middle nine tenths of the rows."""
    low, high = np.quantile(rows, [0.05, 0.95], axis=0)
    return Band(x, low, high, style)
