r"""What is wrong with a mask, the order of tissues, or the way a scan was moved.

Whether a brain mask covers the brain, the whole brain, and nothing but the brain.

Whether tissues have the target's order of brightness: T1-weighted scans have dark CSF and bright white matter.

Whether a result's intensities are nearer to the target's people than the scan's were.

.. math:: d(x) = \frac1U \sum_u \bigl| Q_x(u) - \operatorname{med}_s Q_s(u) \bigr|

:math:`Q_s` are the quantile curves of the target's scans. A person may be far from the median and stay there; a scan
that was nearer and ends beyond everybody was given a curve that is not its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage, stats

from blindharmony.harmonization.summary import source_quantiles
from blindharmony.models.target import Target
from blindharmony.quality.typicality import reduced

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


# T1-weighted scans of four scanners have 0.52 to 0.71; noise has 0, an inverted scan the same with a minus sign.
_LEAST = 0.25


def tissue_order(image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target) -> float:
    r"""Spearman's rank correlation of the scan with the target's mean head at 2 mm.

    No increasing intensity curve changes it, so what it finds wrong no such curve can mend.

    Args:
        image: Template grid, any unit.
        mask: Brain.
        target: Its mean image and coverage are used.

    Returns:
        In [−1, 1]; 0 if nothing is left to compare.
    """
    x, inside = (t[0, 0].numpy() for t in reduced(image, mask, 1))
    region = inside & (target.coverage > 0.5)
    if region.sum() < 2 or np.ptp(x[region]) == 0:
        return 0.0
    return float(stats.spearmanr(x[region], target.mean_image[region]).statistic)


def order_problem(order: float, contrast: str) -> str | None:
    """One plain sentence if the order is not the target's, else None.

    Example:
        >>> order_problem(0.6, "T1w") is None, "swapped" in order_problem(-0.5, "T1w")
        (True, True)
    """
    if order >= _LEAST:
        return None
    if order <= -_LEAST:
        return (
            f"Dark and bright tissue are swapped (rank correlation with the target's mean head {order:.2f}): the "
            f"target is {contrast}, this looks like another contrast, such as T2, or an inverted image."
        )
    return (
        f"Bright and dark are not where the target has them (rank correlation with its mean head {order:.2f}): "
        "noise, a misplaced head, or no brain."
    )


def moved_away(
    before: NDArray[np.float32], after: NDArray[np.float32], mask: NDArray[np.bool_], target: Target
) -> str | None:
    """One sentence if the result is farther from the target than the scan, and than all of the target's own scans.

    Args:
        before: Prepared scan, template grid, flow units.
        after: Result, likewise.
        mask: Brain.
        target: The target.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    middle = np.median(target.quantiles, axis=0)
    one, other = (float(np.abs(source_quantiles(x, mask, target)[0] - middle).mean()) for x in (before, after))
    usual = float(np.abs(target.quantiles - middle).mean(1).max())
    if other <= max(one, usual):
        return None
    return (
        f"Harmonizing moved the scan's intensities away from the target's: {other / usual:.1f} times as far from its "
        f"median scan as the farthest of its own ({one / usual:.1f} times before)."
    )
