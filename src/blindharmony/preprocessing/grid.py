r"""Images as SimpleITK has them, and resampling between grids.

Arrays are ``(X, Y, Z)`` with an affine to RAS+ world (mm). ITK's are the other way round and its world is LPS+;
:func:`to_itk` and :func:`from_itk` lead there and back.

:func:`voxel_map` says where a voxel of one grid lies in another, :math:`T^{-1} M F` for the affines :math:`F` and
:math:`T` and the map :math:`M` between their worlds. :func:`sample` follows it: scans are sampled onto the template's
grid with it, and changes are carried back.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import SimpleITK
from numpy.typing import NDArray

# The generated wrappers carry no types, so a strict checker is told that it does not know them.
sitk: Any = SimpleITK
Image: TypeAlias = Any
Transform: TypeAlias = Any

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


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


def voxel_map(
    from_affine: NDArray[np.float64], matrix: NDArray[np.float64], to_affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Voxel indices of one grid → voxel indices of another, ``to⁻¹ · matrix · from``, shape ``(4, 4)``.

    Example:
        >>> voxel_map(np.eye(4), np.eye(4), np.diag([2.0, 2.0, 2.0, 1.0]))[0, 0]
        np.float64(0.5)
    """
    return np.linalg.inv(to_affine) @ matrix @ from_affine


def mask_box(mask: NDArray[np.bool_], margin: int) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """The box around a mask with a margin in voxels, and what is left of the array before and after it.

    Example:
        >>> mask_box(np.eye(3, dtype=bool)[:, :2], margin=0)
        ((slice(0, 2, None), slice(0, 2, None)), [(0, 1), (0, 0)])
    """
    box, around = [], []
    for axis, size in enumerate(mask.shape):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        inside = np.flatnonzero(mask.any(others))
        low, high = max(0, int(inside[0]) - margin), min(size, int(inside[-1]) + 1 + margin)
        box.append(slice(low, high))
        around.append((low, size - high))
    return tuple(box), around


def shifted(affine: NDArray[np.float64], box: tuple[slice, ...]) -> NDArray[np.float64]:
    """The affine of ``data[box]``."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ [s.start for s in box] + affine[:3, 3]
    return moved


def sample(data: NDArray[Any], to_voxels: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """``out[i] = data[to_voxels · i]``, linear between voxels, zero where no voxel reaches.

    Args:
        data: What to sample, shape ``(X, Y, Z)``.
        to_voxels: Output voxel → input voxel, shape ``(4, 4)``.
        shape: Output shape.

    Example:
        >>> half = np.eye(4)
        >>> half[0, 3] = 0.5
        >>> sample(np.arange(3, dtype=np.float32).reshape(3, 1, 1), half, (3, 1, 1)).ravel()
        array([0.5, 1.5, 0. ], dtype=float32)
    """
    # The array as it is: ITK counts its axes the other way round, and so does the map.
    map_ = sitk.AffineTransform(3)
    map_.SetMatrix(to_voxels[2::-1, 2::-1].ravel().tolist())
    map_.SetTranslation(to_voxels[2::-1, 3].tolist())
    image = sitk.GetImageFromArray(np.ascontiguousarray(data, np.float32))
    # Both grids are counted in voxels: where they lie in the world is in the map.
    grid = list(shape[::-1]), map_, sitk.sitkLinear, [0.0] * 3, [1.0] * 3, np.eye(3).ravel().tolist()
    return np.asarray(sitk.GetArrayFromImage(sitk.Resample(image, *grid, 0.0)), np.float32)


def sample_inside(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    to_voxels: NDArray[np.float64],
    shape: tuple[int, ...],
    weight: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sample a masked image without darkening its edge: ``sample(data·mask) / sample(mask)``.

    Args:
        data: What to sample.
        mask: Voxels of it that count.
        to_voxels: Output voxel → input voxel, shape ``(4, 4)``.
        shape: Output shape.
        weight: ``sample(mask)``, if it is known.

    Returns:
        The sampled image (zero outside) and mask (where at least half of the weight is inside).
    """
    weight = sample(mask, to_voxels, shape) if weight is None else weight
    inside = weight > 0.5
    value = sample(np.where(mask, data, np.float32(0)), to_voxels, shape)
    return np.where(inside, value / np.maximum(weight, np.float32(0.5)), np.float32(0)), inside
