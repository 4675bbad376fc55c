"""One 3-D scan in memory: :func:`read_volume` takes a file, an image or an array, checks it, and says what it mended.

Nothing is allocated before the declared size was compared with the file, and every value is judged before it is used:
a :class:`Volume` is finite, in float32, with a place in space. What could be mended is in its ``warnings``; what could
not is refused with a remedy.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from blindharmony.errors import InputError
from blindharmony.io.headers import (
    Template,
    check_affine,
    check_file,
    check_header,
    check_shape,
    check_voxels,
    header_repairs,
    orientation_warnings,
    stored_bytes,
    voxel_size,
)

Float: TypeAlias = npt.NDArray[np.float32]
Affine: TypeAlias = npt.NDArray[np.float64]
FORMATS = (nib.Nifti1Pair, nib.Nifti2Pair, nib.MGHImage)
_AGAIN = "convert or download it again"
MAX_NONFINITE = 0.05
MAX_NEGATIVE = 0.05
MIN_MAGNITUDE, MAX_MAGNITUDE = 1e-12, 1e12
# Fewer steps of single precision between the darkest and the brightest voxel leave nothing of an image.
MIN_STEPS = 1000


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


# From a file to an image: no voxel is read yet.


def open_image(path: Path) -> tuple[SpatialImage, tuple[str, ...]]:
    """Open a scan and say what was repaired in its header; no voxel is read yet.

    Raises:
        InputError: If the file is missing, of another type, or damaged.

    Example:
        >>> open_image(Path("nowhere.nii"))
        Traceback (most recent call last):
        blindharmony.errors.InputError: nowhere.nii: no such file; check the path
    """
    check_file(path)
    check_header(path)
    try:
        with header_repairs() as repairs, warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            image = nib.load(path)
    except Exception as error:  # a damaged header makes nibabel raise nearly anything
        # The message names the file anyway, and whoever is shown only what is wrong has no use for its folder.
        why = _first_line(error, path)
        raise InputError(f"not a readable image ({why})", remedy=_AGAIN, path=path) from error
    if not isinstance(image, FORMATS):
        raise InputError(
            f"the format {type(image).__name__.removesuffix('Image')} does not tell left from right",
            remedy="convert the scan to NIfTI, e.g. with dcm2niix",
            path=path,
        )
    return image, tuple(repairs)


def load_array(image: SpatialImage, path: Path | None) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    """Read the voxels, with the header's slope and intercept applied, and say what looks odd about the file.

    Raises:
        InputError: If the header declares more than the file holds or than 10**9 voxels, or a value type that is not
            one real number per voxel.
    """
    odd = check_voxels_stored(image, path)
    try:
        # A wild slope may overflow: the infinite voxels are found and reported by clean_values.
        with np.errstate(all="ignore"):
            return np.asanyarray(image.dataobj), odd
    except Exception as error:
        raise InputError(f"the voxels cannot be read ({_first_line(error)})", remedy=_AGAIN, path=path) from error


def check_voxels_stored(image: SpatialImage, path: Path | None) -> tuple[str, ...]:
    """Say whether the voxels can be read, and what is odd about how they lie there, without holding them in memory.

    Raises:
        InputError: As for :func:`load_array`.
    """
    try:
        dtype = np.dtype(image.get_data_dtype())
    except Exception as error:
        raise InputError(f"unknown value type ({_first_line(error)})", remedy=_AGAIN, path=path) from error
    if dtype.kind not in "biuf":
        raise InputError(
            "the image holds colour or complex values",
            remedy="give the magnitude image, one number per voxel",
            path=path,
        )
    return _check_declared(image, image.dataobj.offset, dtype, path) if isinstance(image.dataobj, ArrayProxy) else ()


def _check_declared(
    image: SpatialImage, offset: int, dtype: np.dtype[np.generic], path: Path | None
) -> tuple[str, ...]:
    voxels = prod(int(n) for n in image.shape)
    check_voxels(voxels, path)
    filename = image.file_map["image"].filename
    if filename is None:  # read from a stream, which has no size to compare with
        return ()
    needed = int(offset) + voxels * dtype.itemsize
    held = stored_bytes(Path(filename), needed)
    if held < needed:
        raise InputError(
            f"truncated: the header declares {needed} bytes, the file holds {held}",
            remedy=_AGAIN,
            path=path,
        )
    # FreeSurfer keeps tags behind the voxels; nothing belongs behind those of NIfTI.
    if held == needed or isinstance(image, nib.MGHImage):
        return ()
    return (f"the file holds {held - needed} bytes more than its header declares",)


def _first_line(error: Exception, path: Path | None = None) -> str:
    text = str(error).strip() or type(error).__name__
    return (text if path is None else text.replace(str(path), path.name)).splitlines()[0][:120]


# The values.


def clean_values(data: npt.NDArray[np.generic], path: Path | None) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return the intensities as finite float32, with what was repaired.

    Up to 5 % NaN or infinite voxels become 0 and are reported.

    Raises:
        InputError: If the values are not plain numbers, too many are not finite, or they are empty, constant, beyond
            1e12 or below 1e-12, too close to each other, or negative in more than 5 % of the voxels that are not 0.

    Example:
        >>> values, repaired = clean_values(np.array([1.0, 2.0, np.nan] + 60 * [3.0]), None)
        >>> float(values[2]), repaired
        (0.0, ('1 voxel was NaN or infinite and was set to 0',))
    """
    if data.dtype.kind not in "biuf":
        raise InputError(
            "the image holds colour or complex values",
            remedy="give the magnitude image, one number per voxel",
            path=path,
        )
    data, repaired = _finite(data, path)
    low, high = float(data.min()), float(data.max())
    if max(-low, high) > MAX_MAGNITUDE:
        raise InputError(
            f"intensities reach {max(-low, high):.1e}",
            remedy="check the scaling (scl_slope) in the header or convert the scan again",
            path=path,
        )
    if 0 < max(-low, high) < MIN_MAGNITUDE or 0 < high - low < MIN_STEPS * float(
        np.spacing(np.float32(max(-low, high)))
    ):
        raise InputError(
            f"intensities from {low:.6g} to {high:.6g} are too close to each other",
            remedy="check the scaling (scl_slope, scl_inter) in the header or convert the scan again",
            path=path,
        )
    # After the magnitude check, so the cast cannot overflow; always a copy, so the caller's array and
    # memory-mapped files stay out of reach.
    values = np.array(data, dtype=np.float32)
    if not values.any():
        raise InputError("the image is empty, every voxel is 0", remedy="check the conversion", path=path)
    if values.min() == values.max():
        raise InputError(f"the image is constant, every voxel is {low:g}", remedy="check the conversion", path=path)
    negative = np.count_nonzero(values < 0) / np.count_nonzero(values)
    if negative > MAX_NEGATIVE:
        raise InputError(
            f"{negative:.0%} of the image is negative, as in CT, phase or z-scored images",
            remedy="give the MR magnitude image from before any intensity normalization",
            path=path,
        )
    return values, repaired


def _finite(data: npt.NDArray[np.generic], path: Path | None) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    if data.dtype.kind != "f":
        return data, ()
    bad = ~np.isfinite(data)
    count = int(np.count_nonzero(bad))
    if count == 0:
        return data, ()
    if count > MAX_NONFINITE * data.size:
        raise InputError(
            f"{count / data.size:.0%} of the voxels are NaN or infinite",
            remedy="convert the scan again or repair the step that wrote it",
            path=path,
        )
    what = "1 voxel was" if count == 1 else f"{count} voxels were"
    verb = "was" if count == 1 else "were"
    return np.where(bad, 0, data), (f"{what} NaN or infinite and {verb} set to 0",)
