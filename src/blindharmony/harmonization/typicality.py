"""How surprised the target's flow is by an image, and what its own unseen scans usually cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from blindharmony.flow.bounds import LARGEST_VALUE
from blindharmony.flow.haar import haar_split
from blindharmony.flow.pyramid import Density
from blindharmony.target import Target

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
    flow = target.pyramid.to(device)
    try:
        with torch.inference_mode():
            # A single wild voxel is improbable enough at the largest value that the flow takes.
            image = np.clip(image, -LARGEST_VALUE, LARGEST_VALUE)
            x, inside = reduced(image, mask & target.fit_region, 1)
            density = flow.density(x.to(device), inside.to(device))
    finally:
        flow.to("cpu")  # where everybody else expects it
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
