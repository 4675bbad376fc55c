r"""Where a head is unlike the target's: the flow's density as a map, place by place.

The flow's nats of every place (:meth:`~blindharmony.flows.pyramid.Pyramid.costs`) are averaged over its neighbours,
level by level, and compared with those of target scans that never trained, at the same place:

.. math:: z_k(v) = \frac{c_k(v) - m_k(v)}{s_k(v)}

A scan that is noisier than the target's, or of another scanner, costs more everywhere; so the scan's own median is
subtracted, and its own spread divides where it is more than one. What is left are places unlike the *rest of this
head*: a lesion, a resection, a part that is missing or mirrored, wrap-around. The levels' mean, times the root of
their number, is one map. The statistic is the mass of its largest cluster,

.. math:: M = \max_{C} \sum_{v \in C} (z(v) - z_0) ,

and its logarithm is compared with that of unseen target scans, each judged by the others.

Source: cluster mass as a statistic, Bullmore et al., IEEE TMI 18 (1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.device import on_device
from blindharmony.flows.bijection import LARGEST_VALUE
from blindharmony.models.target import Target
from blindharmony.quality.typicality import Image, Mask, reduced

Map = NDArray[np.float32]

#: Levels that are mapped: details of 2, 4 and 8 mm.
LEVELS = 3
# Standard deviation of the smoothing of each level in its own places (4, 8, 16 mm), and of the spread's in 4 mm.
_SMOOTH, _POOL = (1.5, 0.75, 0.5), 2.5
# The share of a place's neighbourhood that must be brain.
_LEAST = 0.5
_THRESHOLD = 2.5


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
    with on_device(target.pyramid, device) as flow, torch.inference_mode():
        x, inside = reduced(np.clip(image, -LARGEST_VALUE, LARGEST_VALUE), mask & target.fit_region, 1)
        maps = flow.costs(x.to(device), inside.to(device))[:LEVELS]
    return np.stack(
        [_averaged(nats[0].cpu().numpy(), numbers[0].cpu().numpy(), k) for k, (nats, numbers) in enumerate(maps)]
    )


def _averaged(nats: NDArray[np.floating], numbers: NDArray[np.integer], level: int) -> Map:
    cost, count = (ndimage.gaussian_filter(x.astype(np.float64), _SMOOTH[level]) for x in (nats, numbers))
    known = count > _LEAST
    rate = np.where(known, cost / np.where(known, count, 1), np.nan).astype(np.float32)
    for axis in range(3):
        rate = rate.repeat(2**level, axis)
    return rate


@dataclass(frozen=True, eq=False)
class LocalReference:
    """What every place costs in target scans that never trained.

    Attributes:
        mean: Shape ``(3, 40, 48, 40)``; NaN where fewer than four in five scans have brain.
        spread: Standard deviation, pooled over 2 to 3 cm, same shape.
        masses: Of each scan's largest cluster, judged by the others.
    """

    mean: Map
    spread: Map
    masses: tuple[float, ...] = ()

    @classmethod
    def of(cls, costs: Sequence[Map], *, judged: bool = True) -> LocalReference:
        """The reference that these scans are.

        Args:
            costs: Of each scan, see :func:`place_costs`; three at least.
            judged: Whether each is judged by the others too.
        """
        stack = np.stack(costs)
        known = np.isfinite(stack).mean(0) >= 0.8
        count = np.maximum(np.isfinite(stack).sum(0), 1)
        mean = np.where(known, np.nansum(stack, 0) / count, np.nan)
        variance = np.nansum((stack - mean) ** 2, 0) / np.maximum(count - 1, 1)
        pooled = [
            ndimage.gaussian_filter(np.where(k, v, 0.0), _POOL)
            / np.maximum(ndimage.gaussian_filter(k.astype(np.float64), _POOL), 1e-6)
            for v, k in zip(variance, known, strict=True)
        ]
        spread = np.sqrt(np.maximum(pooled, 1e-8))
        masses = [
            largest_cluster(unlike(costs[i], cls.of([c for j, c in enumerate(costs) if j != i], judged=False))).mass
            for i in range(len(costs) if judged else 0)
        ]
        return cls(mean.astype(np.float32), spread.astype(np.float32), tuple(masses))


def unlike(costs: Map, reference: LocalReference) -> Map:
    """How unlike the rest of its head each place is, in standard deviations of the target's own scans.

    Args:
        costs: See :func:`place_costs`.
        reference: Of the target.

    Returns:
        Shape ``(40, 48, 40)``; NaN where it is not known.
    """
    z = (costs - reference.mean) / reference.spread
    levels = []
    for level in z:
        middle = np.nanmedian(level)
        levels.append((level - middle) / max(1.0, 1.4826 * float(np.nanmedian(np.abs(level - middle)))))
    return np.asarray(np.mean(levels, 0) * np.sqrt(len(levels)), np.float32)


@dataclass(frozen=True)
class Cluster:
    """The largest cluster of unlike places.

    Attributes:
        mass: Sum of what its places have above the threshold; 0 if there is none.
        ml: Its volume.
        centre: Voxel of the 1 mm template grid in its middle.
    """

    mass: float
    ml: float
    centre: tuple[int, int, int]


def largest_cluster(z: Map, threshold: float = _THRESHOLD) -> Cluster:
    """The cluster of the largest mass.

    Example:
        >>> z = np.zeros((8, 8, 8), np.float32)
        >>> z[2:4, 2, 2] = 4.5
        >>> largest_cluster(z)
        Cluster(mass=4.0, ml=0.128, centre=(12, 10, 10))
    """
    above = np.nan_to_num(z, nan=-np.inf) - threshold
    labels, count = ndimage.label(above > 0)
    if not count:
        return Cluster(0.0, 0.0, (0, 0, 0))
    masses = ndimage.sum(above, labels, range(1, count + 1))
    best = labels == int(np.argmax(masses)) + 1
    x, y, z_ = (round(4 * c + 2) for c in ndimage.center_of_mass(best))
    return Cluster(float(masses.max()), 0.064 * float(best.sum()), (x, y, z_))
