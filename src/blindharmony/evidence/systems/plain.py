"""What costs nothing: no change, one gain, the bias field alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.evidence.system import Material, Picture, Say, Sees, System


class Nothing(System):
    """The scan as it came, on the template grid, with the gain that every scan gets."""

    name: ClassVar[str] = "nothing"
    sees: ClassVar[Sees] = "nothing"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """The scans."""
        return [s.plain for s in scans]


class BiasOnly(System):
    """The scan with N4's bias field taken out, in its own contrast: what most of the other systems start from."""

    name: ClassVar[str] = "n4"
    sees: ClassVar[Sees] = "nothing"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """The scans, corrected."""
        return [s.image for s in scans]


class MinMax(System):
    r"""One straight line: darkest to darkest, brightest to brightest voxel of the brain.

    .. math:: x = \bar a + (\bar b - \bar a) \frac{y - \min y}{\max y - \min y}

    with :math:`\bar a` and :math:`\bar b` the mean minimum and maximum of the target's training scans.
    """

    name: ClassVar[str] = "min-max"
    sees: ClassVar[Sees] = "target scans"

    def __init__(self) -> None:
        self.ends: tuple[float, float] | None = None

    def fit(self, material: Material, say: Say) -> None:
        """Mean minimum and maximum of the training scans."""
        if material.training:
            low, high = np.mean([_ends(p) for p in material.training], 0).tolist()
            self.ends = low, high

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """The scans on the target's range."""
        curve = material.target.mean_curve
        to_low, to_high = self.ends or (float(curve[0]), float(curve[-1]))
        found = []
        for scan in scans:
            low, high = _ends(scan)
            found.append(inside(scan, to_low + (to_high - to_low) * (scan.image - low) / max(high - low, 1e-9)))
        return found


def _ends(scan: Picture) -> tuple[float, float]:
    values = scan.image[scan.mask]
    return float(values.min()), float(values.max())


def inside(scan: Picture, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Values of the template grid, not negative, zero outside the scan's mask."""
    return np.where(scan.mask, np.maximum(values, 0), 0).astype(np.float32)
