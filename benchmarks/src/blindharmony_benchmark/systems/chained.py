r"""Histogram matching with one more step before it: what a laboratory would put together from parts that it knows.

- :class:`PowerMatch`, :class:`PooledPowerMatch`: N4 works in the contrast in which it finds a scan. So one exponent is
  fitted to the logarithms of the quantiles, by least squares over ranks :math:`u`,

  .. math:: (p, c) = \arg\min \sum_u \bigl(\log \bar Q(u) - p \log Q_y(u) - c\bigr)^2

  and N4 is run again on the scan as it came to the power of :math:`p`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.summary import harmonize_match, source_quantiles
from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import prepare_in_contrast
from blindharmony_benchmark.heads import inside_of
from blindharmony_benchmark.system import Material, Picture, Sees, System
from blindharmony_benchmark.systems.classical import pooled

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
