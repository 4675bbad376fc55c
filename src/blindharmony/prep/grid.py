"""The flow's grid in template space: scans sampled onto it, changes carried back from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.prep.itk import from_itk, sitk


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


def sample(data: NDArray[np.float32], to_voxels: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
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
    map_ = sitk.AffineTransform(3)
    map_.SetMatrix(to_voxels[:3, :3].ravel().tolist())
    map_.SetTranslation(to_voxels[:3, 3].tolist())
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(data, np.float32).transpose(2, 1, 0)))
    # Both grids are counted in voxels: where they lie in the world is in the map.
    grid = list(shape), map_, sitk.sitkLinear, [0.0] * 3, [1.0] * 3, np.eye(3).ravel().tolist()
    return from_itk(sitk.Resample(image, *grid, 0.0))


def sample_inside(
    data: NDArray[np.float32], mask: NDArray[np.bool_], to_voxels: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sample a masked image without darkening its edge: ``sample(data·mask) / sample(mask)``.

    Returns:
        The sampled image (zero outside) and mask (where at least half of the weight is inside).
    """
    weight = sample(mask.astype(np.float32), to_voxels, shape)
    value = sample(np.where(mask, data, 0).astype(np.float32), to_voxels, shape)
    inside = weight > 0.5
    return np.where(inside, value / np.maximum(weight, 0.5), 0).astype(np.float32), inside
