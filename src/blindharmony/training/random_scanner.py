r"""A target scan as some other scanner might have made it: what a curve of intensity cannot undo.

.. math:: y = \bigl|\,k * x + n\,\bigr|

:math:`k` blur or thick slices, :math:`n` noise of a magnitude image (Rician). Both are drawn at random, wider than
real scanners differ; nothing is known about any source scanner. Increasing curves need no drawing: the features and
the matching that come first do not notice them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_TOP = 1.5
#: Full width at half maximum of a Gaussian, in standard deviations.
FWHM = 2.3548
_BLUR, _SLICE, _NOISE = (0.5, 3.5), (2, 4), (0.005, 0.08)
_OFTEN = 0.6


def spoil(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """The image as a random other scanner would show it: blurred, in thick slices, noisy, or neither.

    Args:
        image: Voxels of about 1 mm, flow units, zero outside the mask.
        mask: Brain.
        rng: Source of randomness.
    """
    soft, noisy = rng.random(2) < _OFTEN
    if soft and rng.random() < 0.5:
        sigma = rng.uniform(*_BLUR) / FWHM
        image = inside_mean(image, mask, lambda x: ndimage.gaussian_filter(x, sigma))
    elif soft:
        axis, size = int(rng.integers(3)), int(rng.integers(_SLICE[0], _SLICE[1] + 1))
        phase = int(rng.integers(size))
        image = inside_mean(image, mask, lambda x: thick_slices(x, axis, size, phase))
    if noisy:
        image = rician(image, float(np.exp(rng.uniform(*np.log(_NOISE)))), rng)
    return np.where(mask, image, 0).astype(np.float32)


def rician(image: Image, share: float, rng: np.random.Generator) -> Image:
    """Noise of a magnitude image, standard deviation ``share`` of the brightest tissue.

    Source: Gudbjartsson & Patz 1995, eq. 1.
    """
    spread = share * _TOP
    real, imaginary = (rng.normal(0, spread, image.shape).astype(np.float32) for _ in range(2))
    return np.asarray(np.hypot(image + real, imaginary), np.float32)


def thick_slices(image: Image, axis: int, size: int, phase: int = 0) -> Image:
    """Slices ``size`` voxels thick, linearly interpolated back to the grid."""
    x = np.moveaxis(image, axis, 0)
    starts = np.arange(-phase, x.shape[0], size)
    slices = np.stack([x[max(0, s) : s + size].mean(0) for s in starts])
    where = (np.arange(x.shape[0]) - (starts[0] + (size - 1) / 2)) / size
    low = np.clip(np.floor(where).astype(int), 0, len(starts) - 1)
    high = np.minimum(low + 1, len(starts) - 1)
    part = np.clip(where - low, 0, 1)[:, None, None].astype(np.float32)
    return np.asarray(np.moveaxis((1 - part) * slices[low] + part * slices[high], 0, axis), np.float32)


def inside_mean(image: Image, mask: Mask, smooth: Callable[[Image], Image]) -> Image:
    """A linear smoothing that takes nothing from outside the mask."""
    weight = np.maximum(smooth(mask.astype(np.float32)), 1e-3)
    return np.where(mask, smooth(np.where(mask, image, 0)) / weight, 0).astype(np.float32)
