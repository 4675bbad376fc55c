r"""The bias field: the smooth brightness drift of the receive coil, found from the scan alone.

The model is :math:`\log y = \log x + b`: a scan is the head times a smooth field. Both estimators here look at *cells*,
means of the masked voxels in blocks of about 4 mm (:class:`Cells`), write :math:`b` as cubic B-splines
(:class:`Splines`), and ask for the field that leaves the sharpest histogram of log intensities:

* :func:`n4` is N4 as published, as small dense products: from the same cells the same numbers as ITK's filter, twenty
  times as fast. ``n4-itk`` takes the cells that ITK's users take, which average the scalp in at the brain's rim, and
  spreads the field over the scan as ITK does; ``n4`` leaves out what lies outside the mask;
* :func:`least_entropy` maximises the likelihood of the log intensities under their own smoothed histogram, which is
  least entropy, by Fisher scoring. It converges in about thirty steps, where N4 goes on changing after hundreds. Cells
  that mix tissues count little: what they say about the field is mostly anatomy.

:func:`log_bias` is the one call for a scan. Everything is numpy without BLAS in the sums, so that any number of threads
gives the same bytes.

Source: Tustison et al. 2010 (N4ITK); Sled et al. 1998 (N3) for the sharpening; Lee et al. 1997 for N4's splines; least
entropy: Mangin 2000, Likar et al. 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import PreprocessingError
from blindharmony.preprocessing.grid import mask_box

Array: TypeAlias = NDArray[np.float64]
Method: TypeAlias = Literal["n4-itk", "n4", "entropy"]

#: Fewer cells than this say nothing about a field.
FEWEST_CELLS = 50
#: Of the log intensities of a T1-weighted brain, between the tenth and the ninetieth hundredth.
USUAL_SPREAD = 0.75


def log_bias(
    data: NDArray[np.float32],
    spacing: Sequence[float],
    mask: NDArray[np.bool_],
    *,
    method: Method = "entropy",
    cell_mm: float = 4.0,
    knots_mm: float = 200.0,
) -> NDArray[np.float32]:
    r"""Find the log bias field :math:`b` with ``data = corrected · exp(b)``, mean zero inside the mask.

    Args:
        data: Intensities, shape ``(X, Y, Z)``.
        spacing: Voxel size in mm.
        mask: Brain.
        method: ``"entropy"`` (:func:`least_entropy`), ``"n4"`` (:func:`n4`), or ``"n4-itk"``: the same on the cells of
            :meth:`Cells.of_itk`, which is what SimpleITK's filter gives.
        cell_mm: Size of the cells that the field is fitted to.
        knots_mm: Distance between the knots of the splines, those of N4's first level.

    Returns:
        The field at every voxel; beyond the cells it goes on with the value at the edge.

    Raises:
        PreprocessingError: If too little of the mask is positive.

    Example:
        >>> tissue = np.where(np.random.default_rng(0).random((10, 10, 10)) < 0.5, 0.6, 1.0)
        >>> tissue = np.kron(tissue, np.ones((4, 4, 4)))
        >>> drift = np.linspace(-0.3, 0.3, 40)[:, None, None] + np.zeros((40, 40, 40))
        >>> field = log_bias((tissue * np.exp(drift)).astype(np.float32), (1, 1, 1), np.ones((40, 40, 40), bool))
        >>> bool(np.abs(field - drift).mean() < 0.02)
        True
    """
    inside = mask & (data > 0)
    if inside.sum() < 1000:
        raise PreprocessingError("fewer than 1000 positive voxels in the brain mask", remedy="check the mask")
    cells = (Cells.of_itk if method == "n4-itk" else Cells.of)(data, spacing, inside, cell_mm)
    if cells.mask.sum() < FEWEST_CELLS:
        msg = f"the brain mask fills only {int(cells.mask.sum())} cells of {cell_mm:g} mm"
        raise PreprocessingError(msg, remedy="check the mask")
    spans = [max(1, round(n * mm / knots_mm)) for n, mm in zip(cells.mask.shape, cells.size_mm, strict=True)]
    if method == "entropy":
        control = least_entropy(cells.log, cells.mask, cells.spread, spans)
    else:
        spans, control = n4(cells.log, cells.mask, spans)
    field = Splines.at(cells.positions(data.shape), spans).field(control).astype(np.float32)
    field -= np.float32(field[inside].mean(dtype=np.float64))
    return field


@dataclass(frozen=True, eq=False)
class Cells:
    """Means of the voxels in blocks of a scan.

    Attributes:
        log: Log of the mean intensity, 0 where the mask is not set.
        mask: Cells of which more than half lies in the mask.
        spread: Standard deviation within the cell over its mean: large where tissues mix.
        size_mm: Size of a cell.
        first: Where the field of the first cells goes, by axis, in voxels.
        last: Where that of the last cells goes.
    """

    log: Array
    mask: NDArray[np.bool_]
    spread: Array
    size_mm: tuple[float, ...]
    first: tuple[float, ...]
    last: tuple[float, ...]

    @classmethod
    def of(
        cls, data: NDArray[np.float32], spacing: Sequence[float], inside: NDArray[np.bool_], cell_mm: float
    ) -> Cells:
        """The cells of a scan, of about ``cell_mm``, in the box around ``inside``: means of the voxels inside it."""
        factors = tuple(max(1, round(cell_mm / s)) for s in spacing)
        box = []
        for axis, factor in enumerate(factors):
            extent = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
            low = max(0, int(extent[0]) - factor // 2)
            count = max(1, min(-(-(int(extent[-1]) + 1 - low) // factor), (inside.shape[axis] - low) // factor))
            box.append(slice(low, low + count * factor))
        there = inside[tuple(box)]
        values = np.where(there, data[tuple(box)], np.float32(0))
        count_in = block_sum(there, factors)
        some = np.maximum(count_in, 1)
        mean = block_sum(values, factors) / some
        variance = block_sum(np.square(values, dtype=np.float64), factors) / some - mean * mean
        mask = count_in > 0.5 * np.prod(factors)
        safe = np.where(mask, mean, 1.0)
        spread = np.where(mask, np.sqrt(np.maximum(variance, 0)) / safe, 0)
        size = tuple(f * s for f, s in zip(factors, spacing, strict=True))
        first = tuple(b.start + (f - 1) / 2 for b, f in zip(box, factors, strict=True))
        last = tuple(b.stop - 1 - (f - 1) / 2 for b, f in zip(box, factors, strict=True))
        return cls(np.log(safe), mask, spread, size, first, last)

    @classmethod
    def of_itk(
        cls, data: NDArray[np.float32], spacing: Sequence[float], inside: NDArray[np.bool_], cell_mm: float
    ) -> Cells:
        """The cells that ITK's filters make of the brain's box: means of all their voxels, in the mask or not.

        ITK spreads the field of the cells over the whole box: its first value goes to the first voxel, not to the
        middle of the first cell.
        """
        factors = tuple(max(1, round(cell_mm / s)) for s in spacing)
        box, _ = mask_box(inside, margin=4)
        whole = tuple(
            slice(b.start, b.stop - (b.stop - b.start) % f if b.stop - b.start >= f else b.start)
            for b, f in zip(box, factors, strict=True)
        )
        size = tuple(f * s for f, s in zip(factors, spacing, strict=True))
        voxels = float(np.prod(factors))
        mean = block_sum(data[whole], factors) / voxels
        mask = (block_sum(inside[whole], factors) > 0.5 * voxels) & (mean > 0)
        log = np.log(np.where(mask, mean, 1.0))
        ends = tuple(float(b.start) for b in box), tuple(float(b.stop - 1) for b in box)
        return cls(log, mask, np.zeros(mask.shape), size, *ends)

    def positions(self, shape: tuple[int, ...]) -> list[Array]:
        """Where each voxel of the scan lies between the first cells (0) and the last ones (1), by axis."""
        return [
            np.clip((np.arange(n) - first) / max(last - first, 1), 0, 1)
            for n, first, last in zip(shape, self.first, self.last, strict=True)
        ]


def block_sum(data: NDArray[Any], factors: Sequence[int]) -> Array:
    """Add up blocks of voxels, in double precision.

    Args:
        data: Shape ``(X, Y, Z)``, every side a multiple of its factor.
        factors: Voxels of a block, by axis.

    Example:
        >>> block_sum(np.ones((2, 4, 1)), (2, 2, 1)).tolist()
        [[[4.0], [4.0]]]
    """
    for axis, factor in enumerate(factors):
        parts = [data[(slice(None),) * axis + (slice(k, None, factor),)] for k in range(factor)]
        total = parts[0].astype(np.float64)
        for part in parts[1:]:
            total += part
        data = total
    return data


@dataclass(frozen=True, eq=False)
class Splines:
    """Cubic B-splines on a grid: a product over the axes, so that every sum over the grid is three small products.

    Attributes:
        weights: For each axis the weight of every control point at every place, ``(spans + 3, places)``.

    Example:
        >>> splines = Splines.on((5, 6, 7), (1, 2, 1))
        >>> splines.shape, bool(np.allclose(splines.field(np.ones(splines.shape)), 1))
        ((4, 5, 4), True)
    """

    weights: tuple[Array, ...]

    @classmethod
    def on(cls, shape: Sequence[int], spans: Sequence[int]) -> Splines:
        """On a grid whose first and last places are the ends of the first and last span."""
        return cls.at([np.linspace(0, 1, n) for n in shape], spans)

    @classmethod
    def at(cls, positions: Sequence[Array], spans: Sequence[int]) -> Splines:
        """At positions between 0 and 1, by axis."""
        return cls(tuple(cubic_weights(p, n) for p, n in zip(positions, spans, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Control points, by axis."""
        return tuple(len(w) for w in self.weights)

    def field(self, control: Array) -> Array:
        """The value at every place, for control points of shape :attr:`shape`."""
        return contract(control, [w.T for w in self.weights])

    def gather(self, values: Array) -> Array:
        """For each control point the sum of values times its weight; the transpose of :meth:`field`."""
        return contract(values, self.weights)

    def gram(self, values: Array) -> Array:
        r"""The matrix :math:`\sum_v a_v B_i(v) B_j(v)` for values :math:`a` on the grid, ``(control, control)``."""
        indices, products = [], []
        for w in self.weights:
            first, second = np.triu_indices(len(w))
            index = np.zeros((len(w), len(w)), np.intp)
            index[first, second] = index[second, first] = np.arange(len(first))
            indices.append(index)
            products.append(w[first] * w[second])
        sums = contract(values, products)
        a, b, c = indices
        blocks = sums[a[:, None, None, :, None, None], b[None, :, None, None, :, None], c[None, None, :, None, None, :]]
        size = int(np.prod(self.shape))
        return blocks.reshape(size, size)

    @cached_property
    def bending(self) -> Array:
        r"""The matrix of the bending energy :math:`\int \sum_{ij} (\partial_i \partial_j b)^2`, box of side 1."""
        derivatives = [bending_parts(len(w) - 3) for w in self.weights]
        energy = np.zeros((*self.shape, *self.shape))
        for orders, times in (
            ((2, 0, 0), 1),
            ((0, 2, 0), 1),
            ((0, 0, 2), 1),
            ((1, 1, 0), 2),
            ((1, 0, 1), 2),
            ((0, 1, 1), 2),
        ):
            a, b, c = (derivatives[axis][order] for axis, order in enumerate(orders))
            energy += times * np.einsum("ad,be,cf->abcdef", a, b, c)
        size = int(np.prod(self.shape))
        return energy.reshape(size, size)


def cubic_weights(position: Array, spans: int) -> Array:
    """Weights of the ``spans + 3`` cubic B-splines on [0, 1] at each position, shape ``(spans + 3, places)``.

    Example:
        >>> cubic_weights(np.array([0.0]), 1).ravel().round(3).tolist()
        [0.167, 0.667, 0.167, 0.0]
    """
    place = position * spans
    first = np.clip(np.floor(place).astype(np.intp), 0, spans - 1)
    t = place - first
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((spans + 3, len(position)))
    for step, piece in enumerate(pieces):
        weights[first + step, np.arange(len(position))] = piece / 6
    return weights


def bending_parts(spans: int) -> list[Array]:
    """Integrals over [0, 1] of products of B-splines, of their first and of their second derivatives."""
    # Within a span products are polynomials of degree 6: four Gauss points are exact up to 7.
    nodes, weight = np.polynomial.legendre.leggauss(4)
    t, weight = (nodes + 1) / 2, weight / 2 / spans
    one = np.ones_like(t)
    values = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    slopes = [-3 * (1 - t) ** 2, 9 * t**2 - 12 * t, -9 * t**2 + 6 * t + 3 * one, 3 * t**2]
    bends = [6 * (1 - t), 18 * t - 12 * one, -18 * t + 6 * one, 6 * t]
    parts = []
    for order, pieces in enumerate((values, slopes, bends)):
        stacked = np.array(pieces) / 6 * float(spans) ** order
        local = np.einsum("ip,jp,p->ij", stacked, stacked, weight)
        whole = np.zeros((spans + 3, spans + 3))
        for first in range(spans):
            whole[first : first + 4, first : first + 4] += local
        parts.append(whole)
    return parts


def contract(values: Array, weights: Sequence[Array]) -> Array:
    """Multiply each axis of ``(X, Y, Z)`` by a matrix ``(new, old)``; without BLAS, whose sums depend on threads."""
    a, b, c = weights
    values = np.einsum("xyz,cz->xyc", values, c)
    values = np.einsum("xyc,by->xbc", values, b)
    return np.asarray(np.einsum("xbc,ax->abc", values, a), np.float64)


def n4(
    log: Array,
    mask: NDArray[np.bool_],
    spans: Sequence[int],
    *,
    iterations: Sequence[int] = (50, 50, 50, 50),
    tolerance: float = 1e-4,
    bins: int = 200,
    width: float = 0.15,
    noise: float = 0.01,
) -> tuple[list[int], Array]:
    r"""Run N4: sharpen the histogram, smooth what that changed, add it to the field, again; level by level.

    One iteration, with :math:`E` from :func:`sharpened` and Lee's weighted means :math:`S` on the splines,

    .. math:: b \leftarrow b + S\bigl(v - E(v)\bigr), \qquad v = \log y - b

    A level ends when the standard deviation of :math:`e^{-\Delta b}` over its mean falls below the tolerance; the
    next one has twice as many spans along each axis.

    Args:
        log: Log intensities, shape ``(X, Y, Z)``.
        mask: Places that count.
        spans: Spans of the first level, by axis.
        iterations: At most so many at each level.
        tolerance: Where a level ends.
        bins: Of the histogram.
        width: Full width at half maximum of the Gaussian that is taken out of the histogram, in log units.
        noise: Of the Wiener filter that takes it out.

    Returns:
        The spans and the control points of the last level, see :class:`Splines`.

    Source: Tustison et al. 2010, with the settings and the numbers of ITK's filter.

    Example:
        >>> log = np.random.default_rng(0).choice([0.0, 0.5], (8, 8, 8))
        >>> spans, control = n4(log, np.ones(log.shape, bool), (1, 1, 1), iterations=(2, 2))
        >>> spans, control.shape
        ([2, 2, 2], (5, 5, 5))
    """
    values, field = log[mask], np.zeros(mask.shape)
    spans = list(spans)
    control = np.zeros([n + 3 for n in spans])
    change = np.zeros(mask.shape)
    for level, most in enumerate(iterations):
        if level:
            control, spans = refined(control, spans), [2 * n for n in spans]
        splines = Splines.on(mask.shape, spans)
        squares = [w**2 for w in splines.weights]
        cubes = [w**3 for w in splines.weights]
        total = contract(mask.astype(np.float64), squares)
        share = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
        x, y, z = (s.sum(0) for s in squares)
        norm = 1 / (x[:, None, None] * y[:, None] * z)
        for _ in range(most):
            current = values - field[mask]
            change[mask] = (current - sharpened(current, bins, width, noise)) * norm[mask]
            added = contract(change, cubes) * share
            control = control + added
            step = splines.field(added)
            field = field + step
            ratio = np.exp(-step[mask])
            if ratio.std() < tolerance * ratio.mean():
                break
    return spans, control


def sharpened(values: Array, bins: int, width: float, noise: float) -> Array:
    r"""The expected value before blurring, :math:`E(u \mid v)`, if :math:`v` is :math:`u` plus a Gaussian.

    Args:
        values: Log intensities.
        bins: Of the histogram.
        width: Full width at half maximum of the Gaussian.
        noise: Of the Wiener filter.

    Source: Sled et al. 1998, section II.C.
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return values
    step = (high - low) / (bins - 1)
    place = (values - low) / step
    padded = 2 ** (int(np.ceil(np.log2(bins))) + 1)
    offset = (padded - bins) // 2
    histogram = np.zeros(padded)
    histogram[offset : offset + bins] = spread_histogram(place, None, bins)
    distance = np.minimum(np.arange(padded), padded - np.arange(padded)) * step / width
    gaussian = 2 * np.sqrt(np.log(2) / np.pi) * step / width * np.exp(-4 * np.log(2) * distance**2)
    blur = np.fft.rfft(gaussian).real
    sharp = np.maximum(np.fft.irfft(np.fft.rfft(histogram) * blur / (blur * blur + noise), padded), 0)
    level = low + (np.arange(padded) - offset) * step
    top = np.fft.irfft(np.fft.rfft(level * sharp) * blur, padded)
    bottom = np.fft.irfft(np.fft.rfft(sharp) * blur, padded)
    expected = np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)
    return np.interp(place, np.arange(bins), expected[offset : offset + bins])


def spread_histogram(place: Array, weights: Array | None, bins: int) -> Array:
    """A histogram in which each value counts in its two nearest bins, by nearness."""
    first = np.minimum(place.astype(np.intp), bins - 1)
    share = place - first
    near, far = (1 - share, share) if weights is None else (weights * (1 - share), weights * share)
    counts = np.bincount(first, near, bins)[:bins] + np.bincount(first + 1, far, bins + 1)[:bins]
    return np.asarray(counts, np.float64)


def refined(control: Array, spans: Sequence[int]) -> Array:
    """Control points of the same spline on twice as many spans along each axis.

    Example:
        >>> coarse = np.random.default_rng(0).normal(size=(4, 5, 4))
        >>> a, b = Splines.on((9, 9, 9), (1, 2, 1)), Splines.on((9, 9, 9), (2, 4, 2))
        >>> bool(np.allclose(a.field(coarse), b.field(refined(coarse, (1, 2, 1)))))
        True
    """
    # Subdivision of a cubic spline: (1, 6, 1)/8 at a control point, (4, 4)/8 between two.
    matrices = []
    for n in spans:
        fine = np.zeros((2 * n + 3, n + 3))
        for row in range(2 * n + 3):
            half = row // 2
            fine[row, half : half + 2 + row % 2] = (0.125, 0.75, 0.125) if row % 2 else (0.5, 0.5)
        matrices.append(fine)
    return contract(control, matrices)


def least_entropy(
    log: Array,
    mask: NDArray[np.bool_],
    spread: Array,
    spans: Sequence[int],
    *,
    stiffness: float = 1e-4,
    bandwidths: Sequence[float] = (0.2, 0.1, 0.05, 0.025),
    steps: int = 25,
    tolerance: float = 1e-4,
) -> Array:
    r"""Find the field under which the log intensities are most probable, given their own smoothed histogram.

    .. math:: b = \arg\max_b \sum_v w_v \log p_h\bigl(\log y(v) - b(v)\bigr) - \lambda \int \|\nabla\nabla b\|^2

    :math:`p_h` is the histogram of the corrected log intensities, smoothed by a Gaussian of bandwidth h, so that the
    sum is minus its entropy. At the optimum :math:`p_h` fits already, and the slope with respect to b is the score
    :math:`s = (\log p_h)'` alone; Fisher scoring steps by

    .. math:: \Delta = \delta \bigl(\bar{s^2}\, B^\top W B + 2\lambda E\bigr)^{-1}
        \bigl(-B^\top W s - 2\lambda E b\bigr)

    with the splines B, their bending energy E, and a damping :math:`\delta` that starts at 1/2 and halves when steps
    grow. The bandwidth shrinks, so that the field does not lock on to a wrong peak. The weight of a cell is
    :math:`w = \exp(-\tfrac12 (\sigma/\tilde\sigma)^2)`, :math:`\sigma` its spread and :math:`\tilde\sigma` the median
    spread: a cell of one tissue counts up to 1, one across a border little. Being relative, weights are the same for
    a scan of higher contrast.

    All is reckoned in units of the scan's own spread of log intensities, so that the same scan through a gamma has
    gamma times the field: without, two real scans through 0.7 and 1.5 moved by 0.008 to 0.015, with it by 0.0004 to
    0.0011.

    Args:
        log: Log intensities, shape ``(X, Y, Z)``.
        mask: Places that count.
        spread: Standard deviation within each cell over its mean.
        spans: Spans of the splines, by axis.
        stiffness: The weight :math:`\lambda` of the bending energy, box of side 1.
        bandwidths: The bandwidths h, in log units of a scan of usual contrast.
        steps: At most so many at each bandwidth.
        tolerance: A bandwidth ends when a step changes the field by less than this root mean square, in that unit.

    Returns:
        Control points, see :class:`Splines`.

    Source: least entropy, Mangin 2000; Likar et al. 2001. Weights by the purity of cells and Fisher scoring are ours.

    Example:
        >>> log = np.random.default_rng(0).normal([[0.0], [0.5]], 0.02, (2, 2048))  # two tissues
        >>> drift = np.linspace(-0.2, 0.2, 16)[:, None, None] + np.zeros((16, 16, 16))
        >>> inside = np.ones(drift.shape, bool)
        >>> control = least_entropy(log.T.reshape(drift.shape) + drift, inside, 0 * drift, (1, 1, 1))
        >>> field = Splines.on(drift.shape, (1, 1, 1)).field(control)
        >>> bool((field - drift).std() < 0.01)
        True
    """
    splines = Splines.on(mask.shape, spans)
    dark, bright = np.quantile(log[mask], [0.1, 0.9])
    unit = float(bright - dark) / USUAL_SPREAD or 1.0
    log = log / unit
    median = float(np.median(spread[mask]))
    purity = np.exp(-0.5 * (spread[mask] / median) ** 2) if median > 0 else np.ones(int(mask.sum()))
    weights = np.zeros(mask.shape)
    weights[mask] = purity / purity.sum()
    gram, bending = splines.gram(weights), splines.bending
    # A constant changes no entropy and bends nothing: a trace of the diagonal keeps the equations solvable.
    trace = 1e-6 * gram.trace() / len(gram) * np.eye(len(gram))
    control, field, pull = np.zeros(splines.shape), np.zeros(mask.shape), np.zeros(mask.shape)
    for bandwidth in bandwidths:
        damping, last = 0.5, np.inf
        for _ in range(steps):
            slope = score(log[mask] - field[mask], weights[mask], bandwidth)
            information = float((weights[mask] * slope**2).sum())
            if not information > 0:
                break
            pull[mask] = -weights[mask] * slope
            force = splines.gather(pull).ravel() - 2 * stiffness * np.einsum("ij,j->i", bending, control.ravel())
            step = np.linalg.solve(information * (gram + trace) + 2 * stiffness * bending, force)
            step = step.reshape(splines.shape)
            change = splines.field(step)
            size = float(change[mask].std())
            # The score of a narrow peak bends faster than its mean square says: steps that grow were too long.
            damping, last = damping / 2 if size > last else damping, size
            control, field = control + damping * step, field + damping * change
            if damping * size < tolerance:
                break
    return unit * control


def score(values: Array, weights: Array, bandwidth: float, bins: int = 400) -> Array:
    """The slope of the log of the smoothed histogram of ``values``, at each of them.

    Args:
        values: Log intensities.
        weights: How much each counts, sum 1.
        bandwidth: Standard deviation of the Gaussian that smooths the histogram.
        bins: Of the histogram.

    Example:
        >>> values = np.random.default_rng(0).normal(size=4000)
        >>> slope = score(values, np.full(4000, 1 / 4000), 0.3)
        >>> round(float(np.polyfit(values, slope, 1)[0]), 1)  # of a Gaussian of variance 1 + 0.09
        -0.9
    """
    low, high = values.min() - 4 * bandwidth, values.max() + 4 * bandwidth
    step = (high - low) / (bins - 1)
    place = (values - low) / step
    padded = 2 ** (int(np.ceil(np.log2(bins))) + 1)
    wave = 2 * np.pi * np.fft.rfftfreq(padded) * bandwidth / step
    smooth = np.fft.irfft(np.fft.rfft(spread_histogram(place, weights, bins), padded) * np.exp(-0.5 * wave**2), padded)
    # Rounding of the transform is far below this, and no value lies where the density is.
    density = np.maximum(smooth[:bins], 1e-5 * smooth.max())
    slope = np.gradient(np.log(density), step)
    return np.asarray(np.interp(place, np.arange(bins), slope), np.float64)
