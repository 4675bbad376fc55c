"""Whether tissues have the target's order of brightness: T1-weighted scans have dark CSF and bright white matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from blindharmony.harmonization.typicality import reduced
from blindharmony.target import Target

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
