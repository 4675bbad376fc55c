r"""How probable an image is under the flow, beside unseen scans of the target.

How surprised the target's flow is by an image, and what its own unseen scans usually cost.

Where a number stands among the same number of a few known scans.

With :math:`n` known values of mean :math:`m` and spread :math:`s`, a new value :math:`x` of the same kind has

.. math:: \frac{x - m}{s\sqrt{1 + 1/n}} \sim t_{n-1},

if values are about normal. That is wide where :math:`n` is small, as it should be: four scans do not tell what one
scan in a hundred looks like.

Source: the predictive distribution of a normal sample, e.g. Gelman et al., Bayesian Data Analysis, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from blindharmony.device import on_device
from blindharmony.flows.bijection import LARGEST_VALUE
from blindharmony.flows.pyramid import Density
from blindharmony.flows.transforms import haar_split
from blindharmony.models.target import Target

LEAST_SPREAD = 0.15


def reduced(values: NDArray[np.float32], mask: NDArray[np.bool_], halvings: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A template-grid image at ``1 mm · 2^halvings``, masked means, as ``(1, 1, ...)`` tensors with its mask."""
    x = torch.from_numpy(np.where(mask, values, 0).astype(np.float32))[None, None]
    inside = torch.from_numpy(mask)[None, None]
    for _ in range(halvings):
        level = haar_split(x, inside)
        x, inside = level.coarse, level.coarse_mask
    return x, inside


@dataclass(frozen=True)
class Typicality:
    """Bits a voxel of an image under the target's flow, beside those of held-out target scans.

    Attributes:
        bits: Of this image, all levels together.
        levels: Of each level, finest first, the coarsest image last.
        excesses: ``(bits − mean) / sd`` of the held-out scans for each level; 0 is typical.
    """

    bits: float
    levels: tuple[float, ...]
    excesses: tuple[float, ...]

    @property
    def excess(self) -> float:
        """The largest excess of any level: contrast shows in coarse levels, which hold few of the voxels."""
        return max(self.excesses)


def typicality(
    image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target, *, device: str = "cpu"
) -> Typicality | None:
    """Judge a template-grid image in flow units; None if the target has no whole-volume flow or no held-out scans."""
    if target.pyramid is None or not target.info.held_out.level_bits:
        return None
    # A single wild voxel is improbable enough at the largest value that the flow takes.
    image = np.clip(image, -LARGEST_VALUE, LARGEST_VALUE)
    with torch.inference_mode(), on_device(target.pyramid, device) as flow:
        x, inside = reduced(image, mask & target.fit_region, 1)
        density = flow.density(x.to(device), inside.to(device))
    found = level_bits(density)
    known = np.array(target.info.held_out.level_bits)
    spread = known.std(0, ddof=1) if len(known) > 1 else np.zeros(len(found))
    # With a handful of held-out scans the spread is a guess; a small one would cry wolf.
    excesses = (np.array(found) - known.mean(0)) / np.maximum(spread, LEAST_SPREAD)
    return Typicality(float(density.bits_per_dim()[0]), found, tuple(excesses.tolist()))


def level_bits(density: Density) -> tuple[float, ...]:
    """Bits a number of each level of one image, finest first."""
    nats, numbers = density.nats[0].double(), density.numbers[0].double()
    return tuple((-nats / numbers / np.log(2) + 8).tolist())


# One target scan in fifty. With four held-out scans that is 4 of their spreads.
_RARE = 0.02
_FEW = 4.0


class Standing(BaseModel):
    """One number of a scan beside those of known target scans.

    Attributes:
        name: What was measured.
        value: Of this scan; bits a voxel, or the unit that ``name`` implies.
        excess: ``(value − mean) / spread`` of the known scans.
        quantile: Share of target scans expected below this value (predictive t); None with fewer than two known.
        rank: How many of the known scans lie below.
        known: How many there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    excess: float
    quantile: float | None
    rank: int
    known: int

    @property
    def high(self) -> bool:
        """Whether hardly any target scan has so much."""
        return self.excess > _FEW if self.quantile is None else self.quantile > 1 - _RARE

    @property
    def low(self) -> bool:
        """Whether hardly any target scan has so little."""
        return self.excess < -_FEW if self.quantile is None else self.quantile < _RARE


def standing(name: str, value: float, known: Sequence[float], *, least_spread: float = 0.0) -> Standing:
    """Compare a value with known ones.

    Args:
        name: What was measured.
        value: Of the scan.
        known: Of target scans.
        least_spread: A smaller spread of the known ones is not believed.

    Example:
        >>> found = standing("x", 4.0, [0.0, 1.0, 2.0])
        >>> found.excess, found.rank, round(found.quantile, 3), found.high
        (3.0, 3, 0.939, False)
    """
    values = np.array(known, np.float64)
    spread = max(float(values.std(ddof=1)) if values.size > 1 else 0.0, least_spread, np.finfo(np.float64).tiny)
    excess = (value - float(values.mean())) / spread if values.size else 0.0
    quantile = None
    if values.size > 1:
        quantile = float(stats.t.cdf(excess / np.sqrt(1 + 1 / values.size), values.size - 1))
    return Standing(
        name=name,
        value=value,
        excess=excess,
        quantile=quantile,
        rank=int((values < value).sum()),
        known=values.size,
    )


def rare_excess(known: int) -> float:
    """The excess that one target scan in fifty has, as far as so many known ones can tell.

    Example:
        >>> [round(rare_excess(n), 1) for n in (1, 4, 20)]
        [4.0, 3.9, 2.3]
    """
    return float(stats.t.ppf(1 - _RARE, known - 1) * np.sqrt(1 + 1 / known)) if known > 1 else _FEW


def level_names(target: Target) -> list[str]:
    """The levels of a target's pyramid in words, finest first, the coarsest image last.

    Example:
        >>> from blindharmony.models.file import load_target
        >>> level_names(load_target("ds002748"))[::4]
        ['detail at 2 mm', 'brightness at 32 mm']
    """
    pyramid = target.info.pyramid
    if pyramid is None:
        return []
    details = [f"detail at {pyramid.finest_mm * 2**k:g} mm" for k in range(len(pyramid.widths))]
    return [*details, f"brightness at {pyramid.finest_mm * 2 ** len(pyramid.widths):g} mm"]


def flow_standings(found: Typicality | None, target: Target) -> list[Standing]:
    """Bits a voxel of every level, then of all together, beside the held-out scans; empty without a flow."""
    if found is None:
        return []
    held_out = target.info.held_out
    known = list(zip(*held_out.level_bits, strict=True)) or [()] * len(found.levels)
    rows = [
        standing(name, bits, of_known, least_spread=LEAST_SPREAD)
        for name, bits, of_known in zip(level_names(target), found.levels, known, strict=True)
    ]
    return [*rows, standing("in all", found.bits, held_out.bits_per_dim, least_spread=LEAST_SPREAD)]


def intensity_standing(quantiles: np.ndarray, target: Target) -> Standing | None:
    r"""How far a scan's quantile curve lies from the target's mean curve, beside the target's own scans.

    The distance is the root mean square over ranks, in flow units; each scan of the target is compared with the mean
    of the others. Distances are compared on a log scale, as they are positive and skewed.

    Args:
        quantiles: Of the scan at the target's ranks, flow units, shape ``(Q,)``.
        target: Its scans' curves are used.

    Returns:
        None with fewer than three curves.
    """
    curves = target.quantiles
    if len(curves) < 3:
        return None
    others = (curves.sum(0) - curves) / (len(curves) - 1)
    known = np.sqrt(((curves - others) ** 2).mean(1))
    distance = float(np.sqrt(((quantiles - curves.mean(0)) ** 2).mean()))
    found = standing("intensities", float(np.log(distance + 1e-6)), np.log(known + 1e-6).tolist(), least_spread=0.3)
    return found.model_copy(update={"value": distance})
