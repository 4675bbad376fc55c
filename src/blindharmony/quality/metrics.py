"""Measures of likeness, anatomy, distance and tissue contrast.

- How alike two images of one brain are, voxel by voxel: :func:`psnr`, :func:`ssim`, :func:`ncc` (higher is better).
- Whether harmonization kept the anatomy: :func:`new_edges` are edges that appeared (fewer is better),
  :func:`local_spearman` is how far the order of intensities stayed (higher is better).
- How far two intensity distributions are from each other: :func:`wasserstein` (lower is nearer).
- Contrast between gray and white matter, from intensities alone: :func:`tissue_contrast`, :func:`tissue_medians`.
- How soft an image is: :func:`smoothness_mm` (more is softer), along each axis :func:`widths_mm`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.floating[Any]]

#: Figures of a result that tell of the scanner: the scan's, as prepared, before harmonization.
WATCHED = ("gray / white before", "fluid / white before", "smoothness before (mm)", "shading before (log sd)")

#: Softness on the scan's own grid, as MRIQC measures it: by it a scanner is compared with other sites'.
AS_SCANNED = "FWHM as scanned (mm)"

Spacing: TypeAlias = float | tuple[float, float, float]

# Side of the SSIM window and its two constants, as in Wang et al. 2004 and scikit-image.
_WINDOW, _K1, _K2 = 7, 0.01, 0.03


def psnr(a: Image, b: Image, mask: NDArray[np.bool_], data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB inside the mask; infinite for equal images.

    Args:
        a: The reference, shape ``(X, Y, Z)``.
        b: The image to judge, same shape and unit.
        mask: Voxels that count, same shape.
        data_range: The peak; the reference's range inside the mask if not given.

    Raises:
        ValueError: If the shapes differ or the mask is empty.

    Example:
        >>> a = np.arange(27.0).reshape(3, 3, 3)
        >>> round(psnr(a, a + 1, np.ones(a.shape, bool), data_range=100), 1)
        40.0
    """
    inside, other = _inside(a, b, mask)
    error = float(np.mean((inside - other) ** 2))
    peak = float(np.ptp(inside)) if data_range is None else data_range
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ncc(a: Image, b: Image, mask: NDArray[np.bool_]) -> float:
    """Normalized cross-correlation (Pearson) inside the mask, -1…1; NaN if either is constant there.

    Args:
        a: An image, shape ``(X, Y, Z)``.
        b: Another, same shape, any unit.
        mask: Voxels that count, same shape.

    Raises:
        ValueError: If the shapes differ or the mask is empty.

    Example:
        >>> a = np.arange(27.0).reshape(3, 3, 3)
        >>> round(ncc(a, 5 - 2 * a, np.ones(a.shape, bool)), 6)
        -1.0
    """
    inside, other = _inside(a, b, mask)
    inside, other = inside - inside.mean(), other - other.mean()
    # Sums, not products of vectors: those are shared out over threads, and the last digits change with their number.
    scale = float(np.sqrt((inside**2).sum() * (other**2).sum()))
    return float((inside * other).sum()) / scale if scale > 0 else float("nan")


def ssim(a: Image, b: Image, mask: NDArray[np.bool_], data_range: float | None = None) -> float:
    """Structural similarity: scikit-image's map (cubes of 7 voxels), averaged inside the mask.

    Args:
        a: The reference, shape ``(X, Y, Z)``.
        b: The image to judge, same shape and unit.
        mask: Voxels that count, same shape.
        data_range: The peak; the reference's range inside the mask if not given.

    Raises:
        ValueError: If the shapes differ, the mask is empty, or the image is smaller than the window.

    Example:
        >>> a = np.arange(512.0).reshape(8, 8, 8)
        >>> ssim(a, a, np.ones(a.shape, bool))
        1.0
    """
    inside, _ = _inside(a, b, mask)
    if min(a.shape) < _WINDOW:
        raise ValueError(f"an image of shape {a.shape} is smaller than the window of {_WINDOW} voxels")
    peak = float(np.ptp(inside)) if data_range is None else data_range
    if peak == 0:
        return 1.0 if np.array_equal(a[mask], b[mask]) else 0.0
    box = _box(mask, margin=_WINDOW // 2)
    x, y = a[box].astype(np.float64), b[box].astype(np.float64)
    samples = _WINDOW**x.ndim
    unbiased = samples / (samples - 1)
    mx, my = _mean(x), _mean(y)
    vx = unbiased * (_mean(x * x) - mx * mx)
    vy = unbiased * (_mean(y * y) - my * my)
    vxy = unbiased * (_mean(x * y) - mx * my)
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    similarity = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(similarity[mask[box]].mean())


def _mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.uniform_filter(x, size=_WINDOW))


def _box(mask: NDArray[np.bool_], *, margin: int) -> tuple[slice, ...]:
    # Nothing outside it reaches a window inside the mask: the head's empty half costs no time.
    bounds = ndimage.find_objects(mask.astype(np.uint8))[0]
    spans = zip(bounds, mask.shape, strict=True)
    return tuple(slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in spans)


def _inside(a: Image, b: Image, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not a.shape == b.shape == mask.shape:
        raise ValueError(f"shapes differ: {a.shape}, {b.shape}, mask {mask.shape}")
    if not mask.any():
        raise ValueError("the mask is empty")
    return a[mask].astype(np.float64), b[mask].astype(np.float64)


def new_edges(after: Image, before: Image, mask: NDArray[np.bool_], *, strong: float = 0.1, reach: int = 2) -> float:
    """Share (0…1) of the output's strong edges with no strong edge of the input nearby.

    An image's strong edges are the ``strong`` share of brain voxels with the steepest intensity (gradient of
    a Gaussian of 1 voxel), so gain and offset change nothing. Nearby means within ``reach`` voxels along
    every axis. The outermost 3 voxels of the mask do not count: there the edge is the mask's own.

    Args:
        after: The output, shape ``(X, Y, Z)``.
        before: The input, same shape.
        mask: Brain, same shape.
        strong: Share of voxels called strong.
        reach: How far an edge may move, in voxels.

    Returns:
        The share; NaN if the mask is too thin to judge.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(20, 20, 20))
        >>> new_edges(7 * x + 1, x, np.ones(x.shape, bool))
        0.0
    """
    core = np.asarray(ndimage.binary_erosion(mask, iterations=3))
    if not core.any():
        return float("nan")
    old, new = _edges(before, core, strong), _edges(after, core, strong)
    near = ndimage.maximum_filter(old.astype(np.uint8), size=2 * reach + 1)
    return float(np.mean(near[new] == 0)) if new.any() else 0.0


def local_spearman(a: Image, b: Image, mask: NDArray[np.bool_], *, window: int = 9) -> float:
    """Median, over cubes tiling the brain, of Spearman's rank correlation inside the cube (-1…1).

    Any increasing intensity curve leaves it at 1, and so does a slow bias field almost; moved or invented
    structure does not.

    Args:
        a: An image, shape ``(X, Y, Z)``.
        b: Another, same shape, any unit.
        mask: Brain, same shape; only cubes wholly inside it count.
        window: The cubes' side in voxels.

    Returns:
        The median; NaN if no cube fits in the mask with both images varying in it.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(18, 18, 18))
        >>> round(local_spearman(x, np.exp(x), np.ones(x.shape, bool)), 6)
        1.0
    """
    whole = _cubes(mask, window).all(axis=1)
    pairs = zip(_cubes(a, window)[whole], _cubes(b, window)[whole], strict=True)
    varying = [value for one, other in pairs if not np.isnan(value := spearman(one, other))]
    return float(np.median(varying)) if varying else float("nan")


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's rank correlation of two series, equal values sharing their mean rank; NaN if one never varies.

    Example:
        >>> spearman(np.array([1, 2, 2, 5]), np.array([0.1, 0.3, 0.3, 9.0]))
        1.0
    """
    first, second = (ranks - ranks.mean() for ranks in map(_ranks, (a, b)))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else float("nan")


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    # As scipy.stats has it, which takes longer to import than a scan to judge.
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _edges(image: Image, core: NDArray[np.bool_], strong: float) -> NDArray[np.bool_]:
    slope = ndimage.gaussian_gradient_magnitude(image.astype(np.float32), sigma=1.0)
    return np.asarray((slope > np.quantile(slope[core], 1 - strong)) & core)


def _cubes(image: NDArray[Any], window: int) -> NDArray[Any]:
    if min(image.shape) < window:
        return np.empty((0, window**3), image.dtype)
    step = slice(None, None, window)
    return sliding_window_view(image, (window,) * 3)[step, step, step].reshape(-1, window**3)


Quantiles = NDArray[np.floating[Any]]


def wasserstein(a: Quantiles, b: Quantiles, levels: Quantiles | None = None) -> float:
    """Wasserstein-1 distance of two distributions given by their quantiles, in the intensities' unit.

    It is how far an average voxel's intensity must move to turn one histogram into the other.

    Args:
        a: Quantiles of the first, shape ``(levels,)``.
        b: Quantiles of the second at the same levels.
        levels: The levels, increasing; evenly spaced if not given.

    Raises:
        ValueError: If the shapes differ or there are fewer than two levels.

    Example:
        >>> a = np.linspace(0, 100, 11)
        >>> round(wasserstein(a, a + 3), 6)
        3.0
    """
    spaced = np.linspace(0.0, 1.0, a.size) if levels is None else np.asarray(levels, np.float64)
    if not (a.shape == b.shape == spaced.shape and a.ndim == 1):
        raise ValueError(f"shapes differ: {a.shape}, {b.shape}, levels {spaced.shape}")
    if a.size < 2:
        raise ValueError("at least two levels are needed")
    gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    # Beyond the outermost levels nothing is known: the distance is the mean between them.
    return float(np.trapezoid(gap, spaced) / (spaced[-1] - spaced[0]))


def smoothness_mm(x: Image, mask: NDArray[np.bool_], spacing_mm: Spacing = 1.0) -> float:
    """How soft an image is: the geometric mean of :func:`widths_mm` over its axes, higher is softer.

    Args:
        x: Shape ``(X, Y, Z)``.
        mask: Brain, same shape.
        spacing_mm: Edges of a voxel, or the one edge of a cube.

    Returns:
        NaN if the image is constant or no smoother than noise along an axis.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(40, 40, 40))
        >>> round(smoothness_mm(ndimage.gaussian_filter(noise, 2.0), noise < np.inf), 1)
        4.8
    """
    return float(np.exp(np.mean(np.log(widths_mm(x, mask, spacing_mm)))))


def widths_mm(x: Image, mask: NDArray[np.bool_], spacing_mm: Spacing = 1.0) -> NDArray[np.float64]:
    r"""Full width at half maximum, along each axis, of the Gaussian that would make noise as smooth as the image.

    .. math:: \mathrm{FWHM}_a = \Delta \sqrt{\frac{-2 \ln 2}{\ln\bigl(1 - \operatorname{var}(\partial_a x) / 2
              \operatorname{var}(x)\bigr)}}

    Anatomy counts too, so the numbers serve to compare heads that were prepared alike.

    Args:
        x: Shape ``(X, Y, Z)``.
        mask: Brain, same shape; both voxels of a difference lie in it.
        spacing_mm: Edges of a voxel, or the one edge of a cube.

    Returns:
        Shape ``(3,)``; NaN for an axis along which the image is constant or no smoother than noise.

    Source: Forman et al. 1995, MRM 33, 636-647 (as AFNI's ``3dFWHMx``).

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(40, 40, 40))
        >>> soft = ndimage.gaussian_filter(noise, (1.0, 2.0, 2.0))
        >>> widths_mm(soft, noise < np.inf).round(1).tolist()
        [2.4, 4.8, 4.9]
    """
    variance, widths = float(x[mask].var(dtype=np.float64)), np.full(3, np.nan)
    for axis in range(3):
        along, inside = np.moveaxis(x, axis, 0), np.moveaxis(mask, axis, 0)
        difference = (along[1:] - along[:-1])[inside[1:] & inside[:-1]]
        kept = 1 - float(difference.var(dtype=np.float64)) / (2 * variance) if variance and difference.size else 1.0
        if 0 < kept < 1:
            widths[axis] = np.sqrt(-2 * np.log(2) / np.log(kept))
    return np.asarray(widths * np.asarray(spacing_mm, np.float64))


Values = NDArray[np.floating[Any]]

_BINS = 200


def tissue_contrast(x: Values, mask: NDArray[np.bool_]) -> float:
    """Ratio of gray to white matter intensity (medians) in a T1-weighted brain; 1 is no contrast.

    See :func:`tissue_medians` for how the tissues are told apart. The ratio needs intensities with a true
    zero and does not change with the gain.

    Args:
        x: T1-weighted image, shape ``(X, Y, Z)``.
        mask: Brain, same shape.

    Raises:
        ValueError: If the mask is empty or the brain has fewer than three intensities.

    Example:
        >>> x = np.repeat([[[1.0], [6.0], [8.0]]], 50, axis=2)
        >>> tissue_contrast(x, np.ones(x.shape, bool))
        0.75
    """
    _, gray, white = tissue_medians(x[mask])
    return gray / white


def tissue_medians(values: Values) -> tuple[float, float, float]:
    """Median intensity of fluid, gray and white matter in a T1-weighted brain, in the values' unit.

    The three classes are the exact 3-means clusters of the histogram (the two thresholds of Otsu's
    criterion), dark to bright: no starting point, no random numbers. They also take in partial volume, so
    the medians serve to compare scans treated alike, not to measure tissue.

    Args:
        values: Intensities of brain voxels, or evenly spaced quantiles of them, any shape.

    Raises:
        ValueError: If there are fewer than three different values.

    Example:
        >>> tissue_medians(np.repeat([1.0, 6.0, 8.0], 50))
        (1.0, 6.0, 8.0)
    """
    flat = np.asarray(values, np.float64).ravel()
    flat = flat[np.isfinite(flat)]
    if flat.size < 3:
        raise ValueError("three tissues need at least three different intensities")
    lower, upper = _thresholds(flat)
    fluid, gray, white = flat[flat < lower], flat[(flat >= lower) & (flat < upper)], flat[flat >= upper]
    return float(np.median(fluid)), float(np.median(gray)), float(np.median(white))


def _thresholds(flat: NDArray[np.float64]) -> tuple[float, float]:
    # A few hot voxels must not stretch the bins until all tissue falls into one of them.
    low, high = np.quantile(flat, [0.0005, 0.9995])
    if not high > low:
        low, high = flat.min(), flat.max()
    counts, borders = np.histogram(np.clip(flat, low, high), bins=_BINS, range=(low, high))
    centres = (borders[:-1] + borders[1:]) / 2
    n = np.concatenate([[0.0], np.cumsum(counts)])
    s = np.concatenate([[0.0], np.cumsum(counts * centres)])
    i, j = np.triu_indices(_BINS, k=1)
    i, j = i[i > 0], j[i > 0]
    sizes = (n[i], n[j] - n[i], n[-1] - n[j])
    sums = (s[i], s[j] - s[i], s[-1] - s[j])
    # Largest variance between classes; a pair of thresholds that leaves one class empty is out.
    with np.errstate(divide="ignore", invalid="ignore"):
        between = sum(total**2 / size for total, size in zip(sums, sizes, strict=True))
    score = np.where(np.minimum.reduce(sizes) > 0, between, -np.inf)
    best = int(np.argmax(score))
    if not np.isfinite(score[best]):
        raise ValueError("three tissues need at least three different intensities")
    return float(borders[i[best]]), float(borders[j[best]])
