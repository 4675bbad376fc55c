r"""How far a curve may be off, at each intensity: one standard deviation, from how the person model errs.

.. math:: \sigma(u)^2 = \frac{(1-s)\, e(u)^2 + s\, d(u)^2}{n}

:math:`e(u)` is the error at rank :math:`u` about target heads that the model had not seen, :math:`d(u)` how much those
heads differ from their mean, :math:`s` the surprise of the scan, :math:`n` the number of scans that were fitted
together. It says nothing about noise, blur or a wrong mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blindharmony.target.person import PersonModel

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ErrorBar:
    """Harmonized intensity → one standard deviation of its error, both in flow units.

    Example:
        >>> bar = ErrorBar(np.array([0.0, 1.0]), np.array([0.01, 0.03]))
        >>> bar(np.array([0.5, 2.0], np.float32)).astype(float).round(3).tolist()
        [0.02, 0.03]
    """

    at: Array
    deviation: Array

    def __call__(self, harmonized: NDArray[np.float32]) -> NDArray[np.float32]:
        """The deviation at each voxel."""
        return np.interp(harmonized, self.at, self.deviation).astype(np.float32)


def error_bar(person: PersonModel, curve: Array, *, surprise: float, scans: int = 1) -> ErrorBar:
    """The error bar of a curve.

    Args:
        person: The target's person model.
        curve: Harmonized intensities at the target's ranks, shape ``(Q,)``.
        surprise: Of the scan.
        scans: How many were fitted together.
    """
    variance = (1 - surprise) * person.error**2 + surprise * person.spread**2
    return ErrorBar(np.maximum.accumulate(curve), np.sqrt(variance / scans))
