"""From a file to an image whose declared size was checked before any voxel is read."""

from __future__ import annotations

from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from blindharmony.errors import InputError
from blindharmony.image.repairs import header_repairs
from blindharmony.image.stored import check_file, stored_bytes

MAX_VOXELS = 2**31
MAX_VOXELS_GZ = 10**9
FORMATS = (nib.Nifti1Pair, nib.Nifti2Pair, nib.MGHImage)
_AGAIN = "convert or download it again"


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
    try:
        with header_repairs() as repairs:
            image = nib.load(path)
    except Exception as error:  # a damaged header makes nibabel raise nearly anything
        raise InputError(f"not a readable image ({_first_line(error)})", remedy=_AGAIN, path=path) from error
    if not isinstance(image, FORMATS):
        raise InputError(
            f"the format {type(image).__name__.removesuffix('Image')} does not tell left from right",
            remedy="convert the scan to NIfTI, e.g. with dcm2niix",
            path=path,
        )
    return image, tuple(repairs)


def load_array(image: SpatialImage, path: Path | None) -> npt.NDArray[np.generic]:
    """Read the voxels, with the header's slope and intercept applied.

    Raises:
        InputError: If the header declares more than the file holds or than 2**31 voxels (10**9 when
            compressed), or a value type that is not one real number per voxel.
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
    if isinstance(image.dataobj, ArrayProxy):
        _check_declared(image, image.dataobj.offset, dtype, path)
    try:
        # A wild slope may overflow: the infinite voxels are found and reported by clean_values.
        with np.errstate(all="ignore"):
            return np.asanyarray(image.dataobj)
    except Exception as error:
        raise InputError(f"the voxels cannot be read ({_first_line(error)})", remedy=_AGAIN, path=path) from error


def _check_declared(image: SpatialImage, offset: int, dtype: np.dtype[np.generic], path: Path | None) -> None:
    filename = image.file_map["image"].filename
    if filename is None:  # read from a stream, which has no size to compare with
        return
    file, voxels = Path(filename), prod(int(n) for n in image.shape)
    limit = MAX_VOXELS_GZ if file.suffix.lower() in {".gz", ".mgz"} else MAX_VOXELS
    if voxels > limit:
        raise InputError(f"the header declares {voxels:.1e} voxels, more than any head scan", remedy=_AGAIN, path=path)
    needed = int(offset) + voxels * dtype.itemsize
    held = stored_bytes(file, needed)
    if held < needed:
        raise InputError(
            f"truncated: the header declares {needed} bytes, the file holds {held}",
            remedy=_AGAIN,
            path=path,
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
