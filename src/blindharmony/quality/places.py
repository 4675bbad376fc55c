r"""Where a head is unlike the target's: the flow's density and the tissue's brightness as maps, place by place.

The flow's nats of every place (:meth:`~blindharmony.flows.pyramid.Pyramid.costs`) are averaged over its neighbours,
level by level, and compared with those of the target's own scans at the same place:

.. math:: z_k(v) = \frac{c_k(v) - m_k(v)}{s_k(v)}

A scan that is noisier than the target's, or of another scanner, costs more everywhere; so the scan's own median is
subtracted, and its own spread divides where it is more than one. What is left are places unlike the *rest of this
head*: a lesion, a resection, an artifact. The levels' mean, times the root of their number, smoothed a little, is one
map. The statistic is its maximum,

.. math:: M = \max_v z(v) ,

whose logarithm is compared with that of the target's own scans, each judged by other people: the rate of false alarms
holds for the whole head, not for a place. What harmonizing itself has made unlike is not the head's: the smaller of
the maps before and after counts.

Arteries that blood flowing in makes bright differ between sequences, not between heads, and so does signal that piles
up at the base of the brain, above the air of the sinuses. Both are made as bright as white matter first.

To a density of details gray matter is as probable in the middle of white matter as anywhere. So a second map is the
mean darkness of a place, as a share of the target's white matter, once the scan's ranks are given the target's mean
curve (an increasing curve of a scanner changes nothing of it),

.. math:: c(v) = 1 - \overline{x}(v) / w ,

of what is neither fluid nor next to it: large ventricles are not dark tissue. It is compared in the same way, and its
maximum has limits of its own.

Source: the maximum as a statistic, Nichols and Holmes, Human Brain Mapping 15 (2002).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.device import on_device
from blindharmony.flows.bijection import LARGEST_VALUE
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import inside_only, region_quantiles
from blindharmony.models.target import PLACE_LEVELS, Places, Target
from blindharmony.preprocessing.grid import mask_box
from blindharmony.quality.typicality import Image, Mask, reduced, white_matter

Map = NDArray[np.float32]

#: Scans that must have taught a target before its places are judged: flows of few scans know those too well.
FEWEST = 20
# Standard deviation of the smoothing of each level in its own places (4, 8, 16 mm), of the spread's and of the map's
# in places of 4 mm.
_SMOOTH, _POOL, _LAST = (1.5, 0.75, 0.5), 2.5, 0.8
# Darker than this share of white matter is fluid; what is counted is one voxel away from it, smoothed in places of
# 4 mm, and at least so many voxels around a place.
_FLUID, _TISSUE_SMOOTH, _TISSUE_LEAST = 0.58, 1.0, 24
_BRIGHTEST = 1.15  # of white matter: vessels and noise count no more
# The base of the brain in template voxels (MNI z below −2 mm), how far up signal piles up from it, and how near to it
# such a pile begins.
_BASE, _PILE, _FOOT = 74, 10, 3
# The share of a place's neighbourhood that must be brain, and of the scans that must have brain there.
_LEAST, _SHARED = 0.5, 0.8
# Brighter than white matter, and gone after an opening by this ball of voxels: an artery.
_BRIGHT = 1.2
_BALL = np.linalg.norm(np.indices((5, 5, 5)) - 2, axis=0) < 2.3


def place_costs(image: Image, mask: Mask, target: Target, *, device: str = "cpu") -> Map | None:
    """Nats per number around every place, for each level.

    Args:
        image: Template grid, flow units.
        mask: Brain.
        target: Its flow is asked.
        device: Where the flow runs.

    Returns:
        Shape ``(3, 40, 48, 40)``, places of 4 mm; NaN where there is no brain. None if the target has no flow.
    """
    if target.pyramid is None:
        return None
    plain = without_bright_artifacts(np.clip(image, -LARGEST_VALUE, LARGEST_VALUE), mask, white_matter(target))
    with on_device(target.pyramid, device) as flow, torch.inference_mode():
        x, inside = reduced(plain, mask & target.fit_region, 1)
        maps = flow.costs(x.to(device), inside.to(device))[:PLACE_LEVELS]
    return np.stack(
        [_averaged(nats[0].cpu().numpy(), numbers[0].cpu().numpy(), k) for k, (nats, numbers) in enumerate(maps)]
    )


def place_darkness(image: Image, mask: Mask, target: Target) -> Map:
    """How dark the tissue around every place is, fluid left out, as a share of the target's white matter.

    Args:
        image: Template grid, any increasing curve of a prepared scan.
        mask: Brain.
        target: Gives the intensities of its mean curve.

    Returns:
        Shape ``(1, 40, 48, 40)``, places of 4 mm; NaN where there is hardly any tissue.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    white = white_matter(target)
    quantiles, region = region_quantiles(image, mask, target)
    matched = inside_only(image, mask, CurveMap.through(quantiles, target.mean_curve))
    matched = without_bright_artifacts(matched, mask, white) / np.float32(white)
    tissue = region & ~ndimage.binary_dilation((matched < _FLUID) | ~mask)
    number, sum_of = (
        ndimage.gaussian_filter(_in_places(x), _TISSUE_SMOOTH)
        for x in (tissue.astype(np.float32), np.where(tissue, np.minimum(matched, _BRIGHTEST), 0))
    )
    known = number > _TISSUE_LEAST
    return np.where(known, 1 - sum_of / np.where(known, number, 1), np.nan).astype(np.float32)[None]


def _in_places(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sums over places of 4 mm."""
    i, j, k = (n // 4 for n in x.shape)
    sums: NDArray[np.float64] = x.reshape(i, 4, j, 4, k, 4).sum((1, 3, 5), dtype=np.float64)
    return sums


def without_bright_artifacts(image: Image, mask: Mask, white: float) -> Image:
    """The image with thin bright structures, and bright ones at the base of the brain, as bright as white matter.

    Args:
        image: 1 mm voxels, template grid, any unit.
        mask: Brain.
        white: Intensity of white matter in that unit.

    Example:
        >>> head = np.ones((12, 12, 12), np.float32)
        >>> head[2] = 2.0  # a sheet of 1 mm
        >>> head[6:] = 2.0  # a block
        >>> plain = without_bright_artifacts(head, head > 0, 1.0)
        >>> float(plain[2, 6, 11]), float(plain[9, 6, 11]), float(plain[9, 6, 1])
        (1.0, 2.0, 1.0)
    """
    bright = (image > _BRIGHT * white) & mask
    if not bright.any():
        return image
    box, _ = mask_box(bright, margin=0)
    kernel = ~_grown(~bright[box], beyond=True)
    thin = bright.copy()
    thin[box] &= ~_grown(_grown(kernel))
    _add_piles(thin, bright, mask)
    return np.where(thin, np.float32(white), image).astype(np.float32)


def _add_piles(thin: Mask, bright: Mask, mask: Mask) -> None:
    """Signal that air of the sinuses piles up at the brain's base: columns that are bright from their foot upward.

    A bright place a few millimeters above the base, such as a lesion, is none.
    """
    height = np.arange(min(_BASE, mask.shape[2])) - np.where(mask.any(2), mask.argmax(2), mask.shape[2])[..., None]
    piled = np.zeros(mask.shape[:2], bool)
    for k in range(height.shape[2]):
        foot = (height[..., k] >= 0) & (height[..., k] < _FOOT)
        piled = bright[..., k] & (piled | foot) & (height[..., k] < _PILE)
        thin[..., k] |= piled


def _grown(there: Mask, *, beyond: bool = False) -> Mask:
    """Dilated by the ball; ``beyond`` is what lies outside. Row by row of the ball: five times as fast as SciPy's."""
    size = there.shape
    wide = np.pad(there, 2, constant_values=beyond)
    below, low, here, high, above = (wide[..., k : k + size[2]] for k in range(5))
    three = low | here | high
    rows = {1: here, 3: three, 5: below | three | above}
    grown = np.zeros(size, bool)
    for i, j in zip(*np.nonzero(_BALL.any(2)), strict=True):
        grown |= rows[int(_BALL[i, j].sum())][i : i + size[0], j : j + size[1]]
    return grown


def _averaged(nats: NDArray[np.floating], numbers: NDArray[np.integer], level: int) -> Map:
    cost, count = (ndimage.gaussian_filter(x.astype(np.float64), _SMOOTH[level]) for x in (nats, numbers))
    known = count > _LEAST
    rate = np.where(known, cost / np.where(known, count, 1), np.nan).astype(np.float32)
    for axis in range(3):
        rate = rate.repeat(2**level, axis)
    return rate


def usual_places(costs: Sequence[Map], people: Sequence[Hashable] | None = None) -> Places:
    """What the places of these scans cost, and how unlike the others the most unlike place of each is.

    Args:
        costs: Of each scan, see :func:`place_costs` and :func:`place_darkness`.
        people: Whose scan it is; nobody is judged by another scan of himself. All are others if None.

    Raises:
        ValueError: If there are fewer than three people.
    """
    people = range(len(costs)) if people is None else people
    if len(set(people)) < 3:
        raise ValueError("what is usual at a place takes three people at least")
    everybody = _Sums.of(costs)
    of_person: dict[Hashable, list[Map]] = {}
    for person, cost in zip(people, costs, strict=True):
        of_person.setdefault(person, []).append(cost)
    others = {person: everybody.without(_Sums.of(own)).usual for person, own in of_person.items()}
    largest = [
        most_unlike(unlike(cost, Places(*others[person], np.zeros(0)))).z
        for person, cost in zip(people, costs, strict=True)
    ]
    # Kept with half the digits, a hundredth of the spread between scans: who learns a target and who reads it from its
    # file shall see the same.
    mean, spread = (x.astype(np.float16).astype(np.float32) for x in everybody.usual)
    return Places(mean, spread, np.array(largest))


@dataclass(frozen=True)
class _Sums:
    """Sums over scans, so that nobody's own have to be left out by adding up all the others again."""

    scans: int
    count: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, costs: Sequence[Map]) -> _Sums:
        shape = costs[0].shape
        count, total, squares = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
        for cost in costs:
            x = np.nan_to_num(cost.astype(np.float64))
            count += np.isfinite(cost)
            total += x
            squares += x**2
        return cls(len(costs), count, total, squares)

    def without(self, some: _Sums) -> _Sums:
        return _Sums(
            self.scans - some.scans, self.count - some.count, self.total - some.total, self.squares - some.squares
        )

    @property
    def usual(self) -> tuple[Map, Map]:
        """Mean and spread of these scans."""
        known = self.count >= _SHARED * self.scans
        mean = self.total / np.maximum(self.count, 1)
        variance = np.maximum(self.squares - self.count * mean**2, 0) / np.maximum(self.count - 1, 1)
        pooled = [
            ndimage.gaussian_filter(np.where(k, v, 0.0), _POOL)
            / np.maximum(ndimage.gaussian_filter(k.astype(np.float64), _POOL), 1e-6)
            for v, k in zip(variance, known, strict=True)
        ]
        spread = np.sqrt(np.maximum(pooled, 1e-8))
        return np.where(known, mean, np.nan).astype(np.float32), spread.astype(np.float32)


def unlike(costs: Map, usual: Places) -> Map:
    """How unlike the rest of its head each place is, in standard deviations of the target's own scans.

    Args:
        costs: See :func:`place_costs` and :func:`place_darkness`.
        usual: Of the target.

    Returns:
        Shape ``(40, 48, 40)``; NaN where it is not known, and at the brain's rim, where masks differ.
    """
    z = (costs - usual.mean) / usual.spread
    if not np.isfinite(z).any((1, 2, 3)).all():
        return np.full(z.shape[1:], np.nan, np.float32)
    levels = []
    for level in z:
        middle = np.nanmedian(level)
        levels.append((level - middle) / max(1.0, 1.4826 * float(np.nanmedian(np.abs(level - middle)))))
    together = np.mean(levels, 0) * np.sqrt(len(levels))
    known = np.isfinite(together) & ndimage.binary_erosion(np.isfinite(usual.mean).all(0))
    weight = ndimage.gaussian_filter(known.astype(np.float64), _LAST)
    smooth = ndimage.gaussian_filter(np.where(known, together, 0.0), _LAST) / np.maximum(weight, 0.3)
    return np.where(known, smooth, np.nan).astype(np.float32)


@dataclass(frozen=True, eq=False)
class UnlikePlace:
    """The place of a head that is most unlike the target's.

    Attributes:
        z: How unlike, in standard deviations of the target's own scans at this place; 0 if no place is known.
        ml: Volume of the connected places that are at least half as unlike.
        centre: Their middle, as a voxel of the 1 mm template grid.
        region: These places, shape ``(40, 48, 40)``.
    """

    z: float
    ml: float
    centre: tuple[int, int, int]
    region: NDArray[np.bool_] = field(repr=False)


def most_unlike(z: Map) -> UnlikePlace:
    """The most unlike place of a map.

    Example:
        >>> z = np.zeros((8, 8, 8), np.float32)
        >>> z[2:4, 2, 2] = 9.0
        >>> most_unlike(z)
        UnlikePlace(z=9.0, ml=0.128, centre=(12, 10, 10))
    """
    plain = np.nan_to_num(z, nan=0.0)
    highest = float(plain.max())
    if highest <= 0:
        return UnlikePlace(0.0, 0.0, (0, 0, 0), np.zeros(z.shape, bool))
    labels, _ = ndimage.label(plain >= highest / 2)
    at = labels == labels[np.unravel_index(np.argmax(plain), plain.shape)]
    i, j, k = (round(4 * c + 2) for c in ndimage.center_of_mass(at))
    return UnlikePlace(highest, 0.064 * float(at.sum()), (i, j, k), at)


def likeness_of_halves(image: Image, mask: Mask) -> float:
    r"""Highest correlation of a head with its own mirror image, over planes near its middle.

    Nobody's halves are alike: heads have 0.38 to 0.54, blurred by a Gaussian of 3 mm up to 0.82. Near 1, one half is a
    copy of the other. A copy is made on the scan's own grid, so it is looked for there.

    Args:
        image: The scan's own grid, any unit; its first axis runs from left to right.
        mask: Brain.

    Returns:
        In [−1, 1]; 0 if nothing is left to compare.

    Example:
        >>> half = np.random.default_rng(0).random((20, 36, 36))
        >>> copied = np.concatenate([half, half[::-1]])
        >>> whole = np.random.default_rng(1).random(copied.shape)
        >>> round(likeness_of_halves(copied, copied > 0), 2), likeness_of_halves(whole, whole > 0) < 0.1
        (1.0, True)
    """
    there = np.flatnonzero(mask.any((1, 2)))
    if not there.size:
        return 0.0
    part = slice(there[0], there[-1] + 1), slice(None, None, 3), slice(None, None, 3)
    image, mask = image[part], mask[part]
    count, highest = len(image), 0.0
    # The plane lies between or on voxels; a sixteenth of the head's width to either side.
    for shift in range(-(count // 8), count // 8 + 1):
        near = slice(max(shift, 0), count + min(shift, 0))
        x, inside = image[near], mask[near]
        both = inside & inside[::-1]
        if both.sum() > mask.sum() / 2 and np.ptp(x[both]) > 0:
            highest = max(highest, float(np.corrcoef(x[both], x[::-1][both])[0, 1]))
    return highest
