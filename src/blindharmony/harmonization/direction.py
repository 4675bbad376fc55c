r"""Whether a result's intensities are nearer to the target's people than the scan's were.

.. math:: d(x) = \frac1U \sum_u \bigl| Q_x(u) - \operatorname{med}_s Q_s(u) \bigr|

:math:`Q_s` are the quantile curves of the target's scans. A person may be far from the median and stay there; a scan
that was nearer and ends beyond everybody was given a curve that is not its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.match import source_quantiles
from blindharmony.target import Target


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
