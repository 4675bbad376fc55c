"""Patches of slices, cut at random from scans in three orientations, for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindharmony.evidence.networks.parts import MULTIPLE
from blindharmony.prep.grid import mask_box

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Neighbours on either side that are seen with a slice.
REACH = 1
#: Side of a training patch, voxels.
PATCH = 96
AXES = (0, 1, 2)
_LEAST_BRAIN, _SPREAD = 0.05, 3.0


class Spot(NamedTuple):
    """Where a patch lies: scan, axis across the slice, slice, corner in it, and whether it is mirrored."""

    scan: int
    axis: int
    at: int
    corner: tuple[int, int]
    mirrored: bool


def cropped(mask: Mask, *volumes: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
    """Mask and volumes cut to the brain, filled with zeros to sides that are multiples of what a U-Net takes."""
    box, _ = mask_box(mask, margin=2)
    return tuple(_padded(v[box]) for v in (mask, *volumes))


def _padded(volume: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.pad(volume, [(0, max(2 * MULTIPLE, n + -n % MULTIPLE) - n) for n in volume.shape])


def patch_side(masks: Sequence[Mask]) -> int:
    """The side of a square patch that fits into every slice of every scan.

    Example:
        >>> patch_side([np.ones((48, 160, 160), bool)])
        48
    """
    return min(PATCH, *(int(min(m.shape)) for m in masks)) // MULTIPLE * MULTIPLE


def draw(masks: Sequence[Mask], side: int, rng: np.random.Generator, axes: Sequence[int] = AXES) -> Spot:
    """A random patch with some brain in it.

    Args:
        masks: Of the scans, cropped.
        side: Of the patch.
        rng: Source of randomness.
        axes: Orientations to choose from.
    """
    scan, axis = int(rng.integers(len(masks))), int(rng.choice(axes))
    across = np.moveaxis(masks[scan], axis, 0)
    for _ in range(20):
        at = int(rng.integers(across.shape[0]))
        low, left = (int(rng.integers(n - side + 1)) for n in across.shape[1:])
        if across[at, low : low + side, left : left + side].mean() > _LEAST_BRAIN:
            break
    # Left and right are the first axis; a slice across it has none.
    return Spot(scan, axis, at, (low, left), axis != 0 and bool(rng.random() < 0.5))


def cut(volume: NDArray[np.generic], spot: Spot, side: int, reach: int = 0) -> Volume:
    """The patch with ``reach`` neighbouring slices either way, ``(2 reach + 1, side, side)``; zeros beyond the end."""
    across = np.moveaxis(volume, spot.axis, 0)
    (low, left), out = spot.corner, np.zeros((2 * reach + 1, side, side), np.float32)
    for k, at in enumerate(range(spot.at - reach, spot.at + reach + 1)):
        if 0 <= at < across.shape[0]:
            out[k] = across[at, low : low + side, left : left + side]
    return out[:, ::-1] if spot.mirrored else out


def orientation(axes: Tensor, like: Tensor) -> Tensor:
    """Three channels that say which way each slice lies.

    Args:
        axes: Axis across each slice, shape ``(B,)``.
        like: Shape ``(B, C, H, W)``.
    """
    turned = torch.nn.functional.one_hot(axes, len(AXES)).to(like.dtype)
    return turned[:, :, None, None].expand(-1, -1, *like.shape[2:])


def centred(slices: Tensor) -> Tensor:
    """Intensities as networks see them: tissue around 0 with a spread of about 1, background 0.

    Flow units are around 1 with a spread of a third. Seen like that, a discriminator needs ten times as long to notice
    another contrast.

    Example:
        >>> centred(torch.tensor([0.0, 1.0, 1.5])).tolist()
        [0.0, 0.0, 1.5]
    """
    return _SPREAD * (slices - (slices > 0).to(slices.dtype))
