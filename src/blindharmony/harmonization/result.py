"""What a harmonization method returns, in the flow's space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.error_bar import ErrorBar


class IntensityMap(Protocol):
    """A change of intensity that can be evaluated at any voxel of any grid."""

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Harmonized intensities of source intensities, both in flow units and of the same shape."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A harmonized image on the template grid.

    Attributes:
        image: Flow units, shape of the template grid, zero outside the mask.
        intensity_map: The part of the change that is a function of intensity; None if the
            method changes voxels freely.
        error: Harmonized intensity → standard deviation of its error, if the method knows it.
        refinement: Share of the restorer's change that was applied on top of the intensity map.
        trace: One entry for each optimisation step.
        figures: Numbers worth keeping.
        warnings: Plain sentences.
        doubts: Those of them for which a result must be looked at before it is used.
    """

    image: NDArray[np.float32]
    intensity_map: IntensityMap | None = None
    error: ErrorBar | None = None
    refinement: float = 0.0
    trace: Sequence[Mapping[str, float]] = ()
    figures: Mapping[str, float | str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    doubts: Sequence[str] = ()
