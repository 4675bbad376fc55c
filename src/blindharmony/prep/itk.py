"""Arrays with affines as SimpleITK images, and the settings that make ITK repeat itself."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

# Mattes mutual information and N4 sum over threads: another number of threads gives another result in the last
# digits. Two everywhere, so that a laptop and a cluster node agree.
THREADS = 2

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_itk(data: NDArray[np.generic], affine: NDArray[np.float64]) -> sitk.Image:
    """An ITK image (LPS world) of an array in RAS+ world coordinates.

    Args:
        data: Voxels, shape ``(X, Y, Z)``.
        affine: Voxel to RAS world (mm). Shear is dropped: ITK wants orthonormal directions, so the
            closest rotation is used (polar decomposition); scanners write none.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    lps = _RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(lps[:3, :3] / spacing)
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection((u @ vt).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def from_itk(image: sitk.Image) -> NDArray[np.float32]:
    """The voxels of an ITK image in ``(X, Y, Z)`` order."""
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)  # type: ignore[no-any-return]


def matrix_ras(transform: sitk.AffineTransform) -> NDArray[np.float64]:
    """The 4×4 RAS world matrix of an ITK affine transform (which works in LPS, about a centre)."""
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = linear, shift + centre - linear @ centre
    return _RAS_TO_LPS @ lps @ _RAS_TO_LPS  # type: ignore[no-any-return]
