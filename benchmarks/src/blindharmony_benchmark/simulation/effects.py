"""What scanners do to a scan, one effect at a time.

An effect gets to see a :class:`View` of a scan. Where labels are known they say how bright each tissue is
(:func:`tissue_levels`), and how much of it a voxel holds (:func:`soft_labels`). The effects:

- one increasing curve for the whole scan, as in the paper (:func:`through_curve`);
- a coil's :func:`bias_field`, and the noise of a magnitude image (:func:`with_noise`);
- coarser images on the same grid: blur, and thick slices (:func:`blurred`, :func:`thick_slices`);
- another contrast between tissues, with the anatomy and texture of the scan (:func:`recontrast`), also that of two
  T1-weighted sequences, computed from relaxation times (:func:`spoiled_gradient_echo`, :func:`mprage`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import InputError, UsageError

Array = NDArray[np.float64]

_LEVEL_QUANTILE = 0.9


@dataclass(frozen=True, eq=False)
class View:
    """A scan on its way through a simulated scanner.

    Attributes:
        image: Intensities, shape ``(X, Y, Z)``, any unit. Exact zeros are background: they carry no data.
        mask: Brain, same shape; statistics are taken here, the change itself is made everywhere.
        spacing: Voxel size along each axis, mm.
        labels: 0 none, 1 CSF, 2 grey, 3 white matter, same shape, or None.
        slice_axis: The array axis closest to inferior-superior.
        top: Intensity that the monotone domains call 1; the scan's own maximum in the mask if None.
        level: Intensity that noise is measured against; the scan's own :func:`reference_level` if None.
    """

    image: Array
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    labels: NDArray[np.uint8] | None = None
    slice_axis: int = 2
    top: float | None = None
    level: float | None = None

    @property
    def data(self) -> NDArray[np.bool_]:
        """Where there is data: every voxel that is not exactly zero."""
        return np.asarray(self.image != 0)


def reference_level(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """A robust intensity of about white matter in a T1-weighted scan: the 90th percentile inside the mask.

    Bright vessels and remnants of fat do not move it, and it needs no labels.

    Example:
        >>> reference_level(np.arange(11.0).reshape(1, 1, 11), np.ones((1, 1, 11), bool))
        9.0
    """
    return float(np.quantile(image[mask], _LEVEL_QUANTILE))


CSF, GREY, WHITE = 1, 2, 3
_NAMES = {CSF: "CSF (1)", GREY: "gray matter (2)", WHITE: "white matter (3)"}
# About the width of a voxel's own blur: a border as soft as the scan's, no softer.
_BORDER_MM, _BORDER_VOXELS = 0.7, 0.5
# Wider than the cortex is thick, narrower than the thalamus.
_LOCAL_MM = 3.0


def tissue_levels(view: View) -> dict[int, float]:
    """Median intensity of CSF, grey and white matter.

    Raises:
        InputError: If a tissue is missing, or they are not darker to brighter in this order: another modality,
            or labels of another convention.
    """
    values = {tissue: view.image[(view.labels == tissue) & view.data] for tissue in _NAMES}
    for tissue, name in _NAMES.items():
        if values[tissue].size == 0:
            raise InputError(f"the labels hold no {name}", remedy="give labels 1 CSF, 2 gray, 3 white matter")
    levels = {tissue: float(np.median(values[tissue])) for tissue in _NAMES}
    if not 0 < levels[CSF] < levels[GREY] < levels[WHITE]:
        raise InputError(
            "CSF, gray and white matter are not darker to brighter in this order",
            remedy="give a T1-weighted scan and labels 1 CSF, 2 gray, 3 white matter",
        )
    return levels


def soft_labels(view: View) -> dict[int, Array]:
    """Share of each tissue in each voxel: labels blurred by a Gaussian, sd 0.7 mm, half a voxel at least."""
    sigma = [max(_BORDER_MM / mm, _BORDER_VOXELS) for mm in view.spacing]
    return {tissue: _smooth(_is(view, tissue), sigma) for tissue in _NAMES}


def local_levels(view: View, levels: Mapping[int, float]) -> dict[int, Array]:
    """Mean intensity of each tissue around each voxel, Gaussian of sd 3 mm; the median where there is none near."""
    sigma = [_LOCAL_MM / mm for mm in view.spacing]

    def around(tissue: int) -> Array:
        here = _is(view, tissue)
        near = _smooth(here, sigma)
        total = _smooth(here * np.abs(view.image), sigma)
        return np.divide(total, near, out=np.full_like(near, levels[tissue]), where=near > 1e-3)

    return {tissue: around(tissue) for tissue in _NAMES}


def _is(view: View, tissue: int) -> Array:
    return np.asarray((view.labels == tissue) & view.data, dtype=np.float64)


def _smooth(x: Array, sigma: list[float]) -> Array:
    return np.asarray(ndimage.gaussian_filter(x, sigma, mode="constant"))


Curve = Callable[[Array], Array]


def gamma_curve(power: float) -> Curve:
    """``x ** power`` on [0, 1] and beyond.

    Example:
        >>> gamma_curve(2.0)(np.array([0.0, 0.5, 1.0])).tolist()
        [0.0, 0.25, 1.0]
    """

    def curve(x: Array) -> Array:
        return np.asarray(np.power(x, power), dtype=np.float64)

    return curve


def exp_curve(x: Array) -> Array:
    """``exp(x)``, brought back to [0, 1]: ``(exp(x) - 1) / (e - 1)``; beyond 1 its tangent, as a spike would overflow.

    Example:
        >>> exp_curve(np.array([0.0, 1.0, 2.0])).round(3).tolist()
        [0.0, 1.0, 2.582]
    """
    inside = np.minimum(x, 1.0)
    return np.asarray((np.expm1(inside) + np.e * (x - inside)) / np.expm1(1.0), dtype=np.float64)


def log_curve(x: Array) -> Array:
    """``log(1 + 3x)``, brought back to [0, 1]: ``log(1 + 3x) / log 4``."""
    return np.asarray(np.log1p(3 * x) / np.log1p(3.0), dtype=np.float64)


# The paper's eight, with x the intensity as a share of the top.
CURVES: Mapping[str, Curve] = {
    "exp": exp_curve,
    "log": log_curve,
    **{f"gamma{power}": gamma_curve(power) for power in (0.7, 0.8, 0.9, 1.2, 1.3, 1.5)},
}


def through_curve(view: View, curve: Curve) -> tuple[Array, float]:
    """Min-max to [0, 1], curve, min-max back: ``top * curve(x / top)``, and the ``top`` that was used.

    The minimum is 0, the background. Intensities above ``top`` (fat of a whole head) follow the same formula
    (``exp``: its tangent). The few negative voxels that resampling leaves are mirrored, ``-curve(-x)``,
    so that the order is kept.

    Source:
        Jeong et al., BlindHarmony, ICCV 2023, simulated source domains. There the slice is the unit, here the
        volume: a curve that differs from slice to slice is no scanner.
    """
    top = float(view.image[view.mask].max()) if view.top is None else view.top
    x = view.image / top
    return top * np.sign(x) * curve(np.abs(x)), top


_WAVES = 4
_SHORTEST_MM, _LONGEST_MM = 150.0, 300.0


def bias_field(view: View, peak: float, rng: np.random.Generator) -> Array:
    """A smooth positive field whose strongest deviation inside the mask is exactly ``1 + peak``.

    The log field is a sum of four cosine waves of random direction and phase, 150 to 300 mm long, less its mean
    in the mask, scaled so that its largest size there is ``log(1 + peak)``. For ``peak=0.3`` the field lies within
    [0.769, 1.3] and reaches one end. Outside the mask it is held at these ends.

    Args:
        view: The scan; only mask and voxel size count.
        peak: Largest deviation, 0.3 for 30 %.
        rng: Source of the waves.

    Returns:
        The factor of each voxel, shape ``(X, Y, Z)``.
    """
    axes = [np.arange(n) * mm for n, mm in zip(view.mask.shape, view.spacing, strict=True)]
    centre = np.argwhere(view.mask).mean(axis=0) * view.spacing
    x, y, z = np.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij", sparse=True)
    log_field = np.zeros(view.mask.shape)
    for _ in range(_WAVES):
        direction = rng.standard_normal(3)
        i, j, k = direction / np.linalg.norm(direction) * 2 * np.pi / rng.uniform(_SHORTEST_MM, _LONGEST_MM)
        log_field += np.cos(i * x + j * y + k * z + rng.uniform(0, 2 * np.pi))
    log_field -= log_field[view.mask].mean()
    largest = float(np.abs(log_field[view.mask]).max())
    reach = np.log1p(peak)
    # A mask of one voxel has no field.
    scaled = log_field * (reach / largest) if largest > 0 else log_field
    return np.asarray(np.exp(np.clip(scaled, -reach, reach)))


def with_noise(view: View, sigma: float, rng: np.random.Generator) -> tuple[Array, float]:
    """Rician noise: ``sqrt((I + n1)² + n2²)`` with ``n1, n2`` normal of standard deviation ``sigma * level``.

    The second moment grows by exactly ``2 (sigma level)²``. Background of exactly zero gets none.

    Args:
        view: The scan.
        sigma: Standard deviation as a share of the white-matter-like level.
        rng: Source of the noise.

    Returns:
        The noisy image and the standard deviation in the scan's unit.

    Source:
        Gudbjartsson and Patz, Magn. Reson. Med. 34, 1995.
    """
    level = reference_level(view.image, view.mask) if view.level is None else view.level
    deviation = sigma * level
    real = view.image + deviation * rng.standard_normal(view.image.shape)
    return np.hypot(real, deviation * rng.standard_normal(view.image.shape)), deviation


# Full width at half maximum of a Gaussian of standard deviation 1.
FWHM = 2 * math.sqrt(2 * math.log(2))


def blurred(view: View, fwhm: float) -> Array:
    """Gaussian blur of ``fwhm`` mm, full width at half maximum.

    Zeros carry no data: averages leave them out, so that a stripped brain gets no dark rim.
    """
    sigma = [fwhm / FWHM / mm for mm in view.spacing]

    def smooth(x: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(x, sigma, mode="constant"))

    return _share(smooth(view.image), smooth(view.data.astype(np.float64)), view.image)


def thick_slices(view: View, thickness: float) -> Array:
    """Slices of ``thickness`` mm along ``slice_axis``: box averages, then linear interpolation back to the grid.

    The slices lie edge to edge and cover the volume from its middle; a voxel that two slices share counts for
    both in proportion. Zeros carry no data, as in :func:`blurred`.

    Raises:
        UsageError: If the scan's own slices are as thick already.
    """
    mm, count = view.spacing[view.slice_axis], view.image.shape[view.slice_axis]
    if mm >= thickness:
        raise UsageError(
            f"the slices are {mm:.1f} mm thick already, no thinner than {thickness:g} mm",
            remedy="choose another domain for this scan",
        )
    along = np.moveaxis(view.image, view.slice_axis, 0)
    there = np.moveaxis(view.data, view.slice_axis, 0).astype(np.float64)
    boxes, back = slice_weights(count, mm, thickness)

    def through(weights: NDArray[np.float64], x: Array) -> Array:
        return np.asarray(np.tensordot(weights, x, axes=1))

    slices, held = through(boxes, along), through(boxes, there)
    mean = np.divide(slices, held, out=np.zeros_like(slices), where=held > 0)
    # A slice that saw nothing at a place must not darken its neighbour there.
    seen = (held > 0).astype(np.float64)
    result = _share(through(back, mean * seen), through(back, seen), along)
    return np.ascontiguousarray(np.moveaxis(result, 0, view.slice_axis))


def slice_weights(count: int, mm: float, thickness: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How voxels of a line make slices, and slices make voxels again.

    Returns:
        Share of each voxel in each slice, shape ``(slices, count)``, and weight of each slice in each voxel,
        shape ``(count, slices)``; the rows of the latter sum to 1.

    Example:
        >>> boxes, back = slice_weights(6, 1.0, 3.0)
        >>> boxes.astype(int).tolist()
        [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
        >>> back[:, 0].round(2).tolist()
        [1.0, 1.0, 0.67, 0.33, 0.0, 0.0]
    """
    slices = math.ceil(count * mm / thickness - 1e-9)
    start = (count * mm - slices * thickness) / 2
    edges = start + thickness * np.arange(slices + 1)
    low, high = np.arange(count) * mm, (np.arange(count) + 1) * mm
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    boxes = np.clip(overlap, 0, None) / mm
    place = np.clip(((low + high) / 2 - start) / thickness - 0.5, 0, slices - 1)
    back = np.clip(1 - np.abs(place[:, None] - np.arange(slices)), 0, None)
    return boxes, back


def _share(total: Array, weight: Array, image: Array) -> Array:
    # Where there is data there is weight; elsewhere the voxel stays the zero it was.
    return np.divide(total, weight, out=np.zeros_like(total), where=(image != 0) & (weight > 0))


_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class Tissues:
    """What is known about the tissues of one scan.

    Attributes:
        levels: Median intensity of each tissue.
        shares: How much of each tissue a voxel holds, shape of the scan.
        local: Intensity of each tissue around a voxel, shape of the scan.
    """

    levels: Mapping[int, float]
    shares: Mapping[int, Array]
    local: Mapping[int, Array]

    @classmethod
    def of(cls, view: View) -> Tissues:
        """Measure a scan.

        Raises:
            InputError: If labels and scan do not fit; see :func:`~tissue_levels`.
        """
        levels = tissue_levels(view)
        return cls(levels, soft_labels(view), local_levels(view, levels))


def recontrast(image: Array, tissues: Tissues, signals: Mapping[int, float]) -> Array:
    """Give each tissue another level and keep what lies within it.

    ``out = I · (Σ share·c(local) + rest·c(I)) / (Σ share·local + rest·I)``. Inside one tissue this is one smooth
    factor, ``c(local) / local``: the texture is that of the scan. At a border both levels are mixed as the voxel
    mixes tissues. ``c`` is the curve through the tissues' levels and signals; a region that is brighter than its
    tissue's median, as the thalamus, counts as a mixture with the next tissue and moves less. White matter moves by
    one factor. Unlabelled voxels (``rest``) follow the curve.

    Args:
        image: The scan, shape ``(X, Y, Z)``.
        tissues: What was measured in it.
        signals: Intensity wanted for each tissue's median.
    """
    size = np.abs(image)
    rest = 1.0 - sum(tissues.shares.values())
    before, after = rest * size, rest * _between(size, tissues.levels, signals)
    for tissue, share in tissues.shares.items():
        level = tissues.local[tissue]
        before += share * level
        if tissue == WHITE:
            after += share * level * (signals[WHITE] / tissues.levels[WHITE])
        else:
            after += share * _between(level, tissues.levels, signals)
    return np.divide(image * after, before, out=np.zeros_like(image), where=before > 0)


def to_ratio(view: View, ratio: float) -> tuple[Array, dict[str, float]]:
    """Move grey matter only, until its median is ``ratio`` of white matter's.

    Soft borders move the medians a little, so the level asked for is corrected a few times.

    Returns:
        The image, and the ratio before and after.

    Raises:
        InputError: If labels and scan do not fit.
    """
    tissues = Tissues.of(view)
    levels = tissues.levels
    own = levels[GREY] / levels[WHITE]
    asked, image, found = ratio, view.image, own
    for _ in range(_ROUNDS):
        image = recontrast(view.image, tissues, {**levels, GREY: asked * levels[WHITE]})
        found = _ratio(image, view)
        if abs(found - ratio) < 1e-4:
            break
        asked *= ratio / found
    return image, {"GreyToWhiteBefore": own, "GreyToWhiteAfter": found}


def to_signals(view: View, signals: Mapping[int, float]) -> tuple[Array, dict[str, float]]:
    """Give the tissues the levels of a sequence; the receiver's gain is such that white matter keeps its own.

    Returns:
        The image, and each tissue's signal relative to white matter.

    Raises:
        InputError: If labels and scan do not fit.
    """
    tissues = Tissues.of(view)
    relative = {t: s / signals[WHITE] for t, s in signals.items()}
    image = recontrast(view.image, tissues, {t: r * tissues.levels[WHITE] for t, r in relative.items()})
    return image, {"CSFToWhite": relative[CSF], "GreyToWhite": relative[GREY]}


def _between(x: Array, levels: Mapping[int, float], signals: Mapping[int, float]) -> Array:
    """The curve through the tissues; a constant factor below the darkest and above the brightest."""
    order = sorted(levels)
    known, wanted = [levels[t] for t in order], [signals[t] for t in order]
    inner = np.interp(x, known, wanted)
    inner = np.where(x < known[0], x * (wanted[0] / known[0]), inner)
    return np.where(x > known[-1], x * (wanted[-1] / known[-1]), inner)


def _ratio(image: Array, view: View) -> float:
    grey, white = (np.median(image[(view.labels == t) & view.data]) for t in (GREY, WHITE))
    return float(grey / white)


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms at 3 T, and proton density relative to water.

    Source:
        T1 and T2* of grey and white matter: Wansapura et al., J. Magn. Reson. Imaging 9, 1999 (T2* rounded; it is
        the same for both and hardly counts at short TE). T1 of CSF: Lu et al., J. Magn. Reson. Imaging 22, 2005,
        who measure 3817 and hold 4300 for likelier. T2* of CSF: its T2, Piechnik et al., Magn. Reson. Med. 61, 2009.
        Proton density: water content as in Gasparovic et al., Magn. Reson. Med. 55, 2006.
    """

    t1: float
    t2star: float
    density: float


TISSUES: Mapping[int, Tissue] = {
    CSF: Tissue(4300.0, 500.0, 0.97),
    GREY: Tissue(1331.0, 47.0, 0.78),
    WHITE: Tissue(832.0, 47.0, 0.65),
}


def spoiled_gradient_echo(tissue: Tissue, *, tr: float, te: float, flip: float) -> float:
    """``PD sin α (1 - E) / (1 - E cos α) exp(-TE/T2*)`` with ``E = exp(-TR/T1)``.

    Args:
        tissue: Relaxation times and proton density.
        tr: Repetition time, ms.
        te: Echo time, ms.
        flip: Flip angle α, degrees.

    Source:
        Ernst and Anderson 1966; the FLASH equation.

    Example:
        >>> signal = {t: spoiled_gradient_echo(x, tr=20, te=5, flip=20) for t, x in TISSUES.items()}
        >>> round(signal[GREY] / signal[WHITE], 3)
        0.838
    """
    alpha, e1 = math.radians(flip), math.exp(-tr / tissue.t1)
    return tissue.density * math.sin(alpha) * (1 - e1) / (1 - e1 * math.cos(alpha)) * math.exp(-te / tissue.t2star)


def mprage(tissue: Tissue, *, tr: float, ti: float, te: float, flip: float, echoes: int, spacing: float) -> float:
    """Magnitude signal of an inversion, a wait, and a train of small flips, at the middle of the train.

    Each part is a straight line for the magnetization, ``m -> a m + b``: inversion ``-m``, waiting
    ``1 + (m - 1) exp(-t/T1)``, a flip and the time to the next ``1 + (m cos α - 1) exp(-spacing/T1)``. One cycle is
    their product, and its fixed point the steady state.

    Args:
        tissue: Relaxation times and proton density.
        tr: From one inversion to the next, ms.
        ti: From the inversion to the middle of the train, ms.
        te: Echo time, ms.
        flip: Flip angle α, degrees.
        echoes: Flips in a train.
        spacing: Time between them, ms.

    Source:
        Mugler and Brookeman 1990 (sequence); Wang et al., Magn. Reson. Med. 2014 (steady state of its signal).

    Example:
        >>> word = dict(tr=2300, ti=900, te=3, flip=9, echoes=160, spacing=7)
        >>> signal = {t: mprage(x, **word) for t, x in TISSUES.items()}
        >>> round(signal[GREY] / signal[WHITE], 3)
        0.676
    """
    alpha, half = math.radians(flip), echoes // 2

    def wait(ms: float) -> tuple[float, float]:
        e = math.exp(-ms / tissue.t1)
        return e, 1 - e

    def train(flips: int) -> tuple[float, float]:
        e = math.exp(-spacing / tissue.t1)
        a, b = e * math.cos(alpha), 1 - e
        return a**flips, b * (1 - a**flips) / (1 - a)

    def then(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    before = then((-1.0, 0.0), wait(ti - half * spacing))
    middle = then(before, train(half))
    rest = then(train(echoes - half), wait(tr - ti - (echoes - half) * spacing))
    a, b = then(middle, rest)
    steady = b / (1 - a)
    m = middle[0] * steady + middle[1]
    return tissue.density * abs(m) * math.sin(alpha) * math.exp(-te / tissue.t2star)
