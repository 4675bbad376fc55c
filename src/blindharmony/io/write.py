"""Writing a volume in the header of the scan that it came from: same place, none of its other content.

A result lies exactly on its source: shape, axis order, affine, qform, sform, codes, voxel sizes and units are taken
over. Free text and header extensions, which may hold a patient's name, are left behind. Equal input gives equal bytes.
"""

from __future__ import annotations

import gzip
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from blindharmony.errors import OutputError
from blindharmony.files import WRITABLE, atomic_path, split_name
from blindharmony.io.volume import Volume
from blindharmony.version import VERSION

# Everything that says where and when voxels were acquired. Free text (descrip, aux_file, db_name) and
# header extensions may hold the patient's name and are left behind.
GEOMETRY = (
    *("dim_info", "pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
    *("slice_start", "slice_end", "slice_code", "slice_duration", "toffset"),
)
SCANNER = 1
# Noise hardly compresses: higher levels take several times longer for a few percent.
_LEVEL = 1


def write_like(
    source: Volume,
    data: npt.ArrayLike,
    path: str | PathLike[str],
    *,
    overwrite: bool = False,
    dtype: npt.DTypeLike = np.float32,
    description: str | None = None,
) -> Path:
    """Write voxels in the place of a source scan.

    The file has the source's shape (with a trailing axis of length 1), axis order, affine, qform, sform,
    codes, voxel sizes and units; values are stored unscaled. Free text and header extensions of the source
    are dropped, as they may hold patient data. Equal input gives equal bytes, ``.nii.gz`` included.

    Args:
        source: The scan whose place is taken over.
        data: Finite values, shape ``source.shape``.
        path: A ``.nii.gz``, ``.nii``, ``.mgz`` or ``.mgh`` file; its folder is made if missing.
        overwrite: Whether an existing file may be replaced; the source itself never is.
        dtype: ``float32``, or ``uint8`` for masks.
        description: Text for the header, cut to 79 bytes; package and version when not given.

    Returns:
        The path written.

    Raises:
        OutputError: If the file exists already, is the source, cannot be written, or is of another type.
        ValueError: If shape, type or values do not fit.
    """
    path = Path(path)
    extension = split_name(path)[1].lower()
    if extension not in WRITABLE:
        raise OutputError(
            f"cannot write {extension or 'a name without extension'}",
            remedy=f"name it {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}",
            path=path,
        )
    if source.path is not None and path.resolve() == source.path.resolve():
        raise OutputError("this is the input scan", remedy="choose another folder or name", path=path)
    voxels = _stored(np.asarray(data), source.shape, np.dtype(dtype))
    image = mgh_like(source, voxels) if extension in {".mgz", ".mgh"} else nifti_like(source, voxels, description)
    with atomic_path(path, overwrite=overwrite) as temporary:
        _save(image, temporary, compressed=extension in {".nii.gz", ".mgz"})
    return path


def nifti_like(source: Volume, data: npt.NDArray[np.generic], description: str | None = None) -> nib.Nifti1Image:
    """Make a NIfTI image on the source's grid.

    A NIfTI source passes on its shape, qform, sform, both codes, voxel sizes, units and slice order; other
    sources get both codes 1 (scanner).

    Args:
        source: The scan whose geometry is taken over.
        data: Voxels, shape ``source.shape``, in the type to store.
        description: Text for ``descrip``, cut to 79 bytes; package and version when not given.

    Example:
        >>> from blindharmony.io.volume import read_volume
        >>> scan = read_volume(np.eye(64).reshape(16, 16, 16))
        >>> nifti_like(scan, scan.data).header["sform_code"].item()
        1
    """
    template = source.template
    kind: Any = nib.Nifti2Image if template.kind == "nifti2" else nib.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(data.dtype)
    header["descrip"] = _description(description).encode()
    header["cal_min"], header["cal_max"] = data.min(), data.max()
    if template.kind in {"nifti1", "nifti2"}:
        for field in GEOMETRY:
            header[field] = template.header[field]
        data = data.reshape(template.shape)
    else:
        set_place(header, source)
    # With the affine given, nibabel would reset the codes to qform 0, sform 2.
    image: nib.Nifti1Image = kind(data, None, header)
    # Taking the shape from the data, nibabel resets the sizes of axes that are not there.
    image.header["pixdim"] = header["pixdim"]
    return image


def set_place(header: Any, source: Volume) -> None:
    """Put a scan's place into a NIfTI header that has none: both codes 1, or the sform's alone for sheared axes."""
    header.set_xyzt_units("mm")
    header.set_data_shape(source.shape)
    header.set_sform(source.affine, SCANNER)
    header.set_qform(source.affine, SCANNER)
    # A qform has no shears: rather none than a second place that disagrees.
    if not np.allclose(header.get_qform(), source.affine, atol=1e-3):
        header["qform_code"] = 0


def mgh_like(source: Volume, data: npt.NDArray[np.generic]) -> nib.MGHImage:
    """Make a FreeSurfer image on the source's grid, which has room for the affine but not for codes.

    Args:
        source: The scan whose geometry is taken over.
        data: Voxels, shape ``source.shape``, in the type to store.
    """
    template = source.template
    kind: Any = nib.MGHImage
    header = template.header.copy() if template.kind == "mgh" else kind.header_class()
    header.set_data_dtype(data.dtype)
    image: nib.MGHImage = kind(data, source.affine, header)
    return image


def _stored(
    data: npt.NDArray[np.generic], shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> npt.NDArray[np.generic]:
    if data.shape != shape:
        raise ValueError(f"data has shape {data.shape}, the source scan {shape}")
    if dtype not in {np.dtype(np.float32), np.dtype(np.uint8)}:
        raise ValueError(f"dtype must be float32 or uint8, not {dtype}")
    with np.errstate(all="ignore"):
        voxels = data.astype(dtype)
    if dtype == np.uint8 and not np.array_equal(voxels, data):
        raise ValueError("uint8 takes whole numbers from 0 to 255 only")
    if not np.isfinite(voxels).all():
        raise ValueError("data holds NaN or infinity")
    return voxels


def _description(text: str | None) -> str:
    text = f"blindharmony {VERSION}" if text is None else text
    return text.encode()[:79].decode(errors="ignore")


def _save(image: nib.Nifti1Image | nib.MGHImage, path: Path, *, compressed: bool) -> None:
    with path.open("wb") as file:
        if not compressed:
            image.to_stream(file)
            return
        # No name and no time in the gzip header, so that equal input gives equal bytes.
        with gzip.GzipFile("", "wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as packed:
            image.to_stream(packed)
