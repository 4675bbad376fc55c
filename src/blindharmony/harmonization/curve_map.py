"""An increasing intensity curve as a function that can be applied to any voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The slope beyond the last knot comes from the brightest part of the curve below it, and stays within reason.
_TOP_SHARE = 0.15
_POWERS = (0.25, 2.5)


@dataclass(frozen=True, eq=False)
class CurveMap:
    """Source intensity → harmonized intensity, piecewise linear, increasing, zero to zero.

    Attributes:
        x: Source intensities at the knots, strictly increasing, starting at 0.
        y: Harmonized intensities, increasing, starting at 0.

    Example:
        >>> curve = CurveMap.through(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
        >>> curve(np.array([0.0, 0.5, 1.5, 3.0])).astype(float).round(1).tolist()
        [0.0, 1.0, 2.5, 3.9]
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @classmethod
    def through(cls, x: NDArray[np.float64], y: NDArray[np.float64]) -> CurveMap:
        """The curve through matched quantiles; ties of the source are joined, dark ends go to zero.

        Args:
            x: Source quantiles, not decreasing.
            y: Harmonized quantiles at the same ranks, not decreasing.
        """
        # Far below the brightest there is nothing but rounding, and a slope over it would be absurd.
        positive = x > 1e-6 * x.max()
        knots, where = np.unique(x[positive], return_inverse=True)
        values = np.bincount(where, weights=y[positive]) / np.bincount(where)
        return cls(np.concatenate([[0.0], knots]), np.concatenate([[0.0], np.maximum(values, 0)]))

    @property
    def end_power(self) -> float:
        r"""Beyond the last knot the curve goes on as :math:`y \propto x^p`: its power over the brightest 15 %."""
        start = np.interp((1 - _TOP_SHARE) * self.x[-1], self.x, self.y)
        if not 0 < start < self.y[-1]:
            return 1.0
        with np.errstate(over="ignore"):  # steeper than any number is steeper than is allowed
            return float(np.clip(np.log(self.y[-1] / start) / -np.log(1 - _TOP_SHARE), *_POWERS))

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Harmonized intensities; the curve of a negative value is that of its size, negative."""
        size = np.abs(values)
        out = np.asarray(np.interp(size, self.x, self.y))
        beyond = size > self.x[-1]
        out[beyond] = self.y[-1] * (size[beyond] / self.x[-1]) ** self.end_power
        # Noise around nothing stays noise: a slope at zero can be any, where a dark end is a power.
        return np.copysign(out, values).astype(np.float32)
