"""How far two intensity distributions are from each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
