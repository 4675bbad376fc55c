"""From a file to an image whose declared size was checked before any voxel is read."""

from __future__ import annotations

import warnings
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from blindharmony.errors import InputError
from blindharmony.image.declared import check_header, check_voxels
from blindharmony.image.repairs import header_repairs
from blindharmony.image.stored import check_file, stored_bytes

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
