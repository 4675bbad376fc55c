"""Whether harmonization kept the anatomy: edges that appeared, order of intensities that changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage, stats

Image = NDArray[np.floating[Any]]


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
    first, second = (stats.rankdata(_cubes(image, window)[whole], axis=1) for image in (a, b))
    first, second = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (first, second))
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    varying = scale > 0
    if not varying.any():
        return float("nan")
    return float(np.median((first * second).sum(axis=1)[varying] / scale[varying]))


def _edges(image: Image, core: NDArray[np.bool_], strong: float) -> NDArray[np.bool_]:
    slope = ndimage.gaussian_gradient_magnitude(image.astype(np.float32), sigma=1.0)
    return np.asarray((slope > np.quantile(slope[core], 1 - strong)) & core)


def _cubes(image: NDArray[Any], window: int) -> NDArray[Any]:
    if min(image.shape) < window:
        return np.empty((0, window**3), image.dtype)
    step = slice(None, None, window)
    return sliding_window_view(image, (window,) * 3)[step, step, step].reshape(-1, window**3)
