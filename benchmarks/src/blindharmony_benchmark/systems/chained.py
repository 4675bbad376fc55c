r"""Histogram matching with one more step before it: what a laboratory would put together from parts that it knows.

- :class:`PowerMatch`, :class:`PooledPowerMatch`: N4 works in the contrast in which it finds a scan. So one exponent is
  fitted to the logarithms of the quantiles, by least squares over ranks :math:`u`,

  .. math:: (p, c) = \arg\min \sum_u \bigl(\log \bar Q(u) - p \log Q_y(u) - c\bigr)^2

  and N4 is run again on the scan as it came to the power of :math:`p`.
- :class:`DenoisedMatch`: non-local means against the noise that a scan has above the target's people.
- :class:`SharpnessMatch`: each axis blurred, or sharpened, until it is as soft as in the target's people.
- :class:`CombatImages`: ComBat for every voxel of the group's matched scans and the target's training scans.

Source: non-local means, Buades, Coll & Morel 2005; ComBat, Johnson et al. 2007, of images Fortin et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import UsageError
from blindharmony.harmonization.summary import harmonize_match, source_quantiles
from blindharmony.models.target import Target
from blindharmony.preprocessing.grid import mask_box
from blindharmony.preprocessing.recipe import prepare_in_contrast
from blindharmony.quality.metrics import widths_mm
from blindharmony.training.augmentation import inside_mean
from blindharmony_benchmark.combat import combat
from blindharmony_benchmark.heads import inside_of
from blindharmony_benchmark.system import Material, Picture, Say, Sees, System
from blindharmony_benchmark.systems.classical import Taught, pooled

_RANKS, _EXPONENTS = (0.02, 0.98), (0.2, 5.0)


def exponent(quantiles: NDArray[np.floating], target: Target) -> float:
    """The power to which a scan is nearest to the target, any gain allowed.

    Args:
        quantiles: Of the scan, at the target's levels.
        target: Its mean curve is what is fitted.

    Returns:
        Between 0.2 and 5.

    Example:
        >>> from types import SimpleNamespace
        >>> levels = np.linspace(0.01, 0.99, 50)
        >>> round(exponent(0.3 * (1 + levels) ** 0.5, SimpleNamespace(levels=levels, mean_curve=1 + levels)), 3)
        2.0
    """
    # The last ranks are vessels and the rim of the mask.
    used = (target.levels > _RANKS[0]) & (target.levels < _RANKS[1]) & (quantiles > 0) & (target.mean_curve > 0)
    x, y = np.log(quantiles[used]), np.log(target.mean_curve[used])
    x = x - x.mean()
    return float(np.clip((x * y).sum() / max(float((x * x).sum()), 1e-12), *_EXPONENTS))


def to_the_power(scan: Picture, power: float, target: Target) -> NDArray[np.float32]:
    """The scan to a power, its bias field found again there if the scan is there as it came."""

    def curve(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.copysign(np.abs(values) ** np.float32(power), values)

    if scan.prepared is None or scan.prepared.bias_field is None:
        return np.where(scan.mask, curve(scan.image), 0).astype(np.float32)
    return inside_of(prepare_in_contrast(scan.prepared, target.info.recipe, curve).scan)


class PowerMatch(System):
    """N4, one exponent, N4 again in that contrast, then histogram matching inside the mask."""

    name: ClassVar[str] = "n4-power-n4-match"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Each scan has its own exponent."""
        target, found = material.target, []
        for s in scans:
            power = exponent(source_quantiles(s.image, s.mask, target)[0], target)
            found.append(harmonize_match(to_the_power(s, power, target), s.mask, target).image)
        return found


class PooledPowerMatch(System):
    """The same with one exponent and one histogram-matching curve for all scans of the scanner."""

    name: ClassVar[str] = "pooled-power-match"
    sees: ClassVar[Sees] = "target scans"
    together: ClassVar[bool] = True

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Exponent and curve of the mean scan."""
        target = material.target
        power = exponent(np.mean([source_quantiles(s.image, s.mask, target)[0] for s in scans], 0), target)
        return pooled([to_the_power(s, power, target) for s in scans], [s.mask for s in scans], target)


Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Each voxel less the mean of its six neighbours, scaled so that white noise keeps its spread.
_PLUS = np.zeros((3, 3, 3), np.float32)
_PLUS[[0, 2, 1, 1, 1, 1], [1, 1, 0, 2, 1, 1], [1, 1, 1, 1, 0, 2]] = -np.sqrt(1 / 42)
_PLUS[1, 1, 1] = np.sqrt(6 / 7)
_RIM, _NORMAL = 3, 1.4826


def noise_level(image: Image, mask: Mask) -> float:
    """Spread of the noise, from how far voxels are from the mean of their neighbours; the median is robust to edges.

    Example:
        >>> noise = np.random.default_rng(0).normal(1, 0.1, (24, 24, 24)).astype(np.float32)
        >>> round(noise_level(noise, np.ones(noise.shape, bool)), 2)
        0.1
    """
    inner = ndimage.binary_erosion(mask, iterations=_RIM)
    left = ndimage.convolve(image, _PLUS)[inner if inner.any() else mask]
    return _NORMAL * float(np.median(np.abs(left - np.median(left))))


# Of scikit-image: sides of patches, how far they are sought, and what counts as alike in spreads of the noise. The
# last was chosen on twenty slices of a training scan with noise: 26.6 dB became 31.3 with 0.5 and 31.1 with 0.7.
_PATCH, _DISTANCE, _ALIKE = 3, 2, 0.6


def denoised(image: Image, mask: Mask, level: float) -> Image:
    """Non-local means inside the mask.

    Args:
        image: Shape ``(X, Y, Z)``, flow units.
        mask: Brain.
        level: Spread of the noise that is to go.

    Raises:
        UsageError: If scikit-image is not installed.
    """
    try:
        means: Any = import_module("skimage.restoration").denoise_nl_means
    except ImportError:
        raise UsageError("scikit-image is not installed", remedy="pip install scikit-image") from None
    box, _ = mask_box(mask, margin=_PATCH)
    words = {"patch_size": _PATCH, "patch_distance": _DISTANCE, "fast_mode": True}
    out = np.zeros_like(image)
    out[box] = means(np.where(mask, image, 0)[box], h=_ALIKE * level, sigma=level, **words)
    return np.where(mask, out, 0).astype(np.float32)


class DenoisedMatch(Taught):
    r"""N4, matching, non-local means, matching.

    The strength is what the scan has above the target's people, :math:`\sqrt{\sigma_y^2 - \bar\sigma_t^2}`; a scan
    that is no noisier than the noisiest of them is left alone.
    """

    name: ClassVar[str] = "denoise-match"
    levels: NDArray[np.float64] = np.zeros(1)

    def look(self, say: Say) -> None:
        """How noisy they are."""
        self.levels = np.array([noise_level(p.image, p.mask) for p in self.training])

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[Image]:
        """Scan by scan."""
        return [self._one(s, material.target) for s in scans]

    def _one(self, scan: Picture, target: Target) -> Image:
        image = harmonize_match(scan.image, scan.mask, target).image
        level = noise_level(image, scan.mask)
        if level <= self.levels.max():
            return image
        above = float(np.sqrt(level**2 - np.mean(self.levels**2)))
        return harmonize_match(denoised(image, scan.mask, above), scan.mask, target).image


# Widths of Gaussians that blur, voxels; of the one that sharpens, and how strongly.
_BLUR, _EDGE, _STRENGTH = (0.2, 3.0), 1.0, (0.0, 6.0)
_HALVINGS, _SWEEPS, _LINES = 10, 2, 4


def as_soft_as(image: Image, mask: Mask, widths: NDArray[np.float64]) -> Image:
    r"""The image with these widths along its axes: blurred where it is sharper, sharpened where it is softer.

    Along each axis :math:`G_\sigma x`, or unsharp masking :math:`x + a\,(x - G_1 x)`, with :math:`\sigma` or :math:`a`
    found by halving on every fourth line in either direction. Sharpening has an end: at :math:`a = 6` it stops.

    Args:
        image: Shape ``(X, Y, Z)``, zero outside the mask.
        mask: Brain.
        widths: Wanted, as :func:`~blindharmony.quality.metrics.widths_mm` measures them on voxels of 1 mm.
    """
    box, _ = mask_box(mask, margin=2)
    inside, found = mask[box], np.where(mask, image, 0)[box].astype(np.float32)
    # What is done along one axis changes the variance, and with it the others a little.
    for _ in range(_SWEEPS):
        for axis in range(3):
            across = [slice(None, None, 1 if k == axis else _LINES) for k in range(3)]
            change, amount = _needed(found[tuple(across)], inside[tuple(across)], axis, float(widths[axis]))
            found = change(found, inside, axis, amount)
    out = np.zeros_like(image)
    out[box] = found
    return out


def _blurred(image: Image, mask: Mask, axis: int, sigma: float) -> Image:
    return inside_mean(image, mask, lambda x: ndimage.gaussian_filter1d(x, sigma, axis, mode="constant"))


def _sharpened(image: Image, mask: Mask, axis: int, strength: float) -> Image:
    return np.where(mask, image + np.float32(strength) * (image - _blurred(image, mask, axis, _EDGE)), 0)


_Change = Callable[[Image, Mask, int, float], Image]


def _needed(image: Image, mask: Mask, axis: int, width: float) -> tuple[_Change, float]:
    """What gives lines along an axis the width, and how much of it."""
    soft = bool(widths_mm(image, mask)[axis] > width)
    change: _Change = _sharpened if soft else _blurred
    low, high = _STRENGTH if soft else _BLUR
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # Sharpened until it is no longer too soft, blurred until it is no longer too sharp.
        if (widths_mm(change(image, mask, axis, middle), mask)[axis] > width) == soft:
            low = middle
        else:
            high = middle
    return change, (low + high) / 2


class SharpnessMatch(Taught):
    """N4, matching, the target's sharpness along each axis, matching."""

    name: ClassVar[str] = "sharp-match"
    widths: NDArray[np.float64] = np.full(3, np.nan)

    def look(self, say: Say) -> None:
        """How sharp they are."""
        self.widths = np.exp(np.mean([np.log(widths_mm(p.image, p.mask)) for p in self.training], 0))

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[Image]:
        """Scan by scan."""
        return [self._one(s, material.target) for s in scans]

    def _one(self, scan: Picture, target: Target) -> Image:
        image = harmonize_match(scan.image, scan.mask, target).image
        sharp = np.maximum(as_soft_as(image, scan.mask, self.widths), 0)
        return harmonize_match(sharp, scan.mask, target).image


class CombatImages(Taught):
    """N4 and matching, then ComBat for each voxel: the group is one site, the target's training scans the reference.

    Voxels that are not in every brain stay as matched. A voxel's features are what people have there after an affine
    registration, so differences of anatomy count as differences of people.
    """

    name: ClassVar[str] = "combat-images"
    together: ClassVar[bool] = True

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[Image]:
        """All scans at once."""
        matched = [harmonize_match(s.image, s.mask, material.target).image for s in scans]
        shared = np.logical_and.reduce([material.target.fit_region, *(p.mask for p in (*scans, *self.training))])
        voxels = np.stack([x[shared] for x in (*matched, *(p.image for p in self.training))])
        site = np.repeat(["source", "target"], [len(scans), len(self.training)])
        for x, values in zip(matched, combat(voxels, site, reference="target"), strict=False):
            x[shared] = np.maximum(values, 0)
        return matched
