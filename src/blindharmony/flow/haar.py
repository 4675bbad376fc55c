r"""A Haar pyramid of a masked volume: every voxel inside the mask becomes exactly one number.

Neighbours are split in pairs, axis by axis: :math:`s = (a + b)/2,\; d = a - b`. Where only one of a pair
lies inside the mask, :math:`s` is that one and there is no :math:`d`. Three axes make one level: a coarse
image of half the resolution and seven detail channels, each with its own mask. Nothing outside the mask is
invented and nothing inside is lost, so a density of the coefficients is a density of the voxels; each pair
split has :math:`|\det| = 1`.

Source: lifting form of the Haar transform (Sweldens 1998); flows on it: Yu et al., "Wavelet Flow" (2020).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class HaarLevel(NamedTuple):
    """One level: ``(B, 1, ...)`` coarse image, ``(B, 7, ...)`` details, and the mask of each (bool)."""

    coarse: Tensor
    coarse_mask: Tensor
    detail: Tensor
    detail_mask: Tensor


def haar_split(x: Tensor, mask: Tensor) -> HaarLevel:
    """Split a volume into a coarse image and details.

    Args:
        x: Volume ``(B, 1, D, H, W)``, every side even.
        mask: Bool ``(B, 1, D, H, W)``.

    Example:
        >>> x, mask = torch.rand(1, 1, 4, 4, 4), torch.rand(1, 1, 4, 4, 4) > 0.4
        >>> level = haar_split(x, mask)
        >>> int(level.coarse_mask.sum() + level.detail_mask.sum()) == int(mask.sum())
        True
        >>> bool(torch.allclose(haar_merge(level, mask), x * mask, atol=1e-6))
        True
    """
    s, s_mask = x.where(mask, 0.0), mask
    detail: list[Tensor] = []
    detail_mask: list[Tensor] = []
    for axis in (2, 3, 4):
        s, s_mask, d, d_mask = _split_pairs(s, s_mask, axis)
        # Later axes halve again: what was found before moves into channels, one for each place in the block.
        detail = [p for t in detail for p in _halves(t, axis)] + [d]
        detail_mask = [p for t in detail_mask for p in _halves(t, axis)] + [d_mask]
    return HaarLevel(s, s_mask, torch.cat(detail, 1), torch.cat(detail_mask, 1))


def haar_merge(level: HaarLevel, mask: Tensor) -> Tensor:
    """The volume of a level, zero outside ``mask``; the inverse of :func:`haar_split`."""
    masks = [mask]
    for axis in (2, 3):
        masks.append(_or_pairs(masks[-1], axis))
    parts = [level.detail[:, c : c + 1] for c in range(level.detail.shape[1])]
    s = level.coarse
    # Undo the axes in reverse; the details of an axis are gathered from its channels as they were spread.
    for axis, fine_mask, count in ((4, masks[2], 1), (3, masks[1], 2), (2, masks[0], 4)):
        taken, parts = parts[-count:], parts[:-count]
        for spread in (4, 3)[: {1: 0, 2: 1, 4: 2}[count]]:
            taken = [_weave(taken[i], taken[i + 1], spread) for i in range(0, len(taken), 2)]
        s = _merge_pairs(s, taken[0], fine_mask, axis)
    return s


def _halves(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    even: list[slice] = [slice(None)] * x.ndim
    odd = list(even)
    even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
    return x[tuple(even)], x[tuple(odd)]


def _weave(a: Tensor, b: Tensor, axis: int) -> Tensor:
    return torch.stack([a, b], axis + 1).flatten(axis, axis + 1)


def _or_pairs(mask: Tensor, axis: int) -> Tensor:
    a, b = _halves(mask, axis)
    return a | b


def _split_pairs(x: Tensor, mask: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b = _halves(x, axis)
    a_in, b_in = _halves(mask, axis)
    both = a_in & b_in
    s = torch.where(both, (a + b) / 2, a + b)  # outside the mask x is zero: the sum is the one that exists
    return s, a_in | b_in, torch.where(both, a - b, 0.0), both


def _merge_pairs(s: Tensor, d: Tensor, mask: Tensor, axis: int) -> Tensor:
    a_in, b_in = _halves(mask, axis)
    both = a_in & b_in
    half = torch.where(both, d / 2, 0.0)
    return _weave((s + half).where(a_in, 0.0), (s - half).where(b_in, 0.0), axis)
