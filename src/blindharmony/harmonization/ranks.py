r"""What a scan tells about its person that no monotone change of intensity can alter.

Only the *order* of the intensities is used, so a scan and the same scan through any increasing curve give the same
numbers. Voxels are sorted into ``BINS`` equally full bins of rank; for each bin

.. math:: a_k = \operatorname{mean}\{A(v) : v \in \text{bin}_k\}, \qquad
          t_k = \log \operatorname{q}_{75}\{|x_0(v) - \bar x_0(v)| : v \in \text{bin}_k\}

:math:`A` is the target's mean head at the same place in template space, :math:`x_0` the histogram-matched scan and
:math:`\bar x_0` its mean over 3×3×3 voxels. :math:`a` says which brightness is *expected* where this rank is found;
:math:`t` how much the image *varies* there, which is the slope of the true curve in disguise: a steep curve makes
texture coarse. Only the shape of :math:`t` counts, not its level, so that a noisier scanner is no other person.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BINS = 24
_RIM = 2
_LEAST = 1e-4


def rank_features(
    matched: NDArray[np.float32], region: NDArray[np.bool_], atlas: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The expected brightness and the local variation for each bin of rank, shape ``(2 · BINS,)``.

    Args:
        matched: Histogram-matched image, template grid, flow units, zero outside ``region``.
        region: Voxels that are compared.
        atlas: Mean target head, same grid and units.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.uniform(0.5, 1.5, (16, 16, 16)).astype(np.float32)
        >>> features = rank_features(x, np.ones(x.shape, bool), x)
        >>> features.shape, bool(np.all(np.diff(features[:BINS]) > 0))
        ((48,), True)
    """
    expected = _by_rank(matched[region], atlas[region], "mean")
    inner = ndimage.binary_erosion(region, iterations=_RIM)
    smooth = ndimage.uniform_filter(matched, 3)
    rough = np.abs(matched - smooth)[inner]
    varied = np.log(_by_rank(smooth[inner], rough, "upper quartile") + _LEAST)
    return np.concatenate([expected, varied - varied.mean()])


def _by_rank(order: NDArray[np.float32], values: NDArray[np.float32], what: str) -> NDArray[np.float64]:
    """Mean or upper quartile of ``values`` in equally full bins of the rank of ``order``."""
    bins = np.array_split(values[np.argsort(order, kind="stable")], BINS)
    if what == "mean":
        return np.array([b.mean(dtype=np.float64) for b in bins])
    return np.array([np.quantile(b, 0.75) for b in bins])
