"""Line charts as inline SVG without scripts, densities to draw in them, and one diverging colour scale.

Colours of lines come from the page, so that charts follow light and dark. The colour scale of difference maps is dark
where nothing changed, blue below and orange above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.report.html import number


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within ``[low, high]``, at most ``most`` of them.

    Example:
        >>> ticks(0.0, 1730.0)
        [0.0, 500.0, 1000.0, 1500.0]
        >>> ticks(1.0, 1.0)
        [1.0]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(k * step, 12) for k in range(first, last + 1)]


# Blue and orange stay apart in every common form of colour blindness; black is the surrounding air.
_SHARES = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
_COLOURS = np.array([[176, 224, 255], [38, 110, 214], [16, 16, 20], [204, 92, 18], [255, 226, 160]], np.float64)


def diverging(values: NDArray[np.floating[Any]], limit: float) -> NDArray[np.uint8]:
    """Colour each value between ``-limit`` and ``limit``.

    Args:
        values: Any shape.
        limit: Value at the ends of the scale, positive.

    Returns:
        RGB, shape ``(*values.shape, 3)``.

    Example:
        >>> diverging(np.array([-9.0, 0.0, 9.0]), 1.0).tolist()
        [[176, 224, 255], [16, 16, 20], [255, 226, 160]]
    """
    share = np.clip(np.nan_to_num(values) / limit, -1, 1)
    channels = [np.interp(share, _SHARES, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def gradient() -> str:
    """The same scale, left to right, as a CSS image.

    Example:
        >>> gradient()[:37]
        'linear-gradient(90deg,rgb(176 224 255'
    """
    stops = ",".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in _COLOURS.tolist())
    return f"linear-gradient(90deg,{stops})"


Series: TypeAlias = NDArray[np.floating[Any]]

_WIDTH, _HEIGHT = 440.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 14.0, 12.0, 48.0


@dataclass(frozen=True, eq=False)
class Line:
    """A line through points.

    Attributes:
        x: Shape ``(n,)``.
        y: Shape ``(n,)``; a point that is not finite leaves a gap.
        style: CSS class that gives colour and dash.
    """

    x: Series
    y: Series
    style: str


@dataclass(frozen=True, eq=False)
class Band:
    """The area between two lines over the same ``x``, shapes ``(n,)``."""

    x: Series
    low: Series
    high: Series
    style: str


@dataclass(frozen=True, eq=False)
class Dots:
    """A point for each thing.

    Attributes:
        x: Shape ``(n,)``.
        y: Shape ``(n,)``; a point that is not finite is left out.
        styles: CSS class of each.
        labels: What each is, shown where the pointer rests.
    """

    x: Series
    y: Series
    styles: Sequence[str]
    labels: Sequence[str]


Mark: TypeAlias = Line | Band | Dots


def chart(
    *marks: Mark,
    label: str,
    x_label: str,
    y_label: str = "",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    y_numbers: bool = True,
    name: str = "",
) -> Markup:
    """Draw lines and bands over common axes.

    Args:
        marks: Bottom to top.
        label: What the chart shows, read out by a screen reader.
        x_label: Quantity and unit along x.
        y_label: Quantity and unit along y; nothing where a title says it.
        x_range: Limits; those of the data if not given.
        y_range: Limits; those of the data with a margin if not given.
        y_numbers: Whether the numbers along y mean something.
        name: For a script that adds marks: it finds the limits in ``data-axes``.

    Example:
        >>> x = np.array([0.0, 1.0])
        >>> drawn = chart(Line(x, x, "after"), label="<rising>", x_label="x", y_label="y")
        >>> "&lt;rising&gt;" in drawn
        True
    """
    x0, x1 = x_range or _limits([mark.x for mark in marks], margin=0.0)
    heights = [y for mark in marks for y in ((mark.low, mark.high) if isinstance(mark, Band) else (mark.y,))]
    y0, y1 = y_range or _limits(heights, margin=0.06)
    axes = _Axes(x0, x1, y0, y1)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            f"{_WIDTH:g}", f"{_HEIGHT:g}", label
        ),
        axes.grid(y_numbers=y_numbers),
        # A nested viewport cuts off what leaves the axes, with no id that two charts could share.
        Markup('<svg x="{0:g}" y="{1:g}" width="{2:g}" height="{3:g}" viewBox="{0:g} {1:g} {2:g} {3:g}"{4}>').format(
            _LEFT, _TOP, _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM, axes.named(name)
        ),
        *(axes.draw(mark) for mark in marks),
        Markup("</svg>"),
        Markup('<text class="axis" x="{:g}" y="{:g}" text-anchor="middle">{}</text>').format(
            (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_label
        ),
        Markup('<text class="axis" transform="translate(13 {:g}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (_TOP + _HEIGHT - _BOTTOM) / 2, y_label
        ),
        Markup("</svg>"),
    ]
    return Markup("").join(parts)


@dataclass(frozen=True)
class _Axes:
    x0: float
    x1: float
    y0: float
    y1: float

    def across(self, x: Series) -> Series:
        return _LEFT + (np.asarray(x) - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, y: Series) -> Series:
        return _HEIGHT - _BOTTOM - (np.asarray(y) - self.y0) / (self.y1 - self.y0) * (_HEIGHT - _TOP - _BOTTOM)

    def named(self, name: str) -> Markup:
        if not name:
            return Markup("")
        limits = f"{self.x0:.6g} {self.x1:.6g} {self.y0:.6g} {self.y1:.6g}"
        return Markup(' data-chart="{}" data-axes="{}"').format(name, limits)

    def draw(self, mark: Mark) -> Markup:
        if isinstance(mark, Dots):
            return self._dots(mark)
        if isinstance(mark, Line):
            path = _path(self.across(mark.x), self.down(mark.y))
            return Markup('<path class="line {}" d="{}"/>').format(mark.style, path)
        x = np.concatenate([mark.x, mark.x[::-1]])
        path = _path(self.across(x), self.down(np.concatenate([mark.high, mark.low[::-1]])))
        return Markup('<path class="band {}" d="{}Z"/>').format(mark.style, path)

    def _dots(self, mark: Dots) -> Markup:
        points = zip(self.across(mark.x), self.down(mark.y), mark.styles, mark.labels, strict=True)
        drawn = [
            Markup('<circle class="{}" data-dot="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
                style, index, f"{x:.1f}", f"{y:.1f}", label
            )
            for index, (x, y, style, label) in enumerate(points)
            if np.isfinite(x) and np.isfinite(y)
        ]
        return Markup("").join(drawn)

    def grid(self, *, y_numbers: bool) -> Markup:
        parts = []
        for value in ticks(self.x0, self.x1):
            x, y = float(self.across(np.array(value))), _HEIGHT - _BOTTOM
            parts.append(
                f'<path class="grid" d="M{x:.1f} {_TOP:g}V{y:g}"/>'
                f'<text x="{x:.1f}" y="{y + 17:g}" text-anchor="middle">{escape(number(value))}</text>'
            )
        for value in ticks(self.y0, self.y1, most=5) if y_numbers else ():
            y = float(self.down(np.array(value)))
            parts.append(
                f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>'
                f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{escape(number(value))}</text>'
            )
        parts.append(f'<path class="base" d="M{_LEFT:g} {_HEIGHT - _BOTTOM:g}H{_WIDTH - _RIGHT:g}"/>')
        return Markup("".join(parts))


def _path(x: Series, y: Series) -> str:
    parts, command = [], "M"
    for across, down in zip(x, y, strict=True):
        if not (np.isfinite(across) and np.isfinite(down)):
            command = "M"
            continue
        parts.append(f"{command}{across:.1f} {down:.1f}")
        command = "L"
    return "".join(parts)


def _limits(series: list[Series], *, margin: float) -> tuple[float, float]:
    values = np.concatenate([np.ravel(np.asarray(s, np.float64)) for s in series])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = margin * (high - low) if high > low else max(abs(high), 1.0) * 0.5
    return low - room, high + room


def quantiles(image: NDArray[np.floating[Any]], mask: NDArray[np.bool_], levels: Series) -> Series:
    """Intensity quantiles inside the mask, shape ``(levels,)``; voxels that are not finite do not count.

    Example:
        >>> quantiles(np.arange(11.0), np.ones(11, bool), np.array([0.1, 0.5])).tolist()
        [1.0, 5.0]
    """
    inside = image[mask].astype(np.float64)
    inside = inside[np.isfinite(inside)]
    return np.asarray(np.quantile(inside if inside.size else np.zeros(1), levels))


def density(values: Series, levels: Series, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of voxels per unit of intensity, slightly smoothed.

    Args:
        values: Quantiles, shape ``(levels,)``, or of many scans, shape ``(scans, levels)``.
        levels: Their levels.
        at: Evenly spaced intensities, shape ``(n,)``.

    Returns:
        Shape ``(n,)`` or ``(scans, n)``.
    """
    # Beyond the outermost levels nothing is known: flat, rather than a heap at the end.
    reached = np.apply_along_axis(_reached, -1, np.asarray(values), np.asarray(levels), at)
    return np.asarray(ndimage.gaussian_filter1d(np.gradient(reached, at, axis=-1), sigma=at.size / 80, axis=-1))


def _reached(values: Series, levels: Series, at: NDArray[np.float64]) -> NDArray[np.float64]:
    # Equal intensities share many levels: the highest of them is where the distribution has got to.
    borders, last = np.unique(values[::-1], return_index=True)
    return np.interp(at, borders, levels[::-1][last])
