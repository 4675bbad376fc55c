"""Axes in the order right, anterior, superior: a permutation and flips, no interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import orientations

from blindharmony.prep.step import Params, Scan

axes: Any = orientations  # without types


@dataclass(frozen=True)
class Orient:
    """Bring the axes closest to RAS+ (oblique scans stay oblique).

    Example:
        >>> scan = Scan(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.diag([-1.0, 1, 1, 1]))
        >>> step = Orient()
        >>> params = step.params(scan)
        >>> step.apply(scan, params).data[0, 0, 0]
        np.float32(12.0)
    """

    name: str = "orient"

    def params(self, scan: Scan) -> Params:
        """The axis codes of the scan, e.g. ``"LAS"``, and how its axes map to RAS+."""
        turn = axes.io_orientation(scan.affine)
        return {"axes": "".join(axes.ornt2axcodes(turn)), "turn": turn}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """Permute and flip."""
        affine = scan.affine @ axes.inv_ornt_aff(params["turn"], scan.data.shape)
        mask = None if scan.mask is None else axes.apply_orientation(scan.mask, params["turn"])
        return Scan(np.ascontiguousarray(axes.apply_orientation(scan.data, params["turn"])), affine, mask)

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """Permute and flip back."""
        back = axes.ornt_transform(axes.axcodes2ornt("RAS"), axes.axcodes2ornt(params["axes"]))
        mask = before.mask if changed.mask is None else axes.apply_orientation(changed.mask, back)
        return Scan(np.ascontiguousarray(axes.apply_orientation(changed.data, back)), before.affine, mask)
