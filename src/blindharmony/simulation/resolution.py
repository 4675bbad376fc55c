"""Coarser images on the same grid: blur, and thick slices."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import UsageError
from blindharmony.simulation.view import Array, View

# Full width at half maximum of a Gaussian of standard deviation 1.
_FWHM = 2 * math.sqrt(2 * math.log(2))


def blurred(view: View, fwhm: float) -> Array:
    """Gaussian blur of ``fwhm`` mm, full width at half maximum.

    Zeros carry no data: averages leave them out, so that a stripped brain gets no dark rim.
    """
    sigma = [fwhm / _FWHM / mm for mm in view.spacing]

    def smooth(x: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(x, sigma, mode="constant"))

    return _share(smooth(view.image), smooth(view.data.astype(np.float64)), view.image)


def thick_slices(view: View, thickness: float) -> Array:
    """Slices of ``thickness`` mm along ``slice_axis``: box averages, then linear interpolation back to the grid.

    The slices lie edge to edge and cover the volume from its middle; a voxel that two slices share counts for
    both in proportion. Zeros carry no data, as in :func:`blurred`.

    Raises:
        UsageError: If the scan's own slices are as thick already.
    """
    mm, count = view.spacing[view.slice_axis], view.image.shape[view.slice_axis]
    if mm >= thickness:
        raise UsageError(
            f"the slices are {mm:.1f} mm thick already, no thinner than {thickness:g} mm",
            remedy="choose another domain for this scan",
        )
    along = np.moveaxis(view.image, view.slice_axis, 0)
    there = np.moveaxis(view.data, view.slice_axis, 0).astype(np.float64)
    boxes, back = slice_weights(count, mm, thickness)

    def through(weights: NDArray[np.float64], x: Array) -> Array:
        return np.asarray(np.tensordot(weights, x, axes=1))

    slices, held = through(boxes, along), through(boxes, there)
    mean = np.divide(slices, held, out=np.zeros_like(slices), where=held > 0)
    # A slice that saw nothing at a place must not darken its neighbour there.
    seen = (held > 0).astype(np.float64)
    result = _share(through(back, mean * seen), through(back, seen), along)
    return np.ascontiguousarray(np.moveaxis(result, 0, view.slice_axis))


def slice_weights(count: int, mm: float, thickness: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How voxels of a line make slices, and slices make voxels again.

    Returns:
        Share of each voxel in each slice, shape ``(slices, count)``, and weight of each slice in each voxel,
        shape ``(count, slices)``; the rows of the latter sum to 1.

    Example:
        >>> boxes, back = slice_weights(6, 1.0, 3.0)
        >>> boxes.astype(int).tolist()
        [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
        >>> back[:, 0].round(2).tolist()
        [1.0, 1.0, 0.67, 0.33, 0.0, 0.0]
    """
    slices = math.ceil(count * mm / thickness - 1e-9)
    start = (count * mm - slices * thickness) / 2
    edges = start + thickness * np.arange(slices + 1)
    low, high = np.arange(count) * mm, (np.arange(count) + 1) * mm
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    boxes = np.clip(overlap, 0, None) / mm
    place = np.clip(((low + high) / 2 - start) / thickness - 0.5, 0, slices - 1)
    back = np.clip(1 - np.abs(place[:, None] - np.arange(slices)), 0, None)
    return boxes, back


def _share(total: Array, weight: Array, image: Array) -> Array:
    # Where there is data there is weight; elsewhere the voxel stays the zero it was.
    return np.divide(total, weight, out=np.zeros_like(total), where=(image != 0) & (weight > 0))
