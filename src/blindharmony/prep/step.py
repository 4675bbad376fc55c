"""What every preparation step promises: its numbers are recorded, and it can be undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Params = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Scan:
    """An image on its way from the scanner to the flow.

    Attributes:
        data: Intensities, shape ``(X, Y, Z)``.
        affine: Voxel to world (mm), shape ``(4, 4)``.
        mask: Brain, once it is known.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def inside(self) -> NDArray[np.bool_]:
        """The brain, or every voxel as long as no mask is known."""
        return np.ones(self.data.shape, bool) if self.mask is None else self.mask


class Step(Protocol):
    """One step: ``params`` looks at the scan, ``apply`` and ``undo`` only follow what it found.

    The law every step keeps, for all scans ``s``: ``undo(apply(s, p), p, s)`` equals ``s``. A step that loses
    detail (resampling) undoes only what was *changed* after it, and takes the rest from ``s``.
    """

    @property
    def name(self) -> str:
        """What results and messages call it."""

    def params(self, scan: Scan) -> Params:
        """Everything the step needs to know about this scan."""

    def apply(self, scan: Scan, params: Params) -> Scan:
        """The scan after this step."""

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """The scan ``before`` with what happened to ``changed`` since."""
