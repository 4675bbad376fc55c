"""What the labels say: how bright each tissue is, and how much of it a voxel holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from blindharmony.errors import InputError
from blindharmony.simulation.view import Array, View

CSF, GREY, WHITE = 1, 2, 3
_NAMES = {CSF: "CSF (1)", GREY: "grey matter (2)", WHITE: "white matter (3)"}
# About the width of a voxel's own blur: a border as soft as the scan's, no softer.
_BORDER_MM, _BORDER_VOXELS = 0.7, 0.5
# Wider than the cortex is thick, narrower than the thalamus.
_LOCAL_MM = 3.0


def tissue_levels(view: View) -> dict[int, float]:
    """Median intensity of CSF, grey and white matter.

    Raises:
        InputError: If a tissue is missing, or they are not darker to brighter in this order: another modality,
            or labels of another convention.
    """
    values = {tissue: view.image[(view.labels == tissue) & view.data] for tissue in _NAMES}
    for tissue, name in _NAMES.items():
        if values[tissue].size == 0:
            raise InputError(f"the labels hold no {name}", remedy="give labels 1 CSF, 2 grey, 3 white matter")
    levels = {tissue: float(np.median(values[tissue])) for tissue in _NAMES}
    if not 0 < levels[CSF] < levels[GREY] < levels[WHITE]:
        raise InputError(
            "CSF, grey and white matter are not darker to brighter in this order",
            remedy="give a T1-weighted scan and labels 1 CSF, 2 grey, 3 white matter",
        )
    return levels


def soft_labels(view: View) -> dict[int, Array]:
    """Share of each tissue in each voxel: labels blurred by a Gaussian, sd 0.7 mm, half a voxel at least."""
    sigma = [max(_BORDER_MM / mm, _BORDER_VOXELS) for mm in view.spacing]
    return {tissue: _smooth(_is(view, tissue), sigma) for tissue in _NAMES}


def local_levels(view: View, levels: Mapping[int, float]) -> dict[int, Array]:
    """Mean intensity of each tissue around each voxel, Gaussian of sd 3 mm; the median where there is none near."""
    sigma = [_LOCAL_MM / mm for mm in view.spacing]

    def around(tissue: int) -> Array:
        here = _is(view, tissue)
        near = _smooth(here, sigma)
        total = _smooth(here * np.abs(view.image), sigma)
        return np.divide(total, near, out=np.full_like(near, levels[tissue]), where=near > 1e-3)

    return {tissue: around(tissue) for tissue in _NAMES}


def _is(view: View, tissue: int) -> Array:
    return np.asarray((view.labels == tissue) & view.data, dtype=np.float64)


def _smooth(x: Array, sigma: list[float]) -> Array:
    return np.asarray(ndimage.gaussian_filter(x, sigma, mode="constant"))
