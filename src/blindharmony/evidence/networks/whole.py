"""A whole scan through a network of slices: in one orientation or the mean over several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindharmony.evidence.networks.slices import REACH, Mask, Volume, cropped
from blindharmony.prep.grid import mask_box

_TOGETHER = 8


def through(
    volumes: Sequence[Volume], mask: Mask, run: Callable[[Tensor, int], Tensor], axes: Sequence[int], device: str
) -> Volume:
    """All slices of a scan through a network, the mean over orientations; zero outside the mask.

    Args:
        volumes: What the network sees of each voxel, each ``(X, Y, Z)``.
        mask: Brain.
        run: From slices with their neighbours and mask, ``(B, C, H, W)``, and their axis to ``(B, K, H, W)``.
        axes: Orientations.
        device: Where it runs.

    Returns:
        Shape ``(K, X, Y, Z)``, float32.
    """
    box, _ = mask_box(mask, margin=2)
    inside, *seen = cropped(mask, *volumes)
    with torch.inference_mode():
        total = np.asarray(sum(_one_way(inside, seen, run, axis, device) for axis in axes), np.float32) / len(axes)
    out = np.zeros((total.shape[0], *mask.shape), np.float32)
    x, y, z = mask[box].shape
    out[(slice(None), *box)] = total[:, :x, :y, :z]
    out[:, ~mask] = 0
    return out


def _one_way(
    inside: NDArray[np.generic],
    seen: Sequence[NDArray[np.generic]],
    run: Callable[[Tensor, int], Tensor],
    axis: int,
    device: str,
) -> Volume:
    channels = [*(c for v in seen for c in _neighbours(np.moveaxis(v, axis, 0))), np.moveaxis(inside, axis, 0)]
    stack = torch.from_numpy(np.stack(channels, 1).astype(np.float32))
    made: Tensor | None = None
    for start in range(0, len(stack), _TOGETHER):
        part = stack[start : start + _TOGETHER]
        if made is not None and not bool(part[:, -1].any()):
            continue
        found = run(part.to(device, memory_format=torch.channels_last), axis).float().cpu()
        if made is None:
            made = found.new_zeros(len(stack), *found.shape[1:])
        made[start : start + _TOGETHER] = found
    if made is None:
        raise ValueError("the scan has no slices")
    return np.moveaxis(made.numpy(), (1, 0), (0, axis + 1))


def _neighbours(volume: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """The volume as seen from slices below to slices above."""
    wide = np.pad(volume, [(REACH, REACH), (0, 0), (0, 0)])
    return [wide[k : k + len(volume)] for k in range(2 * REACH + 1)]
