r"""A target scan as some other scanner might have made it: what a curve of intensity cannot undo.

.. math:: y = \bigl|\,(k * b\, c\, x) + n\,\bigr|

:math:`c` another contrast between tissues, :math:`b` the bias field that bias correction leaves, :math:`k` blur or
thick slices, :math:`n` noise of a magnitude image (Rician). Everything is drawn at random, wider than real scanners
differ; nothing is known about any source scanner. Increasing curves need no drawing: the features and the matching
that follow do not notice them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_TOP = 1.5
_FWHM = 2.3548


@dataclass(frozen=True)
class ScannerRange:
    """How far the random scanners differ from the target's.

    Attributes:
        contrast: Largest log change of a tissue's brightness.
        bias: Largest log bias.
        blur_mm: Largest full width at half maximum.
        slice_mm: Thickest slices.
        noise: Largest standard deviation of the noise, share of the brightest tissue.
        often: Probability of each of the four.
    """

    contrast: float = 0.30
    bias: float = 0.10
    blur_mm: float = 3.0
    slice_mm: int = 4
    noise: float = 0.07
    often: float = 0.55


def spoil(image: Image, mask: Mask, rng: np.random.Generator, reach: ScannerRange) -> tuple[Image, Image]:
    """The image as a random other scanner would show it, with and without that scanner's contrast.

    Args:
        image: Template grid, flow units, zero outside the mask.
        mask: Brain.
        rng: Source of randomness.
        reach: How far the scanners differ.

    Returns:
        The spoiled image, and the same without the change of tissue contrast: its quantiles are what an increasing
        curve can restore.
    """
    contrast, bias, soft, noisy = rng.random(4) < reach.often
    plain = image
    if contrast:
        image = recontrasted(image, mask, rng, reach.contrast)
    steps: list[Callable[[Image], Image]] = []
    if bias:
        field = smooth_field(image.shape, mask, rng, spacing=float(rng.choice([30, 50, 80])))
        gain = np.exp(rng.uniform(0.01, reach.bias) * field).astype(np.float32)
        steps.append(lambda x: x * gain)
    if soft:
        if rng.random() < 0.5:
            width = np.full(3, rng.uniform(0.5, reach.blur_mm)) / _FWHM
            steps.append(lambda x: inside_mean(x, mask, lambda a: ndimage.gaussian_filter(a, width)))
        else:
            axis, size = int(rng.integers(3)), int(rng.integers(2, reach.slice_mm + 1))
            phase = int(rng.integers(size))
            steps.append(lambda x: inside_mean(x, mask, lambda a: thick_slices(a, axis, size, phase)))
    if noisy:
        share, seed = rng.uniform(0.005, reach.noise), int(rng.integers(1 << 32))
        steps.append(lambda x: rician(x, share, np.random.default_rng(seed)))
    outcome = []
    for x in (image, plain) if contrast else (image,):
        for step in steps:
            x = step(x)
        outcome.append(np.where(mask, x, 0).astype(np.float32))
    return outcome[0], outcome[-1]


def rician(image: Image, share: float, rng: np.random.Generator) -> Image:
    """Noise of a magnitude image, standard deviation ``share`` of the brightest tissue.

    Source: Gudbjartsson & Patz 1995, eq. 1.
    """
    spread = share * _TOP
    real, imaginary = (rng.normal(0, spread, image.shape).astype(np.float32) for _ in range(2))
    return np.asarray(np.hypot(image + real, imaginary), np.float32)


def recontrasted(image: Image, mask: Mask, rng: np.random.Generator, most: float) -> Image:
    """Three tissues, told apart by the brightness around a voxel, each brighter or darker by a random factor.

    Where one tissue ends and the next begins is drawn from sharp to gradual: sharp borders bring dark white matter
    and bright grey matter out of order, as other sequences do.
    """
    around = inside_mean(image, mask, lambda a: ndimage.gaussian_filter(a, 0.7))
    dark, middle, bright = np.quantile(around[mask], [0.08, 0.4, 0.85])
    factors = rng.uniform(-1, 1, 3) * most * np.array([2.0, 1.0, 1.0])
    share = np.full(image.shape, factors[0], np.float32)
    sharp = rng.uniform(0.1, 1.0)
    for low, high, step in ((dark, middle, factors[1] - factors[0]), (middle, bright, factors[2] - factors[1])):
        half = sharp * (high - low) / 2
        middle_of_both = (low + high) / 2
        share += step * np.clip((around - middle_of_both + half) / (2 * half), 0, 1).astype(np.float32)
    return np.where(mask, image * np.exp(ndimage.gaussian_filter(share, 0.6)), 0).astype(np.float32)


def smooth_field(shape: tuple[int, ...], mask: Mask, rng: np.random.Generator, *, spacing: float) -> Image:
    """A random smooth field with mean 0 and largest absolute value 1 inside the mask."""
    field: NDArray[np.float64] = rng.normal(size=tuple(int(np.ceil(n / spacing)) + 4 for n in shape))
    for axis, n in enumerate(shape):
        points = np.arange(n) / spacing + 1 + rng.random()
        field = CubicSpline(np.arange(field.shape[axis]), field, axis=axis)(points)
    field = field - field[mask].mean()
    return np.asarray(field / max(float(np.abs(field[mask]).max()), 1e-6), np.float32)


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
