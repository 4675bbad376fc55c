"""What a header says about a scan's place that cannot be taken at its word."""

from __future__ import annotations

from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError, SpatialImage

from blindharmony.image.geometry import voxel_size

MAX_DISAGREEMENT = 1.0
# Cosine of the angle between two axes, and share of a voxel, that are more than rounding.
MAX_SHEAR, MAX_STRETCH = 0.02, 0.05
_UNITS = {1: "metres", 3: "micrometres"}


def orientation_warnings(
    image: SpatialImage, affine: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[str, ...]:
    """Say what the header leaves unknown, or says twice and differently, one sentence each.

    Args:
        image: The image with its header.
        affine: The affine that is used, shape ``(4, 4)``.
        shape: Voxels along each axis.
    """
    axes = affine[:3, :3] / voxel_size(affine)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    slanted = (f"the axes are {np.degrees(np.arcsin(min(1.0, shear))):.0f} degrees off a right angle",)
    # Wild numbers overflow on the way to a place that is then found to disagree.
    with np.errstate(all="ignore"):
        places = _places(image, affine, shape)
    return (*places, *(slanted if shear > MAX_SHEAR else ()))


def _places(image: SpatialImage, affine: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> tuple[str, ...]:
    header: Any = image.header
    if isinstance(image.header, nib.freesurfer.mghformat.MGHHeader):
        return () if header["goodRASFlag"] else (_UNKNOWN,)
    if not isinstance(image.header, nib.nifti1.Nifti1Header):
        return ()
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    units = (f"the header says {unit}; millimetres were assumed",) if unit else ()
    codes = int(header["sform_code"]), int(header["qform_code"])
    if max(codes) <= 0:
        return (*units, _UNKNOWN)
    return (*units, *_disagreement(header, codes, affine, shape))


def _disagreement(
    header: Any, codes: tuple[int, int], affine: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[str, ...]:
    if min(codes) > 0:
        try:
            apart = _farthest(header.get_sform(), header.get_qform(), shape)
        except (HeaderDataError, ValueError, np.linalg.LinAlgError):
            return ("the qform is damaged; the sform was used",)
        # Negated, so that a NaN in the qform also counts as a disagreement.
        if not apart <= MAX_DISAGREEMENT:
            return (f"sform and qform disagree by {apart:.1f} mm; the sform was used",)
    declared = np.abs(header["pixdim"][1:4].astype(np.float64))
    if np.allclose(declared, voxel_size(affine), rtol=MAX_STRETCH):
        return ()
    sizes = " x ".join(f"{size:.3g}" for size in declared)
    return (f"the header's voxel size, {sizes} mm, is not that of its affine; the affine was used",)


_UNKNOWN = "the header has no orientation, so left and right are only assumed"


def _farthest(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> float:
    # The distance between two affine maps is largest at a corner of the box.
    corners = np.array(list(product(*((0, n - 1) for n in shape), (1,))))
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())
