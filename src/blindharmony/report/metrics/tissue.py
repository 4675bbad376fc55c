"""Contrast between gray and white matter, from intensities alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
