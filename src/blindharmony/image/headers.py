"""Images with their source's geometry and none of its other header content."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from blindharmony.image.volume import Volume

# Everything that says where and when voxels were acquired. Free text (descrip, aux_file, db_name) and
# header extensions may hold the patient's name and are left behind.
GEOMETRY = (
    *("dim_info", "pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
    *("slice_start", "slice_end", "slice_code", "slice_duration", "toffset"),
)
SCANNER = 1


def nifti_like(source: Volume, data: npt.NDArray[np.generic], description: str) -> nib.Nifti1Image:
    """Make a NIfTI image on the source's grid.

    A NIfTI source passes on its shape, qform, sform, both codes, voxel sizes, units and slice order; other
    sources get both codes 1 (scanner).

    Args:
        source: The scan whose geometry is taken over.
        data: Voxels, shape ``source.shape``, in the type to store.
        description: At most 79 bytes, for ``descrip``.

    Example:
        >>> from blindharmony.image.volume import read_volume
        >>> scan = read_volume(np.eye(64).reshape(16, 16, 16))
        >>> nifti_like(scan, scan.data, "made up").header["sform_code"].item()
        1
    """
    template = source.template
    kind: Any = nib.Nifti2Image if template.kind == "nifti2" else nib.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(data.dtype)
    header["descrip"] = description.encode()
    header["cal_min"], header["cal_max"] = data.min(), data.max()
    if template.kind in {"nifti1", "nifti2"}:
        for field in GEOMETRY:
            header[field] = template.header[field]
        data = data.reshape(template.shape)
    else:
        _place(header, source)
    # With the affine given, nibabel would reset the codes to qform 0, sform 2.
    image: nib.Nifti1Image = kind(data, None, header)
    # Taking the shape from the data, nibabel resets the sizes of axes that are not there.
    image.header["pixdim"] = header["pixdim"]
    return image


def _place(header: Any, source: Volume) -> None:
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
