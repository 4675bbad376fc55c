"""One 3-D scan in memory, with everything needed to write a result beside it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt

from blindharmony.errors import InputError
from blindharmony.image.geometry import check_affine, check_shape, voxel_size
from blindharmony.image.load import load_array, open_image
from blindharmony.image.oddities import orientation_warnings
from blindharmony.image.template import Template
from blindharmony.image.values import clean_values

Float: TypeAlias = npt.NDArray[np.float32]
Affine: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D scan with its place in space.

    Attributes:
        data: Intensities in the scan's own units, shape ``(i, j, k)``, all finite.
        affine: Voxel indices to scanner millimetres, shape ``(4, 4)``.
        template: The source's header, for writing results like the source.
        path: The file it was read from, if any.
        warnings: What was repaired or looks odd, one sentence each.

    Example:
        >>> scan = read_volume(np.arange(4096.0).reshape(16, 16, 16), affine=np.diag([1, 1, 2, 1]))
        >>> scan.shape, scan.spacing.tolist(), scan.axcodes
        ((16, 16, 16), [1.0, 1.0, 2.0], ('R', 'A', 'S'))
    """

    data: Float
    affine: Affine
    template: Template
    path: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing(self) -> Affine:
        """Voxel size along each axis, in mm, shape ``(3,)``."""
        return voxel_size(self.affine)

    @property
    def axcodes(self) -> tuple[str, str, str]:
        """Where each axis points, e.g. ``("R", "A", "S")`` for right, anterior, superior."""
        orientations: Any = nib.orientations
        i, j, k = orientations.aff2axcodes(self.affine)
        return i, j, k


Source: TypeAlias = str | PathLike[str] | nib.spatialimages.SpatialImage | npt.NDArray[np.generic] | Volume


def read_volume(source: Source, *, affine: npt.ArrayLike | None = None) -> Volume:
    """Read one scan from a file, a nibabel image or an array.

    Any orientation and voxel size is kept as it is; a 4-D file with a single frame counts as 3-D.

    Args:
        source: A ``.nii``, ``.nii.gz``, ``.mgh``, ``.mgz`` or ``.img``/``.hdr`` file, an image, an array of
            shape ``(i, j, k)``, or a volume, which is returned as it is.
        affine: Voxel to millimetre map of an array, shape ``(4, 4)``; the identity when not given.

    Raises:
        InputError: If it is missing, damaged, too large, not a single 3-D volume, or makes no sense as an
            MR image (empty, constant, mostly negative, not finite, impossible voxel size).
        TypeError: If ``affine`` is given for anything but an array.

    Example:
        >>> read_volume(np.eye(64).reshape(16, 16, 16)).warnings
        ()
    """
    if isinstance(source, np.ndarray):
        return _from_image(_image_of(source, affine), None)
    if affine is not None:
        raise TypeError("affine= belongs to an array; files and images bring their own")
    if isinstance(source, Volume):
        return source
    if isinstance(source, nib.spatialimages.SpatialImage):
        name = source.get_filename()
        return _from_image(source, Path(name) if name else None)
    path = Path(source)
    image, repaired = open_image(path)
    return _from_image(image, path, repaired)


def _image_of(array: npt.NDArray[np.generic], affine: npt.ArrayLike | None) -> nib.spatialimages.SpatialImage:
    matrix = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise InputError(f"the affine has shape {matrix.shape}", remedy="give a 4 x 4 matrix")
    # The base class has no dtype rules: NIfTI would refuse int64 and booleans, harmless here.
    return nib.spatialimages.SpatialImage(array, matrix)


def _from_image(image: nib.spatialimages.SpatialImage, path: Path | None, known: tuple[str, ...] = ()) -> Volume:
    shape = check_shape(image.shape, path)
    header: Any = image.header
    # An image made in memory may leave its affine to the header.
    affine = check_affine(header.get_best_affine() if image.affine is None else image.affine, path)
    values, longer = load_array(image, path)
    data, repaired = clean_values(values.reshape(shape), path)
    odd = orientation_warnings(image, affine, shape)
    return Volume(data, affine, Template.of(image), path, (*known, *longer, *repaired, *odd))
