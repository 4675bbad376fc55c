"""From the scan's grid to the template's, and changes back: the scan itself is never resampled twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from blindharmony.prep.grid import sample, sample_inside, voxel_map
from blindharmony.prep.register import register_affine
from blindharmony.prep.step import Params, Scan
from blindharmony.prep.template import load_template


@dataclass(frozen=True)
class Place:
    """Resample the brain onto the template's 1 mm grid (affine, linear, mask-normalised)."""

    name: str = "place"

    def params(self, scan: Scan) -> Params:
        """``matrix``: template world → scan world (mm); ``overlap``: Dice of the brain masks."""
        found = register_affine(scan.data, scan.affine, scan.inside(), load_template())
        return {"matrix": found.matrix, "overlap": found.overlap}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """The brain on the template's grid, zero outside the mask."""
        template = load_template()
        to_scan = voxel_map(template.affine, params["matrix"], scan.affine)
        data, inside = sample_inside(scan.data, scan.inside(), to_scan, template.data.shape)
        return Scan(data, template.affine, inside)

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """Add what changed on the template's grid, resampled, to the scan: ``before + sample(change)``."""
        change = changed.data - self.apply(before, params).data
        to_template = voxel_map(before.affine, np.linalg.inv(params["matrix"]), changed.affine)
        carried = sample(change, to_template, before.data.shape)
        return replace(before, data=before.data + np.where(before.inside(), carried, 0).astype(np.float32))
