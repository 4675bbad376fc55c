"""Fold neighbouring places into channels."""

from __future__ import annotations

from itertools import chain

from torch import Tensor
from torch.nn import functional as F

from blindharmony.flow.bijection import NOTHING, Bijection, Condition, no_change


class Squeeze(Bijection):
    r"""Halve every spatial axis by moving each 2×2(×2) block into the channels.

    .. math:: z_{c\,2^n + o}(p) = x_c(2p + o), \qquad \log|\det| = 0

    where :math:`o` counts through the :math:`2^n` corners of a block. A squeezed place exists only
    when all its parts do; the context is averaged over the block.

    Source: Dinh et al. 2017 (Real NVP), section 3.6.

    Args:
        ndim: Number of spatial axes, 2 or 3.

    Raises:
        ValueError: On use, if an axis of the image has an odd size.

    Example:
        >>> import torch
        >>> Squeeze(3).to_latent(torch.zeros(1, 2, 4, 6, 8))[0].shape
        torch.Size([1, 16, 2, 3, 4])
    """

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.ndim = ndim

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z of shape ``(B, C·2ⁿ, *space/2)`` and zeros."""
        return self.fold(x), no_change(x)

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x of shape ``(B, C, *space)`` and zeros."""
        return self.unfold(z), no_change(z)

    def condition_after(self, cond: Condition) -> Condition:
        """Return the averaged context and the mask of complete blocks."""
        context, mask = cond
        if context is not None:
            pool = F.avg_pool2d if self.ndim == 2 else F.avg_pool3d
            context = pool(context, 2)
        if mask is not None:
            mask = (self.fold(mask) != 0).all(1, keepdim=True).to(mask.dtype)
        return Condition(context, mask)

    def fold(self, x: Tensor) -> Tensor:
        """Move every block into the channels."""
        space = x.shape[2:]
        if len(space) != self.ndim or any(size % 2 for size in space):
            msg = f"cannot squeeze sizes {tuple(space)}: {self.ndim} even ones expected; crop or pad the image"
            raise ValueError(msg)
        halves = list(chain.from_iterable((size // 2, 2) for size in space))
        blocks = x.reshape(*x.shape[:2], *halves)
        corners = [3 + 2 * axis for axis in range(self.ndim)]
        blocks = blocks.permute(0, 1, *corners, *[2 + 2 * axis for axis in range(self.ndim)])
        return blocks.flatten(1, 1 + self.ndim)

    def unfold(self, z: Tensor) -> Tensor:
        """Move the channels back into blocks."""
        parts = 2**self.ndim
        if z.ndim != 2 + self.ndim or z.shape[1] % parts:
            msg = f"cannot unsqueeze {tuple(z.shape)}: {self.ndim} axes and {parts}·n channels expected"
            raise ValueError(msg)
        blocks = z.reshape(len(z), z.shape[1] // parts, *[2] * self.ndim, *z.shape[2:])
        order = chain.from_iterable((2 + self.ndim + axis, 2 + axis) for axis in range(self.ndim))
        blocks = blocks.permute(0, 1, *order)
        return blocks.reshape(*blocks.shape[:2], *(2 * size for size in z.shape[2:]))
