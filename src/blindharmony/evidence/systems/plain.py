"""What costs nothing: no change, one gain, the bias field alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.evidence.system import Material, Picture, Sees, System


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

    .. math:: x = \bar Q(0) + (\bar Q(1) - \bar Q(0)) \frac{y - \min y}{\max y - \min y}

    with :math:`\bar Q` the target's mean quantile curve.
    """

    name: ClassVar[str] = "min-max"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """The scans on the target's range."""
        low, high = material.target.mean_curve[[0, -1]]
        return [inside(s, low + (high - low) * _share(s)) for s in scans]


def _share(scan: Picture) -> NDArray[np.float32]:
    values = scan.image[scan.mask]
    low, high = float(values.min()), float(values.max())
    return (scan.image - low) / max(high - low, 1e-9)


def inside(scan: Picture, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Values of the template grid, not negative, zero outside the scan's mask."""
    return np.where(scan.mask, np.maximum(values, 0), 0).astype(np.float32)
