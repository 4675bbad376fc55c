r"""How noisy, how blurred and how thickly sliced a scan is, in three numbers that no intensity curve changes.

.. math:: \tau = \Bigl(\overline{\log \operatorname{med}|x - \bar x_3|},\;
          \overline{\log \operatorname{med}|\bar x_3 - \bar x_7|},\; \max_a \rho_a - \min_a \rho_a\Bigr), \qquad
          \rho_a = \log \operatorname{med} |\partial_a^2 x|

:math:`x` is the histogram-matched scan, :math:`\bar x_3` and :math:`\bar x_7` its means over 3 and 7 voxels, medians
are taken in eight bins of brightness, and :math:`a` is one of the three axes. Noise raises the first number, blur
lowers the first two, thick slices raise the third.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BINS, _RIM, _LEAST = 8, 3, 1e-4

Array = NDArray[np.float64]


def texture(matched: NDArray[np.float32], region: NDArray[np.bool_]) -> Array:
    """The three numbers of a scan.

    Args:
        matched: Histogram-matched image, template grid, flow units, zero outside ``region``.
        region: Voxels that are compared.

    Returns:
        Shape ``(3,)``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, inside = rng.normal(1, 0.1, (16, 16, 16)).astype(np.float32), np.ones((16, 16, 16), bool)
        >>> noisy, smooth = texture(x, inside), texture(ndimage.uniform_filter(x, 3), inside)
        >>> bool(noisy[0] > smooth[0] and noisy[2] < 0.1)
        True
    """
    inner = ndimage.binary_erosion(region, iterations=_RIM)
    if not inner.any():
        return np.zeros(3)
    narrow = ndimage.uniform_filter(matched, 3)
    wide = ndimage.uniform_filter(narrow, 5)
    order = np.array_split(np.argsort(narrow[inner], kind="stable"), _BINS)
    fine, coarse = np.abs(matched - narrow)[inner], np.abs(narrow - wide)[inner]
    along = [np.log(np.median(_bend(matched, axis)[inner]) + _LEAST) for axis in range(3)]
    levels = [np.mean([np.log(np.median(values[b]) + _LEAST) for b in order if b.size]) for values in (fine, coarse)]
    return np.array([*levels, max(along) - min(along)], np.float64)


def _bend(x: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """How far each voxel lies from the middle of its two neighbours along an axis, doubled."""
    return np.asarray(np.abs(ndimage.convolve1d(x, np.array([1, -2, 1], np.float32), axis, mode="nearest")))
