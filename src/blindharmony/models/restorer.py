r"""A small network that takes noise and blur out of an image that is nearly the target's.

.. math:: R(x) = x + m \cdot \Bigl(u_0 + \sum_k u_k\, B_k x\Bigr), \qquad u = U\bigl(h(x, B x)\bigr)

:math:`B_k` are bands of detail: second differences along each axis, and differences of Gaussians. The network says how
much of each is noise, to be taken out, or was blurred, to be made stronger, at every voxel; it need not learn
the filters themselves. :math:`h` halves the resolution by giving every 2×2×2 block eight channels, :math:`U` is a
U-Net of two scales without normalisation, :math:`m` the mask. It starts as the identity.

Source: blocks as channels, Zhang et al. 2018 (FFDNet, arXiv 1710.04026); U-Net, Çiçek et al. 2016 (arXiv 1606.06650).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

_WIDTHS = (0.7, 1.4)  # voxels
_BANDS = 3 + len(_WIDTHS)
# Planes of half the resolution that are worked on at once where channels are many: a head takes 100 MB less then.
_SLAB = 20


class RestorerSpec(BaseModel):
    """Widths of the two scales and residual blocks at each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=16, ge=1, le=4096)
    deep_width: int = Field(default=64, ge=1, le=4096)
    blocks: int = Field(default=2, ge=0, le=64)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; it starts as the identity.

    Example:
        >>> x = torch.rand(1, 2, 4, 4, 4)
        >>> bool(torch.equal(ResidualBlock(2, F.silu)(x), x))
        True
    """

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.second = nn.Conv3d(width, width, 3, padding=1)
        # Every block starts as the identity: without normalisation, a deep network falls silent otherwise.
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions make of ``(B, width, X, Y, Z)``."""
        change: Tensor = self.second(self.activation(self.first(self.activation(x))))
        return change.add_(x)


class Restorer(nn.Module):
    """Image and mask ``(B, 1, X, Y, Z)``, sides multiples of 4, to the restored image.

    Example:
        >>> x = torch.rand(1, 1, 8, 8, 8)
        >>> bool(torch.equal(Restorer(RestorerSpec(width=8, deep_width=8, blocks=1))(x, x > 0), x))
        True
    """

    def __init__(self, spec: RestorerSpec) -> None:
        super().__init__()
        self.spec = spec
        w, d = spec.width, spec.deep_width
        self.enter = nn.Conv3d(8 * (3 + _BANDS), w, 3, padding=1)
        self.down_blocks = nn.Sequential(*(ResidualBlock(w, F.silu) for _ in range(spec.blocks)))
        self.down = nn.Conv3d(w, d, 2, stride=2)
        self.deep = nn.Sequential(*(ResidualBlock(d, F.silu) for _ in range(2 * spec.blocks)))
        self.up = nn.ConvTranspose3d(d, w, 2, stride=2)
        self.up_blocks = nn.Sequential(*(ResidualBlock(w, F.silu) for _ in range(spec.blocks)))
        self.leave = nn.Conv3d(w, 8 * (1 + _BANDS), 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor, own_grid: Tensor | float = 0.0) -> Tensor:
        """The restored image, unchanged outside the mask.

        ``own_grid`` is 1 for a scan on its own grid and 0 on the template's, whose interpolation looks like blur.
        """
        inside = mask.to(x.dtype)
        bands = detail_bands(x * inside, inside)
        entered = (
            self.enter(_seen(x, inside, own_grid, bands, wide))[:, :, inner] for wide, inner in _slabs(x.shape[2] // 2)
        )
        h = torch.cat(list(entered), 2)
        # Block by block: nothing then holds what went into the last but one, 70 MB of a head.
        for block in self.down_blocks:
            h = block(h)
        h = self.up(self.deep(self.down(h))).add_(h)
        for block in self.up_blocks:
            h = block(h)
        h = F.silu(h)
        restored, first = [], 0
        for wide, inner in _slabs(h.shape[2]):
            u = channels_as_blocks(self.leave(h[:, :, wide])[:, :, inner])
            planes = slice(first, first + u.shape[2])
            change = u[:, :1]
            for k, band in enumerate(bands, 1):
                change = change.addcmul(u[:, k : k + 1], band[:, :, planes])
            restored.append(x[:, :, planes].addcmul(inside[:, :, planes], change))
            first = planes.stop
        return torch.cat(restored, 2)


def _slabs(planes: int) -> Iterator[tuple[slice, slice]]:
    """Slabs of an axis with a plane more at either end, as a convolution needs it, and what of each is its own.

    Example:
        >>> [(wide.start, wide.stop, inner.start, inner.stop) for wide, inner in _slabs(50)]
        [(0, 21, 0, 20), (19, 41, 1, 21), (39, 50, 1, 11)]
    """
    for first in range(0, planes, _SLAB):
        last, low = min(first + _SLAB, planes), max(first - 1, 0)
        yield slice(low, min(last + 1, planes)), slice(first - low, last - low)


def _seen(x: Tensor, inside: Tensor, own_grid: Tensor | float, bands: list[Tensor], planes: slice) -> Tensor:
    """What the network looks at, on these planes of half the resolution."""
    cut, count = slice(2 * planes.start, 2 * planes.stop), 3 + _BANDS
    x, inside = x[:, :, cut], inside[:, :, cut]
    b, _, i, j, k = x.shape
    # Channels side by side in memory: a processor convolves a third faster.
    order = torch.channels_last_3d if x.device.type == "cpu" else torch.contiguous_format
    seen = torch.empty(b, 8 * count, i // 2, j // 2, k // 2, dtype=x.dtype, device=x.device, memory_format=order)
    for at in range(count):
        image = ((x - 1) * inside, inside, inside * own_grid)[at] if at < 3 else 10 * bands[at - 3][:, :, cut]
        seen[:, 8 * at : 8 * at + 8] = blocks_as_channels(image)
    return seen


def detail_bands(x: Tensor, inside: Tensor) -> list[Tensor]:
    """Second differences along the three axes and two differences of Gaussians, five images ``(B, 1, X, Y, Z)``.

    Where a neighbour lies outside the mask, the voxel itself stands for it.

    Example:
        >>> flat = torch.ones(1, 1, 8, 8, 8)
        >>> max(float(band.abs().max()) for band in detail_bands(flat, flat)) < 1e-6
        True
    """
    bands = []
    for axis in (2, 3, 4):
        step = (x - torch.roll(x, -1, axis)) * (inside * torch.roll(inside, -1, axis))
        bands.append((step - torch.roll(step, 1, axis)) / 2)
    smooth = x
    for width in _WIDTHS:
        blurred = _gauss(x, width) / _gauss(inside, width).clamp_min(1e-3)
        bands.append(inside * (smooth - blurred))
        smooth = blurred
    return bands


def _gauss(x: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    weights = (line / line.sum()).tolist()
    # Shifted copies, not a convolution of one channel: faster, and the same bytes with any number of threads.
    for axis in (2, 3, 4):
        wide = F.pad(x, [reach if other == axis else 0 for other in (4, 3, 2) for _ in range(2)])
        x = weights[0] * wide.narrow(axis, 0, x.shape[axis])
        for k, w in enumerate(weights[1:], 1):
            x = x.add_(wide.narrow(axis, k, x.shape[axis]), alpha=w)
    return x


def blocks_as_channels(x: Tensor) -> Tensor:
    """Half the resolution: ``(B, C, X, Y, Z)`` to ``(B, 8 C, X/2, Y/2, Z/2)``.

    Example:
        >>> x = torch.rand(1, 3, 4, 4, 4)
        >>> bool(torch.equal(channels_as_blocks(blocks_as_channels(x)), x))
        True
    """
    b, c, i, j, k = x.shape
    x = x.reshape(b, c, i // 2, 2, j // 2, 2, k // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, i // 2, j // 2, k // 2)


def channels_as_blocks(x: Tensor) -> Tensor:
    """The way back of :func:`blocks_as_channels`."""
    b, c, i, j, k = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, i, j, k).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // 8, 2 * i, 2 * j, 2 * k)
