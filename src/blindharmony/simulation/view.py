"""What a simulated scanner gets to see of a scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEVEL_QUANTILE = 0.9


@dataclass(frozen=True, eq=False)
class View:
    """A scan on its way through a simulated scanner.

    Attributes:
        image: Intensities, shape ``(X, Y, Z)``, any unit. Exact zeros are background: they carry no data.
        mask: Brain, same shape; statistics are taken here, the change itself is made everywhere.
        spacing: Voxel size along each axis, mm.
        labels: 0 none, 1 CSF, 2 grey, 3 white matter, same shape, or None.
        slice_axis: The array axis closest to inferior-superior.
        top: Intensity that the monotone domains call 1; the scan's own maximum in the mask if None.
        level: Intensity that noise is measured against; the scan's own :func:`reference_level` if None.
    """

    image: Array
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    labels: NDArray[np.uint8] | None = None
    slice_axis: int = 2
    top: float | None = None
    level: float | None = None

    @property
    def data(self) -> NDArray[np.bool_]:
        """Where there is data: every voxel that is not exactly zero."""
        return np.asarray(self.image != 0)


def reference_level(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """A robust intensity of about white matter in a T1-weighted scan: the 90th percentile inside the mask.

    Bright vessels and remnants of fat do not move it, and it needs no labels.

    Example:
        >>> reference_level(np.arange(11.0).reshape(1, 1, 11), np.ones((1, 1, 11), bool))
        9.0
    """
    return float(np.quantile(image[mask], _LEVEL_QUANTILE))
