"""Whether a brain mask covers the brain, the whole brain, and nothing but the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from blindharmony.target import Target

# The worst of 63 good masks of four scanners misses 1.5 % and has 0.1 % outside. A missing cerebellum is 7 %, half
# a head 52 %; a mask that is 6 mm too thick has 2 % outside, a whole head 40 to 50 %.
_MISSED, _OUTSIDE = (0.03, 0.12), (0.01, 0.08)


class MaskFit(BaseModel):
    """How a scan's mask, on the template grid, compares with the masks of the target's training scans.

    Attributes:
        missed: Share that the mask leaves out of what *all* training masks cover (one voxel of 2 mm inside its
            border).
        outside: Share of the mask where *no* training mask has brain (one voxel of 2 mm beyond their border).
        size: Volume of the mask in units of the mean training mask, both on the template grid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    missed: float
    outside: float
    size: float

    @property
    def grade(self) -> int:
        """0: like the target's masks, 1: to be looked at, 2: not the brain.

        Example:
            >>> [MaskFit(missed=m, outside=0, size=1).grade for m in (0.01, 0.07, 0.5)]
            [0, 1, 2]
        """
        pairs = ((self.missed, _MISSED), (self.outside, _OUTSIDE))
        return max(sum(value > limit for limit in limits) for value, limits in pairs)

    def problems(self) -> list[str]:
        """What is wrong with it, one plain sentence each."""
        found = []
        if self.missed > _MISSED[0]:
            found.append(
                f"The mask misses {100 * self.missed:.0f} % of the brain that every scan of the target has: part of "
                "the head is cut off, or the mask is too small or misplaced."
            )
        if self.outside > _OUTSIDE[0]:
            found.append(
                f"{100 * self.outside:.0f} % of the mask lies where no scan of the target has brain: the mask is too "
                "big or misplaced, or the skull is not removed."
            )
        return found


def mask_fit(mask: NDArray[np.bool_], target: Target) -> MaskFit:
    """Compare a mask on the 1 mm template grid with the target's coverage.

    Args:
        mask: Shape ``(160, 192, 160)``.
        target: Its coverage is on the same grid at 2 mm.
    """
    nx, ny, nz = target.coverage.shape
    share = mask.reshape(nx, 2, ny, 2, nz, 2).mean((1, 3, 5))
    core = target.coverage > 0.999
    # Extractors differ by a voxel at the border, and a target of few scans knows its border less well.
    inner = ndimage.binary_erosion(core)
    core = inner if inner.any() else core
    never = ndimage.binary_erosion(target.coverage <= 0, border_value=1)
    total = float(share.sum())
    return MaskFit(
        missed=float(1 - share[core].mean()) if core.any() else 0.0,
        outside=float(share[never].sum()) / total if total else 0.0,
        size=total / max(float(target.coverage.sum()), 1.0),
    )
