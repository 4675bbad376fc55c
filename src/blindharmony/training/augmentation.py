r"""More training data from few heads: they are deformed, and seen by random other scanners.

**Deformation** makes other heads for the flow. The point :math:`p` of the template grid shows the scan at
:math:`A p + u(p)`, with a random affine :math:`A` and a smooth field :math:`u`, and it is interpolated once, as in
preparation. A deformed copy of a *prepared* image would be interpolated twice, hence smoother than any real scan, and a
flow trained on it would find real scans too rough.

**Random scanners** spoil heads with what a curve of intensity cannot undo,

.. math:: y = \bigl|\,k * x + n\,\bigr|

:math:`k` blur or thick slices, :math:`n` noise, drawn at random, wider than real scanners differ; nothing is known
about any source scanner. Blurs differ between the axes, and noise can be smooth, as a scanner's reconstruction and
interpolation make it. The restorer learns from these (:func:`spoil`); the tissue network and the person model see other
contrasts too (:func:`softened`, :func:`scanner_noise`). Increasing curves need no drawing for the restorer: what comes
first does not notice them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from blindharmony.settings import DeformationSettings, RandomScannerSettings

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Spread of the knots for a displacement of spread 1: what blur and interpolation average away. The blur leaves 0.375 of
# the variance along each axis, sqrt(0.375³) = 0.23 of the spread, and interpolation three quarters of that.
_KNOTS = 4 / 0.7
#: Full width at half maximum of a Gaussian, in standard deviations.
FWHM = 2.3548


def template_points(shape: tuple[int, ...]) -> Tensor:
    """Voxel indices of a grid, shape ``(3, X, Y, Z)``."""
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"))


def deformed_points(points: Tensor, settings: DeformationSettings, rng: np.random.Generator) -> Tensor:
    """The points ``p`` of a grid moved to ``A p + u(p)``: a random affine about the centre and a smooth field ``u``.

    Args:
        points: ``(3, X, Y, Z)`` voxel indices, 1 mm apart.
        settings: How much.
        rng: Source of randomness; equal states give equal fields.
    """
    shape = points.shape[1:]
    centre = torch.tensor([(n - 1) / 2 for n in shape]).view(3, 1, 1, 1)
    linear = torch.from_numpy(np.eye(3) + rng.normal(0, settings.linear_sd, (3, 3))).float()
    shift = torch.from_numpy(rng.normal(0, settings.shift_mm, 3)).float().view(3, 1, 1, 1)
    knots = [max(4, round(n / settings.bend_scale_mm)) for n in shape]
    bend = torch.from_numpy(rng.normal(0, _KNOTS * settings.bend_mm, (3, *knots))).float()
    field = F.interpolate(_smooth(bend)[None], tuple(shape), mode="trilinear", align_corners=True)[0]
    moved = torch.einsum("ij,jxyz->ixyz", linear, points - centre) + centre + shift + field
    if settings.flip and rng.random() < 0.5:
        moved[0] = shape[0] - 1 - moved[0]
    return moved


def _smooth(knots: Tensor) -> Tensor:
    """A light blur of the knots, so that the field has no kinks at them."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    out = knots[:, None]
    for axis in (2, 3, 4):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = 3
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = 1
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel.view(shape))
    return out[:, 0]


def sample_at(data: Tensor, mask: Tensor, points: Tensor, to_scan: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Sample a masked native scan at template points, as :func:`~blindharmony.preprocessing.grid.sample_inside` does.

    Args:
        data: Native scan ``(X, Y, Z)``, zero outside the mask.
        mask: Its mask as float, same shape.
        points: Template voxel indices ``(3, x, y, z)``.
        to_scan: Template voxel → scan voxel, ``(4, 4)``.

    Returns:
        Image ``(x, y, z)``, zero outside, and mask (bool).
    """
    matrix = torch.from_numpy(to_scan).float()
    index = torch.einsum("ij,jxyz->ixyz", matrix[:3, :3], points) + matrix[:3, 3].view(3, 1, 1, 1)
    size = torch.tensor(data.shape, dtype=torch.float32).view(3, 1, 1, 1)
    unit = 2 * index / (size - 1) - 1
    both = F.grid_sample(torch.stack([data, mask])[None], unit.flip(0).permute(1, 2, 3, 0)[None], align_corners=True)
    value, weight = both[0]
    inside = weight > 0.5
    return (value / weight.clamp_min(0.5)).where(inside, 0.0), inside


def spoil(image: Image, mask: Mask, rng: np.random.Generator, settings: RandomScannerSettings | None = None) -> Image:
    """The image as a random other scanner would show it: blurred, in thick slices, noisy, or neither.

    Args:
        image: Voxels of about 1 mm, flow units, zero outside the mask.
        mask: Brain.
        rng: Source of randomness.
        settings: How far scanners lie apart.
    """
    s = settings or RandomScannerSettings()
    soft, noisy = rng.random(2) < s.often
    if soft and rng.random() < 0.5:
        sigmas = rng.uniform(*s.blur_mm) / FWHM * np.exp(rng.normal(0, s.axes_sd, 3))
        image = inside_mean(image, mask, lambda x: ndimage.gaussian_filter(x, sigmas))
    elif soft:
        axis, size = int(rng.integers(3)), int(rng.integers(s.slice_mm[0], s.slice_mm[1] + 1))
        phase = int(rng.integers(size))
        image = inside_mean(image, mask, lambda x: thick_slices(x, axis, size, phase))
    if noisy:
        share, widths = float(np.exp(rng.uniform(*np.log(s.noise)))), noise_widths(rng)
        image = rician(image, share, rng, brightest=s.brightest, widths=widths)
    return np.where(mask, image, 0).astype(np.float32)


def softened(
    image: Image,
    mask: Mask,
    rng: np.random.Generator,
    *,
    often: float,
    blur_mm: tuple[float, float],
    thick: float,
    slice_mm: int,
) -> Image:
    """The image as a scanner with another point spread function and thicker slices would show it.

    Args:
        image: Voxels of about 1 mm, zero outside the mask.
        mask: Brain.
        rng: Source of randomness; equal states give the same scanner.
        often: Share of the scanners that blur.
        blur_mm: Full width at half maximum, drawn for each axis.
        thick: Share of the scanners with thick slices.
        slice_mm: The thickest.
    """
    if rng.random() < often:
        sigmas = rng.uniform(*blur_mm, 3) / FWHM
        image = inside_mean(image, mask, lambda x: ndimage.gaussian_filter(x, sigmas, truncate=3.0))
    if rng.random() < thick:
        axis, size = int(rng.integers(3)), int(rng.integers(2, slice_mm + 1))
        phase = int(rng.integers(size))
        image = inside_mean(image, mask, lambda x: thick_slices(x, axis, size, phase))
    return image


def scanner_noise(shape: tuple[int, ...], spread: float, rng: np.random.Generator) -> Image:
    """Gaussian noise of this spread, in seven of ten scanners smooth along some axes, as interpolation makes it."""
    noise = rng.standard_normal(shape, np.float32)
    return _colored(noise, spread, noise_widths(rng))


def noise_widths(rng: np.random.Generator) -> NDArray[np.float64]:
    """How smooth a scanner's noise is: standard deviation in voxels along the axes, shape ``(3,)``."""
    return rng.uniform(0, 0.9, 3) if rng.random() < 0.7 else np.zeros(3)


def _colored(noise: Image, spread: float, widths: NDArray[np.float64]) -> Image:
    if widths.any():
        noise = ndimage.gaussian_filter(noise, widths, truncate=3.0)
    return noise * np.float32(spread / noise.std())


def rician(
    image: Image,
    share: float,
    rng: np.random.Generator,
    *,
    brightest: float = 1.5,
    widths: NDArray[np.float64] | None = None,
) -> Image:
    """Noise of a magnitude image, standard deviation ``share`` of the brightest tissue.

    Source: Gudbjartsson & Patz 1995, eq. 1.

    Args:
        image: Without noise.
        share: Standard deviation of the noise of either part.
        rng: Source of randomness.
        brightest: Intensity of the brightest tissue.
        widths: How smooth the noise is (:func:`noise_widths`); white if not given.
    """
    spread = share * brightest
    parts = (rng.standard_normal(image.shape, np.float32) for _ in range(2))
    smooth = np.zeros(3) if widths is None else widths
    real, imaginary = (_colored(part, spread, smooth) for part in parts)
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
