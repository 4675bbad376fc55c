r"""An increasing intensity curve: as a function of any voxel, as smooth as scanners are, with its error bar.

**Smoothness.** What a scanner's curve usually is, is a parabola in logarithms:

.. math:: \log T(q) = a + b \log q + c \log^2 q, \qquad
          (a, b, c) = \arg\min \sum_u \hat Q(u)^2 \bigl(\log \hat Q(u) - \log T(Q_y(u))\bigr)^2

A gain moves it, a gamma turns it, saturation bends it. What ranks get wrong about a person is narrower: it sits where
one tissue ends and another begins. So the parabola through a person's expected intensities (least squares in flow
units, every voxel counts the same) has less of that error than they. Where it lies further from them than errors do,
the scanner is none of these, and what was asked for is kept:

.. math:: x_h = \hat Q + w\,(T - \hat Q), \qquad w = \max\Bigl(0,\; 1 - \frac{r}{e}\Bigr)

:math:`r` is the root mean square of :math:`T - \hat Q` and :math:`e` the usual error of :math:`\hat Q`
(:class:`~blindharmony.settings.CurveSettings`).

**Contrast for the bias field.** How far a first curve is trusted when the field is found again in its contrast:

.. math:: T_w(y) = y + w\,\bigl(T(y) - y\bigr), \qquad w = \max\Bigl(0,\; 1 - \frac{(2e)^2}{d^2}\Bigr)

:math:`d` is how far the curve is from changing nothing, :math:`e` its own error bar (both root mean squares over
ranks). Bias correction notices contrast: in a scan whose contrast is the target's already, a curve that is only error
would send it astray. And it works on logarithms, between the darkest and the brightest voxel: what small errors at
the ends of a curve do to it is more than what they do to the image. So the contrast is that of the curve's parabola,
fitted where the brain's intensities are and going on straight beyond them
(:class:`~blindharmony.settings.BiasAgainSettings`).

**How far to go.** A scan that is in the target's contrast already needs no curve, and one that is fitted to it is only
error. So a curve is used as far as there is evidence that it is more than that, the positive-part estimate of James and
Stein towards changing nothing:

.. math:: x_h = y + s\,\bigl(T(y) - y\bigr), \qquad s = \max\Bigl(0,\; 1 - \frac{e^2}{d^2}\Bigr)

with the same :math:`d` and :math:`e`. For the target's own scans this halves the error of a scan alone; scanners that
are far from the target lose next to nothing (docs/measured_folds.md). Source: James and Stein, Proc. 4th Berkeley Symp.
1 (1961); Efron and Morris, JASA 68 (1973).

**Error bar.** How far a curve may be off at each intensity, one standard deviation: how far the person model errs about
people that taught it nothing (:meth:`~blindharmony.models.person.PersonModel.deviation`). More scans of a scanner make
it smaller, but not by more than what errors have in common. A single voxel is off by more: tissues that another
contrast moved apart, noise and blur follow no curve. How much that is in random scanners is added in maps of the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blindharmony.models.person import PersonModel
from blindharmony.settings import BiasAgainSettings, CurveSettings

Array: TypeAlias = NDArray[np.float64]

# How a curve goes on beyond its last knot is part of what its knots mean, in a scanner's file too, and no setting:
# the slope comes from the brightest part of the curve below the knot, and its power stays within reason.
_TOP_SHARE = 0.15
_POWERS = (0.25, 2.5)


class Curve(Protocol):
    """A change of intensity that can be evaluated at any voxel of any grid."""

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Harmonized intensities of source intensities, both in flow units and of the same shape."""


@dataclass(frozen=True, eq=False)
class CurveMap:
    """Source intensity → harmonized intensity, piecewise linear, increasing, zero to zero.

    Attributes:
        x: Source intensities at the knots, strictly increasing, starting at 0.
        y: Harmonized intensities, increasing, starting at 0.

    Example:
        >>> curve = CurveMap.through(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
        >>> curve(np.array([0.0, 0.5, 1.5, 3.0])).astype(float).round(1).tolist()
        [0.0, 1.0, 2.5, 3.9]
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @classmethod
    def through(cls, x: NDArray[np.float64], y: NDArray[np.float64]) -> CurveMap:
        """The curve through matched quantiles; ties of the source are joined, dark ends go to zero.

        Args:
            x: Source quantiles, not decreasing.
            y: Harmonized quantiles at the same ranks, not decreasing.
        """
        # Far below the brightest there is nothing but rounding, and a slope over it would be absurd.
        positive = x > 1e-6 * x.max()
        knots, where = np.unique(x[positive], return_inverse=True)
        values = np.bincount(where, weights=y[positive]) / np.bincount(where)
        return cls(np.concatenate([[0.0], knots]), np.concatenate([[0.0], np.maximum(values, 0)]))

    @property
    def end_power(self) -> float:
        r"""Beyond the last knot the curve goes on as :math:`y \propto x^p`: its power over the brightest 15 %."""
        start = np.interp((1 - _TOP_SHARE) * self.x[-1], self.x, self.y)
        if not 0 < start < self.y[-1]:
            return 1.0
        with np.errstate(over="ignore"):  # steeper than any number is steeper than is allowed
            return float(np.clip(np.log(self.y[-1] / start) / -np.log(1 - _TOP_SHARE), *_POWERS))

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Harmonized intensities; the curve of a negative value is that of its size, negative."""
        size = np.abs(values)
        out = piecewise(size, self.x, self.y)
        beyond = size > self.x[-1]
        out[beyond] = self.y[-1] * (size[beyond] / self.x[-1]) ** self.end_power
        # Noise around nothing stays noise: a slope at zero can be any, where a dark end is a power.
        return np.copysign(out, values).astype(np.float32)


# A table's cells: 2^10 for each doubling of the value. Pieces of an array stay in the processor's cache.
_CELL_BITS, _PIECE = 10, 1 << 15


def piecewise(values: NDArray[np.float32], x: Array, y: Array) -> Array:
    """``np.interp`` of many values that are not negative, to the last bit, two to three times as fast.

    The bits of a float32 without its last ones name a cell between two near values. A table knows the last knot before
    each cell, and only the knots within it are left to compare with.

    Args:
        values: Any shape.
        x: Knots, rising from 0.
        y: Values there.

    Example:
        >>> values = np.random.default_rng(0).uniform(0, 3, 50_000).astype(np.float32)
        >>> x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, 4.0])
        >>> bool(np.array_equal(piecewise(values, x, y), np.interp(values, x, y)))
        True
    """
    if values.size < _PIECE or values.dtype != np.float32:
        return np.asarray(np.interp(values, x, y))
    shift = 23 - _CELL_BITS
    low, high = (np.asarray(x[[1, -1]], np.float32).view(np.int32) >> shift).tolist()
    starts = (np.arange(low, high + 2, dtype=np.int32) << shift).view(np.float32)
    before = (np.searchsorted(x, starts, side="right") - 1).astype(np.int32)
    before[0] = 0  # darker values are in the first cell too
    most = int(np.diff(before).max())
    if most > 8:
        return np.asarray(np.interp(values, x, y))
    slope, following = np.append(np.diff(y) / np.diff(x), 0), np.append(x[1:], np.inf)
    flat, out = np.ascontiguousarray(values).reshape(-1), np.empty(values.size)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        at = before[np.clip((piece.view(np.int32) >> shift) - low, 0, high - low)]
        for _ in range(most):
            at += piece >= following[at]
        out[start : start + _PIECE] = slope[at] * (piece - x[at]) + y[at]
    return out.reshape(values.shape)


def smooth_curve(source: Array, wanted: Array, error: float, settings: CurveSettings = CurveSettings()) -> CurveMap:
    """The curve of a scanner, with as little of the errors about persons as its smoothness allows.

    Args:
        source: Intensities of the scan (or mean scan) at evenly spaced ranks, not decreasing, ``(Q,)``.
        wanted: What they should become, as far as ranks tell, flow units, not decreasing, ``(Q,)``.
        error: Usual error of ``wanted``, root mean square, flow units.
        settings: Numbers.

    Example:
        >>> q = np.linspace(0.2, 1.5, 256)
        >>> curve = smooth_curve(q**1.5, q + 0.01 * np.sin(20 * q), 0.01, CurveSettings(believed=1.5))
        >>> bool(np.abs(curve(q**1.5) - q).max() < 0.004)
        True
    """
    dark = settings.darkest
    at = np.flatnonzero((source > dark * source[-1]) & (wanted > dark * wanted[-1]))
    if len(np.unique(source[at])) >= settings.fewest:
        fit = np.polynomial.Polynomial.fit(np.log(source[at]), np.log(wanted[at]), settings.degree, w=wanted[at])
        change = np.zeros_like(wanted)
        change[at] = np.exp(fit(np.log(source[at]))) - wanted[at]
        belief = np.clip(settings.believed - np.sqrt((change[at] ** 2).mean()) / max(error, 1e-9), 0, 1)
        wanted = np.maximum.accumulate(np.maximum(wanted + belief * change, 0))
    return _with_dark_end(CurveMap.through(source, wanted), settings)


def _with_dark_end(curve: CurveMap, settings: CurveSettings) -> CurveMap:
    r"""The curve, below its darkest knot going on as :math:`y \propto x^p`.

    A straight line to zero would make a gamma's dark end wrong by any factor, and bias correction works on logarithms.
    """
    x, y = curve.x[1:], curve.y[1:]
    later = int(np.searchsorted(x, settings.dark_fold * x[0])) if len(x) else 0
    if later in (0, len(x)) or not 0 < y[0] < y[later] or x[0] < settings.darkest * x[-1]:
        return curve
    power = np.clip(np.log(y[later] / y[0]) / np.log(x[later] / x[0]), *settings.dark_powers)
    down = np.geomspace(settings.darkest, 1, settings.dark_knots)[:-1]
    return CurveMap(np.concatenate([[0], x[0] * down, x]), np.concatenate([[0], y[0] * down**power, y]))


def evident_share(distance: float, error: float, bars: float) -> float:
    """How much of a change is used, in [0, 1]: none of one that may be all error, and all but a little of a large one.

    Args:
        distance: Root mean square of the change.
        error: Its usual error.
        bars: How many of these errors it must exceed to be used at all.

    Example:
        >>> evident_share(0.1, 0.01, 2.0), evident_share(0.01, 0.01, 1.0), evident_share(0.01, 0.01, 0.0)
        (0.96, 0.0, 1.0)
    """
    return max(0.0, 1 - (bars * error / max(distance, 1e-9)) ** 2)


def lifting_curve(
    curve: Curve,
    share: float,
    values: NDArray[np.float32],
    error: float = np.inf,
    settings: BiasAgainSettings = BiasAgainSettings(),
) -> CurveMap:
    """The curve :math:`T_w`, through the parabola of :math:`T` if that lies within its usual error.

    A curve that lies two away is lifted as it is, and in between in part.

    Args:
        curve: Prepared intensities → intensities like the target's.
        share: How far it is trusted.
        values: Prepared intensities of the brain.
        error: Usual error of the curve, root mean square, flow units.
        settings: Numbers.

    Example:
        >>> gamma = CurveMap.through(np.linspace(0.1, 2, 50), np.linspace(0.1, 2, 50) ** 0.7)
        >>> lifted = lifting_curve(gamma, 1.0, np.linspace(0.3, 1, 100, dtype=np.float32))
        >>> bool(abs(lifted(np.array([0.01], np.float32))[0] / 0.01**0.7 - 1) < 0.05)
        True
    """
    reach = np.geomspace(*settings.reach, settings.knots)
    at = np.quantile(values, np.linspace(*settings.ranks, settings.points))
    at = at[at > settings.darkest * at[-1]]
    raw = curve(reach.astype(np.float32))
    # A brain of hardly more than zeros has no parabola.
    if len(np.unique(at)) <= settings.degree:
        return CurveMap.through(reach, reach + share * (np.maximum.accumulate(raw) - reach))
    x, y = np.log(at), np.log(np.maximum(curve(at.astype(np.float32)).astype(np.float64), settings.darkest))
    bend = np.polynomial.Polynomial.fit(x, y, settings.degree)
    off = y - bend(x)
    doubt = np.clip(np.sqrt(((np.exp(y) * off) ** 2).mean()) / error - settings.believed, 0, 1)
    near = np.clip(np.log(reach), x[0], x[-1])
    slope = np.maximum(bend.deriv()(near), settings.flattest)
    smooth = np.exp(bend(near) + slope * (np.log(reach) - near))
    out = smooth + doubt * (raw - smooth)
    return CurveMap.through(reach, reach + share * (np.maximum.accumulate(out) - reach))


def rms(values: NDArray[np.floating]) -> float:
    """Root mean square.

    Example:
        >>> rms(np.array([3.0, -3.0]))
        3.0
    """
    return float(np.sqrt(np.mean(np.square(values))))


@dataclass(frozen=True, eq=False)
class ErrorBar:
    """Harmonized intensity → one standard deviation of a voxel's error, both in flow units.

    Attributes:
        at: Harmonized intensities, increasing, shape ``(Q,)``.
        deviation: Of the curve's error there, which all voxels of an intensity have in common, shape ``(Q,)``.
        voxel: Of what a single voxel's error is beside that, shape ``(Q,)``; None if it is not known.

    Example:
        >>> bar = ErrorBar(np.array([0.0, 1.0]), np.array([0.01, 0.03]), np.array([0.0, 0.04]))
        >>> bar(np.array([0.0, 2.0], np.float32)).astype(float).round(3).tolist()
        [0.01, 0.05]
    """

    at: Array
    deviation: Array
    voxel: Array | None = None

    def __call__(self, harmonized: NDArray[np.float32]) -> NDArray[np.float32]:
        """The deviation at each voxel."""
        total = self.deviation if self.voxel is None else np.hypot(self.deviation, self.voxel)
        return np.interp(harmonized, self.at, total).astype(np.float32)


def error_bar(person: PersonModel, curve: Array, *, surprise: float, scans: int = 1) -> ErrorBar:
    """The error bar of a curve.

    Args:
        person: The target's person model.
        curve: Harmonized intensities at the target's ranks, shape ``(Q,)``.
        surprise: Of the scan; the others of its scanner are taken to be like it.
        scans: How many were fitted together.
    """
    deviation = person.deviation(np.full(scans, surprise))
    return ErrorBar(np.maximum.accumulate(curve), deviation, person.voxel_error)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A harmonized image on the template grid.

    Attributes:
        image: Flow units, shape of the template grid, zero outside the mask.
        intensity_map: The part of the change that is a function of intensity; None if the
            method changes voxels freely.
        error: Harmonized intensity → standard deviation of its error, if the method knows it.
        refinement: Share of the restorer's change that was applied on top of the intensity map.
        trace: One entry for each optimisation step.
        figures: Numbers worth keeping.
        warnings: Plain sentences.
        doubts: Those of them for which a result must be looked at before it is used.
    """

    image: NDArray[np.float32]
    intensity_map: Curve | None = None
    error: ErrorBar | None = None
    refinement: float = 0.0
    trace: Sequence[Mapping[str, float]] = ()
    figures: Mapping[str, float | str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    doubts: Sequence[str] = ()


def as_it_was(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> Estimate:
    """The estimate that changes nothing.

    Args:
        image: A prepared scan.
        mask: Brain.

    Example:
        >>> x = np.full((2, 2, 2), 0.7, np.float32)
        >>> as_it_was(x, x > 0).image[0, 0, 0]
        np.float32(0.7)
    """
    return Estimate(np.where(mask, image, 0).astype(np.float32), intensity_map=lambda values: values)
