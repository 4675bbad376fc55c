"""Distributions given by their quantiles: densities to draw, distances to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.quality.metrics import wasserstein

Quantiles = NDArray[np.floating[Any]]


def quantiles(image: NDArray[np.floating[Any]], mask: NDArray[np.bool_], levels: Quantiles) -> Quantiles:
    """Intensity quantiles inside the mask, shape ``(levels,)``; voxels that are not finite do not count.

    Example:
        >>> quantiles(np.arange(11.0), np.ones(11, bool), np.array([0.1, 0.5])).tolist()
        [1.0, 5.0]
    """
    inside = image[mask].astype(np.float64)
    inside = inside[np.isfinite(inside)]
    return np.asarray(np.quantile(inside if inside.size else np.zeros(1), levels))


def density(values: Quantiles, levels: Quantiles, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of voxels per unit of intensity, slightly smoothed.

    Args:
        values: Quantiles, shape ``(levels,)``.
        levels: Their levels.
        at: Evenly spaced intensities, shape ``(n,)``.

    Returns:
        Shape ``(n,)``.
    """
    # Equal intensities share many levels: the highest of them is where the distribution has got to.
    borders, last = np.unique(np.asarray(values)[::-1], return_index=True)
    # Beyond the outermost levels nothing is known: flat, rather than a heap at the end.
    reached = np.interp(at, borders, np.asarray(levels)[::-1][last])
    return np.asarray(ndimage.gaussian_filter1d(np.gradient(reached, at), sigma=at.size / 80))


@dataclass(frozen=True)
class Distance:
    """How far the scan is from the target's median scan, in intensity units.

    Attributes:
        before: Of the scan.
        after: Of the harmonized scan.
        usual: Of each target scan to the median of all, sorted.
    """

    before: float
    after: float
    usual: tuple[float, ...]


def distances(before: Quantiles, after: Quantiles, target: Quantiles, levels: Quantiles) -> Distance:
    """Measure both scans, and the target scans themselves, with the same ruler.

    Args:
        before: Quantiles of the scan, shape ``(levels,)``.
        after: Quantiles of the harmonized scan, same shape.
        target: Quantiles of the target scans, shape ``(subjects, levels)``.
        levels: The levels.

    Example:
        >>> levels = np.linspace(0, 1, 5)
        >>> d = distances(levels + 3, levels, np.stack([levels - 1, levels, levels + 1]), levels)
        >>> d.before, d.after, d.usual
        (3.0, 0.0, (0.0, 1.0, 1.0))
    """
    centre = np.median(target, axis=0)
    usual = sorted(wasserstein(scan, centre, levels) for scan in target)
    return Distance(wasserstein(before, centre, levels), wasserstein(after, centre, levels), tuple(usual))
