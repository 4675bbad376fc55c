"""Is this the shape and the place of one head?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from blindharmony.errors import InputError

MIN_VOXELS = 16
MIN_SPACING, MAX_SPACING = 0.05, 20.0
MAX_FAR = 1e5


def check_shape(shape: tuple[int, ...], path: Path | None) -> tuple[int, int, int]:
    """Return the 3-D shape of a single volume.

    Raises:
        InputError: If there are fewer than three axes, several frames, or under 16 voxels on an axis.

    Example:
        >>> check_shape((64, 64, 32, 1), None)
        (64, 64, 32)
    """
    space, frames = tuple(int(n) for n in shape[:3]), int(np.prod(shape[3:], dtype=np.int64))
    if len(space) < 3:
        raise InputError(
            f"the image is {len(space)}-D, not a volume",
            remedy="give the 3-D volume, e.g. converted from the whole DICOM series with dcm2niix",
            path=path,
        )
    if frames != 1:
        raise InputError(
            f"the image is a series of {frames} frames",
            remedy="extract one frame, e.g. with fslroi or mrconvert, and give that",
            path=path,
        )
    i, j, k = space
    if min(space) < MIN_VOXELS:
        raise InputError(
            f"an axis is too short: {i} x {j} x {k} voxels",
            remedy=f"give a whole-head volume with at least {MIN_VOXELS} voxels along each axis",
            path=path,
        )
    return i, j, k


def check_affine(affine: npt.NDArray[np.generic], path: Path | None) -> npt.NDArray[np.float64]:
    """Return the voxel to millimetre map as float64, shape ``(4, 4)``.

    Raises:
        InputError: If it is not finite, not invertible, has voxels outside 0.05 to 20 mm, or lies 100 m away.

    Example:
        >>> check_affine(np.diag([0, 1, 1, 1]), None)
        Traceback (most recent call last):
        blindharmony.errors.InputError: the affine is not invertible; convert the scan again ...
    """
    remedy = "convert the scan again from DICOM, e.g. with dcm2niix"
    matrix = np.array(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise InputError("the affine holds NaN or infinity", remedy=remedy, path=path)
    with np.errstate(over="ignore"):  # an infinite voxel has no direction, which is refused next
        spacing = voxel_size(matrix)
    # The determinant of the directions alone does not depend on the voxel size.
    directions = matrix[:3, :3] / np.where(spacing > 0, spacing, 1)
    if abs(np.linalg.det(directions)) < 1e-3 or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise InputError("the affine is not invertible", remedy=remedy, path=path)
    if spacing.min() <= MIN_SPACING or spacing.max() >= MAX_SPACING:
        sizes = " x ".join(f"{size:.3g}" for size in spacing)
        raise InputError(
            f"the voxel size is impossible for a head: {sizes} mm",
            remedy="correct the voxel size in the header (is it in metres or micrometres?)",
            path=path,
        )
    far = float(np.abs(matrix[:3, 3]).max())
    if far > MAX_FAR:
        # So far away, a millimetre is less than the last digit of the numbers in the header.
        raise InputError(f"the affine places the head {far:.1e} mm from the scanner", remedy=remedy, path=path)
    return matrix


def voxel_size(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the length of a step along each axis in mm, shape ``(3,)``: the affine's column norms."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))
