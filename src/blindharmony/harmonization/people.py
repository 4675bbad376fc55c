r"""How the intensities of the target scanner differ between people: a few numbers per head.

A quantile curve :math:`Q(u)` gives the intensity of rank :math:`u` inside the fit region. Over the target's training
scans

.. math:: Q_i(u) \approx \bar Q(u) + \sum_{k=1}^{K} c_{ik}\, s_k\, v_k(u), \qquad c_{ik} \sim N(0, 1),

with the first principal components :math:`v_k` and their spreads :math:`s_k`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MIN_STEP = 1e-5


@dataclass(frozen=True, eq=False)
class People:
    """The target's mean quantile curve and how people differ from it.

    Attributes:
        levels: Ranks, shape ``(Q,)``.
        curves: One curve for each training scan, shape ``(S, Q)``.
        components: How many principal components are kept.

    Example:
        >>> curves = np.linspace(0, 1, 5) * np.array([[1.0], [1.1], [1.2]])
        >>> people = People(np.linspace(0.1, 0.9, 5), curves, components=1)
        >>> people.curve(np.zeros(1)).round(3).tolist()
        [0.0, 0.275, 0.55, 0.825, 1.1]
        >>> people.coefficients(curves[0]).round(2).tolist()
        [-1.0]
    """

    levels: Array
    curves: Array
    components: int = 4

    @cached_property
    def mean(self) -> Array:
        """The pooled curve, what masked histogram matching matches to."""
        return np.asarray(self.curves.mean(0))

    @cached_property
    def modes(self) -> Array:
        """``s_k v_k(u)``: one standard deviation along each component, shape ``(K, Q)``, signs fixed."""
        if len(self.curves) < 3:
            return np.zeros((0, self.levels.size))
        _, spread, rows = np.linalg.svd(self.curves - self.mean, full_matrices=False)
        keep = min(self.components, len(self.curves) - 2)
        modes = rows[:keep] * spread[:keep, None] / np.sqrt(len(self.curves) - 1)
        return np.asarray(modes * np.where(modes.sum(1) < 0, -1.0, 1.0)[:, None], np.float64)

    def curve(self, coefficients: Array) -> Array:
        """The increasing quantile curve of a person with these coefficients, shape ``(Q,)``."""
        curve = self.mean + coefficients @ self.modes
        # Far from the mean a sum of components may fold over; an intensity curve must not.
        return np.asarray(np.maximum.accumulate(curve) + _MIN_STEP * np.arange(curve.size))

    def coefficients(self, curve: Array) -> Array:
        """The coefficients that describe a curve best (least squares), shape ``(K,)``."""
        return np.asarray(np.linalg.lstsq(self.modes.T, curve - self.mean, rcond=None)[0], np.float64)
