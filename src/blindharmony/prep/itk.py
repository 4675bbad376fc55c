"""Arrays with affines as SimpleITK images, and the settings that make ITK repeat itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import SimpleITK
from numpy.typing import NDArray

# The generated wrappers carry no types, so a strict checker is told that it does not know them.
sitk: Any = SimpleITK
Image: TypeAlias = Any
Transform: TypeAlias = Any

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let ITK use ``count`` threads inside the block, so that a laptop and a cluster node agree.

    Sums over threads differ in their last digits with the number of threads, and the filters inside N4 know
    only the number set for the whole process.
    """
    process: Any = sitk.ProcessObject
    before = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(before)


def to_itk(data: NDArray[np.generic], affine: NDArray[np.float64]) -> Image:
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


def from_itk(image: Image) -> NDArray[np.float32]:
    """The voxels of an ITK image in ``(X, Y, Z)`` order."""
    return np.asarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0), dtype=np.float32)


def shrunk(image: Image, mm: float) -> Image:
    """The image with voxels averaged in blocks of about ``mm``, never finer than it was."""
    return sitk.BinShrink(image, [max(1, round(mm / s)) for s in image.GetSpacing()])


def matrix_ras(transform: Transform) -> NDArray[np.float64]:
    """The 4×4 RAS world matrix of an ITK affine transform (which works in LPS, about a centre)."""
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = linear, shift + centre - linear @ centre
    return _RAS_TO_LPS @ lps @ _RAS_TO_LPS
