"""Find the brain in a whole head, offline: where it is (coarse), then its outline (fine)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import PreprocessingError
from blindharmony.prep.brainnet import LinkNet3d, load_brainnet

_BOX_SHAPE = (128, 128, 128)
_BRAIN_SHAPE = (256, 256, 256)
_MARGIN = 0.1
_MIN_ML, _MAX_ML = 300.0, 2600.0


@lru_cache(maxsize=2)
def _network(name: str) -> LinkNet3d:
    return load_brainnet(name)


def extract_brain(
    data: NDArray[np.float32], spacing: tuple[float, float, float], *, device: str = "cpu"
) -> NDArray[np.bool_]:
    """Brain mask of a T1-weighted head.

    Args:
        data: Head in RAS+ axis order, any intensity unit, shape ``(X, Y, Z)``.
        spacing: Voxel size in mm, only to judge the volume found.
        device: Where the network runs.

    Returns:
        Boolean mask of the same shape: one component, no holes.

    Raises:
        PreprocessingError: If no brain is found, or one of an impossible volume (outside 300 to 2600 ml).

    Source:
        Fisch et al. 2024 (deepbet): a box network at 128³, then an outline network at 256³ inside the box.
    """
    x = torch.from_numpy(np.ascontiguousarray(data)).to(device)
    small = F.interpolate(x[None, None], _BOX_SHAPE, mode="nearest-exact")[0, 0]
    low, high = np.quantile(small.cpu().numpy(), [0.005, 0.995])
    coarse = _largest(_probability("box", small, low, high) > 0.5)
    if not coarse.any():
        raise PreprocessingError("no brain was found in this image", remedy=_REMEDY)
    box = _box(coarse, data.shape)
    inside = F.interpolate(x[box][None, None], _BRAIN_SHAPE, mode="nearest-exact")[0, 0]
    fine = torch.from_numpy(_probability("brain", inside, low, high))
    size = tuple(s.stop - s.start for s in box)
    # Linear, not nearest, on the way back: the outline is then as smooth as the network's own grid allows.
    probability = F.interpolate(fine[None, None], size, mode="trilinear", align_corners=False)[0, 0]
    mask = np.zeros(data.shape, dtype=bool)
    mask[box] = _filled(_largest(probability.numpy() > 0.5))
    volume = float(mask.sum() * np.prod(spacing) / 1000)
    if not _MIN_ML <= volume <= _MAX_ML:
        raise PreprocessingError(f"the brain found has {volume:.0f} ml, which no brain has", remedy=_REMEDY)
    return mask


_REMEDY = "check that this is a T1-weighted whole head, or give a brain mask with --mask"


def _probability(name: str, x: torch.Tensor, low: float, high: float) -> NDArray[np.float32]:
    x = ((x - low) / max(high - low, 1e-6)).clamp(0, 1)
    x = 0.226 * (x - x.mean()) / x.std().clamp_min(1e-6) + 0.449
    with torch.inference_mode():
        p = _network(name).to(x.device)(x[None, None])[0, 1]
    return p.float().cpu().numpy()  # type: ignore[no-any-return]


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _box(coarse: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The coarse brain's box with a margin, in voxels of the full image."""
    box = []
    for axis, size in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        profile = np.flatnonzero(coarse.mean(others) > 0.02)
        if profile.size == 0:
            raise PreprocessingError("no brain was found in this image", remedy=_REMEDY)
        low, high = profile[0], profile[-1] + 1
        scale = size / coarse.shape[axis]
        half = (high - low) / 2 * (1 + 2 * _MARGIN) * scale
        centre = (high + low) / 2 * scale
        box.append(slice(max(0, round(centre - half)), min(size, round(centre + half))))
    return tuple(box)
