"""The brain's axial slices, taken out of a volume for the slice flow and put back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from blindharmony.errors import InputError

#: Flow intensity that becomes 1.0, the upper end of a slice flow's scale. White matter lies near 1.25 where the root
#: mean square is 1, so that only a few vessels and remains of scalp are clipped.
CEILING = 2.0
#: Slices with a smaller share of brain are not trained on, nor harmonized.
LEAST_BRAIN = 0.05


@dataclass(frozen=True)
class SliceWindow:
    """The part of each slice that holds the brain, with sides the flow accepts.

    The window is the smallest rectangle around the whole mask whose edges are multiples of the flow's factor,
    so that pixels keep the places in the flow's blocks that they had in training. Many brains do not fit the
    published 144×176 pixels at 1 mm. A volume whose sides are no multiples is padded with zeros.

    Attributes:
        rows: First pixel and number of pixels along X.
        columns: The same along Y.
        heights: Numbers of the slices that show enough brain, increasing.
        shape: Of the volume.

    Example:
        >>> mask = np.zeros((40, 40, 4), bool)
        >>> mask[9:23, 3:30, 1:3] = True
        >>> window = SliceWindow.around(mask, 8)
        >>> window.rows, window.columns, window.heights
        ((8, 16), (0, 32), (1, 2))
        >>> bool((window.paste(window.cut(mask)) == mask).all())
        True
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    heights: tuple[int, ...]
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, mask: NDArray[np.bool_], factor: int) -> SliceWindow:
        """Find the window of a mask of shape ``(X, Y, Z)``.

        Raises:
            InputError: If no slice is at least 5 % brain.
        """
        heights = np.flatnonzero(mask.mean(axis=(0, 1)) >= LEAST_BRAIN)
        if not len(heights):
            raise InputError(f"no slice is at least {LEAST_BRAIN:.0%} brain", remedy="check the brain mask")

        def span(axis: int) -> tuple[int, int]:
            used = np.flatnonzero(mask[:, :, heights].any(axis=(1 - axis, 2)))
            first = used[0] // factor * factor
            return int(first), int(-(-(used[-1] + 1 - first) // factor) * factor)

        x, y, z = mask.shape
        return cls(span(0), span(1), tuple(int(h) for h in heights), (x, y, z))

    def cut(self, volume: NDArray[np.generic]) -> Tensor:
        """Return the window of the slices, shape ``(S, 1, H, W)``, float32."""
        (x, h), (y, w) = self.rows, self.columns
        part = volume[x : x + h, y : y + w, list(self.heights)].astype(np.float32)
        slices = torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))[:, None]
        return F.pad(slices, (0, w - slices.shape[3], 0, h - slices.shape[2]))

    def paste(self, slices: Tensor) -> NDArray[np.float32]:
        """Return a volume with the slices ``(S, 1, H, W)`` in their places, zero elsewhere."""
        (x, h), (y, w) = self.rows, self.columns
        volume = np.zeros(self.shape, np.float32)
        part = volume[x : x + h, y : y + w]
        part[:, :, list(self.heights)] = slices[:, 0, : part.shape[0], : part.shape[1]].permute(1, 2, 0).cpu().numpy()
        return volume


def start_slices(mean: NDArray[np.float32], window: SliceWindow, source: Tensor, brain: Tensor) -> Tensor:
    """Return the slices of the mean target image inside the brain, where the published method starts.

    Args:
        mean: Mean of the target scans in the template's box, on any grid, zero where there is none.
        window: Of the source.
        source: Its slices, ``(S, 1, H, W)``; they stand in where no target scan had brain.
        brain: Its mask, same shape.

    Returns:
        A tensor like ``source``, interpolated linearly.

    Example:
        >>> mask = np.ones((4, 4, 2), bool)
        >>> window = SliceWindow.around(mask, 2)
        >>> brain = window.cut(mask)
        >>> start_slices(np.full((2, 2, 1), 3.0, np.float32), window, brain, brain).unique()
        tensor([3.])
    """
    box = torch.from_numpy(mean)[None, None]
    fine = F.interpolate(box, size=window.shape, mode="trilinear", align_corners=False)[0, 0].numpy()
    slices = window.cut(fine).to(source)
    return torch.where(slices > 0, slices, source) * brain


def fill_ends(
    result: NDArray[np.float32],
    source: NDArray[np.float32],
    mask: NDArray[np.bool_],
    heights: tuple[int, ...],
) -> NDArray[np.float32]:
    r"""Give the small slices at both ends of the brain the brightness of the nearest harmonized one.

    .. math:: x = a\,x_s + b

    with gain and offset from a least-squares fit in the outermost slice that was harmonized.

    Args:
        result: Harmonized slices at ``heights``, shape ``(X, Y, Z)``.
        source: The source, same shape.
        mask: The brain; elsewhere the answer is zero.
        heights: Numbers of the harmonized slices, increasing.

    Returns:
        The whole volume, nowhere negative.

    Example:
        >>> mask = np.ones((2, 2, 2), bool)
        >>> source = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
        >>> result = np.where([True, False], 3 * source, 0)
        >>> np.allclose(fill_ends(result, source, mask, (0,)), 3 * source, atol=1e-5)
        True
    """
    filled = np.where(mask, result, 0.0).astype(np.float32)
    for z in set(np.flatnonzero(mask.any(axis=(0, 1))).tolist()) - set(heights):
        near = min(heights, key=lambda h: abs(h - z))
        known = mask[:, :, near]
        x, y = source[:, :, near][known].astype(float), filled[:, :, near][known].astype(float)
        x_mean, y_mean = x.mean(), y.mean()
        gain = ((x - x_mean) * (y - y_mean)).sum() / max(((x - x_mean) ** 2).sum(), np.finfo(float).tiny)
        here = mask[:, :, z]
        filled[:, :, z][here] = np.maximum(y_mean + gain * (source[:, :, z][here] - x_mean), 0)
    return filled
