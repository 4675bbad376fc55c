"""The networks that give couplings their parameters: they read one part of an image and say how to bend the other.

:class:`ConvResNet` is the published one, :class:`Bottleneck` the cheap one. :class:`Convolution` is a 3-D
convolution that is fast for one small image on a processor, too; the pyramid is built of it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Single images below this size (channels times the first two sides) get PyTorch's slow kernel: seven times the time.
_SMALL = 20480


class Convolution(nn.Conv3d):
    """``nn.Conv3d`` with an odd kernel and equal padding, the same numbers up to rounding.

    A small single image is cut into two slabs, since PyTorch has its fast kernel for two images only.

    Args:
        cin: Channels in.
        cout: Channels out.
        kernel: Odd number of voxels.

    Example:
        >>> layer, x = Convolution(2, 3), torch.randn(1, 2, 5, 4, 4)
        >>> bool(torch.allclose(layer(x), layer._conv_forward(x, layer.weight, layer.bias), atol=1e-5))
        True
    """

    def __init__(self, cin: int, cout: int, kernel: int = 3) -> None:
        super().__init__(cin, cout, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, cin, X, Y, Z) → (B, cout, X, Y, Z)``."""
        length, reach = x.shape[2], self.kernel_size[0] // 2
        small = len(x) == 1 and x.shape[1:4].numel() <= _SMALL
        if not small or not reach or length < 2 or x.dtype != torch.float32 or x.device.type != "cpu":
            return super().forward(x)
        half = (length + 1) // 2
        padded = F.pad(x, (0, 0, 0, 0, reach, reach))
        slabs = torch.cat([padded[:, :, : half + 2 * reach], padded[:, :, length - half :]])
        answers = F.conv3d(slabs, self.weight, self.bias, padding=(0, reach, reach))
        return torch.cat([answers[:1], answers[1:, :, 2 * half - length :]], 2)


Norm = Literal["none", "batch"]


class ConvResNet(nn.Module):
    r"""Read an image with a stack of residual convolution blocks.

    .. math:: h \leftarrow h + \mathrm{conv}(\sigma(\mathrm{norm}(\mathrm{conv}(\sigma(\mathrm{norm}(h))))))

    between a 1×1 convolution in and a 1×1 convolution out. The last one starts at zero, so that a
    new coupling is the identity. Borders are padded with zeros, like places that do not exist.

    Warning:
        With ``norm="batch"`` the answer depends on the rest of the batch in training mode; the flow
        is then exactly invertible in evaluation mode only.

    Source: Durkan et al. 2019, appendix B.2; He et al. 2016 (identity mappings), for the block.

    Args:
        channels: Channels read.
        out: Channels returned.
        context: Channels of the context, concatenated to the input.
        ndim: Number of spatial axes, 2 or 3.
        width: Channels inside.
        blocks: Number of residual blocks.
        kernel: Odd kernel size of the block convolutions.
        norm: ``"none"`` or ``"batch"``.
        dropout: Probability of dropping a value inside a block while training.

    Raises:
        ValueError: If ``kernel`` is even, or the context is missing or not expected.

    Example:
        >>> net = ConvResNet(2, 6, ndim=3, width=8, blocks=1)
        >>> net(torch.randn(1, 2, 4, 4, 4)).abs().sum().item()
        0.0
    """

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        context: int = 0,
        ndim: int = 2,
        width: int = 32,
        blocks: int = 2,
        kernel: int = 3,
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.context = context
        self.first = convolution(ndim, channels + context, width, 1)
        self.blocks = nn.Sequential(*(_Block(ndim, width, kernel, norm, dropout) for _ in range(blocks)))
        self.last = zeroed(convolution(ndim, width, out, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return ``(B, out, *space)``."""
        hidden = self.blocks(self.first(with_context(x, context, self.context)))
        answer: Tensor = self.last(F.relu(hidden))
        return answer


class Bottleneck(nn.Module):
    r"""Read an image with three convolutions: 1×1, then one with a kernel, then 1×1.

    .. math:: h = \mathrm{conv}_{1}(\sigma(\mathrm{conv}_{k}(\sigma(\mathrm{conv}_{1}(x)))))

    The cheap choice for volumes on a CPU. The last convolution starts at zero.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.3, with the small and large kernels exchanged.

    Args:
        channels: Channels read.
        out: Channels returned.
        context: Channels of the context, concatenated to the input.
        ndim: Number of spatial axes, 2 or 3.
        width: Channels inside.
        kernel: Odd kernel size in the middle.

    Raises:
        ValueError: If ``kernel`` is even, or the context is missing or not expected.

    Example:
        >>> Bottleneck(2, 6, context=1, width=8)(torch.randn(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)).shape
        torch.Size([1, 6, 4, 4])
    """

    def __init__(
        self, channels: int, out: int, *, context: int = 0, ndim: int = 2, width: int = 32, kernel: int = 3
    ) -> None:
        super().__init__()
        self.context = context
        self.first = convolution(ndim, channels + context, width, 1)
        self.middle = convolution(ndim, width, width, kernel)
        self.last = zeroed(convolution(ndim, width, out, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return ``(B, out, *space)``."""
        hidden = F.relu(self.first(with_context(x, context, self.context)))
        answer: Tensor = self.last(F.relu(self.middle(hidden)))
        return answer


class _Block(nn.Module):
    def __init__(self, ndim: int, width: int, kernel: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        batch_norm = nn.BatchNorm2d if ndim == 2 else nn.BatchNorm3d
        self.norms = nn.ModuleList(batch_norm(width) if norm == "batch" else nn.Identity() for _ in range(2))
        self.convolutions = nn.ModuleList(convolution(ndim, width, width, kernel) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.convolutions[0](F.relu(self.norms[0](hidden)))
        inner = self.convolutions[1](self.dropout(F.relu(self.norms[1](inner))))
        return torch.add(hidden, inner)


def convolution(ndim: int, channels: int, out: int, kernel: int) -> nn.Conv2d | nn.Conv3d:
    """Make a convolution that keeps the spatial size.

    Args:
        ndim: Number of spatial axes, 2 or 3.
        channels: Channels read.
        out: Channels returned.
        kernel: Odd kernel size.

    Returns:
        The layer, padded with zeros.

    Raises:
        ValueError: If ``kernel`` is even or ``ndim`` is neither 2 nor 3.

    Example:
        >>> convolution(2, 1, 4, 3)(torch.zeros(1, 1, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """
    if kernel % 2 == 0 or ndim not in (2, 3):
        msg = f"expected an odd kernel size and 2 or 3 spatial axes, got kernel {kernel} and {ndim} axes"
        raise ValueError(msg)
    if ndim == 2:
        return nn.Conv2d(channels, out, kernel, padding=kernel // 2)
    return Convolution(channels, out, kernel)


def zeroed(layer: nn.Conv2d | nn.Conv3d) -> nn.Conv2d | nn.Conv3d:
    """Set the weights of a convolution to zero and return it.

    Args:
        layer: A convolution with a bias.

    Returns:
        The same layer.

    Example:
        >>> zeroed(convolution(2, 1, 1, 1)).weight.abs().sum().item()
        0.0
    """
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def with_context(x: Tensor, context: Tensor | None, expected: int) -> Tensor:
    """Append the context to the channels of an image.

    Args:
        x: ``(B, C, *space)``.
        context: ``(B, C_ctx, *space)`` or ``None``.
        expected: The number of context channels that the network was made for.

    Returns:
        ``(B, C + expected, *space)``; a context that nobody expects is left out.

    Raises:
        ValueError: If the context has another number of channels than expected, or is missing.

    Example:
        >>> with_context(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), 4).shape
        torch.Size([1, 6, 3])
    """
    if expected == 0:
        return x
    if context is None or context.shape[1] != expected:
        count = "none" if context is None else context.shape[1]
        msg = f"expected a context of {expected} channels, got {count}"
        raise ValueError(msg)
    return torch.cat([x, context.to(x.dtype).expand(len(x), *context.shape[1:])], 1)
