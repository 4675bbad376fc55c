"""Thin outlines to lay over slices: is the mask the brain, does the template fit?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.report.metrics import tissue_medians
from blindharmony.report.raster import Slices, slice_of

# Lines are drawn on a finer grid than the slices, or they would cover the border they show.
_FINER = 2


def outline(volume: NDArray[Any], slices: Slices, *, above: float, blur: float = 0.0) -> NDArray[np.bool_]:
    """Where the volume's slices cross a value, side by side.

    Args:
        volume: In RAS+ order, shape ``(X, Y, Z)``; a mask counts as 0 and 1.
        slices: Which slices.
        above: The value.
        blur: Standard deviation in voxels of a smoothing beforehand, to leave only the main shape.

    Returns:
        Shape ``(2 * height, 2 * slices * width)``.
    """
    drawn = []
    for index in slices.indices:
        cut = slice_of(volume, slices.plane, index).astype(np.float32)
        fine = ndimage.zoom(ndimage.gaussian_filter(cut, blur) if blur else cut, _FINER, order=1)
        inside = fine > above
        drawn.append(inside & ~ndimage.binary_erosion(inside, border_value=1))
    return np.concatenate(drawn, axis=1)


def white_border(atlas: NDArray[np.floating[Any]]) -> float | None:
    """The intensity between a template's grey and white matter; None if it has no tissue to tell apart."""
    try:
        _, gray, white = tissue_medians(atlas[atlas > 0])
    except ValueError:
        return None
    return (gray + white) / 2


def template_outline(atlas: NDArray[np.floating[Any]], slices: Slices, white: float | None) -> NDArray[np.bool_]:
    """Outline of the template's brain and of its white matter, side by side.

    Args:
        atlas: Template brain, zero outside, shape ``(X, Y, Z)``.
        slices: Which slices.
        white: Its :func:`white_border`; None: only the brain's outline.

    Returns:
        As :func:`outline`.
    """
    drawn = outline(atlas > 0, slices, above=0.5)
    return drawn if white is None else drawn | outline(atlas, slices, above=white, blur=0.8)
