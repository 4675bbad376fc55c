"""The networks of style transfer: content and style apart.

Source: adaptive instance normalisation, Huang & Belongie 2017 (arXiv 1703.06868); Choi et al. 2020 (arXiv 1912.01865).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindharmony.evidence.networks.slices import centred

#: Numbers of a style.
STYLE = 16
_WIDTHS, _SLOPE = (8, 24, 48), 0.2


class AdaptiveNorm(nn.Module):
    r"""Normalised inside the mask, then with the style's own spread and level.

    .. math:: (1 + \gamma(s)) \frac{h - \mu}{\sigma} + \beta(s)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affine = nn.Linear(STYLE, 2 * width)

    def forward(self, h: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Features ``(B, C, H, W)``, mask ``(B, 1, H, W)``, style ``(B, 16)``."""
        count = mask.sum((2, 3), keepdim=True).clamp_min(1)
        mean = (h * mask).sum((2, 3), keepdim=True) / count
        spread = ((h - mean).square() * mask).sum((2, 3), keepdim=True) / count
        gamma, beta = self.affine(style)[:, :, None, None].chunk(2, 1)
        out: Tensor = (1 + gamma) * (h - mean) * torch.rsqrt(spread + 1e-5) + beta
        return out


class Generator(nn.Module):
    """Image, mask and style to the image in that style, zero outside the mask.

    The content comes from an encoder of three scales, the style enters at every scale of the decoder.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        self.enter = _convolution(2, a)
        self.down = nn.ModuleList([_convolution(a, b, stride=2), _convolution(b, c, stride=2)])
        self.deep = nn.ModuleList([_convolution(c, c), _convolution(c, c)])
        self.up = nn.ModuleList([_convolution(c + b, b), _convolution(b + a, a)])
        self.norms = nn.ModuleList(AdaptiveNorm(w) for w in (c, c, b, a))
        self.leave = nn.Conv2d(a, 1, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """The image in the style; one style may serve all slices."""
        style = style.expand(len(image), -1)
        masks = [mask, F.max_pool2d(mask, 2), F.max_pool2d(mask, 4)]
        found = [_bent(self.enter(torch.cat([centred(image), mask], 1)))]
        for layer in self.down:
            found.append(_bent(layer(found[-1])))
        h = found[2]
        for layer, norm in zip(self.deep, self.norms, strict=False):
            h = h + _bent(norm(layer(h), masks[2], style))
        for k, layer in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            h = _bent(self.norms[2 + k](layer(torch.cat([h, found[1 - k]], 1)), masks[1 - k], style))
        change: Tensor = self.leave(h)
        return mask * (image + change)


class StyleEncoder(nn.Module):
    """Image and mask to the style, ``(B, 16)``: means of features inside the mask.

    Either scanner has an output of its own, as in StarGAN v2, and a style has mean 0 and spread 1: the loss that asks
    for the same style back would otherwise be happiest with no style at all.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        inputs = ((2, a), (a, b), (b, c))
        self.layers = nn.ModuleList(_convolution(*pair, stride=2) for pair in inputs)
        self.codes = nn.ModuleList([nn.Linear(c, STYLE), nn.Linear(c, STYLE)])

    def forward(self, image: Tensor, mask: Tensor, scanner: int) -> Tensor:
        """The style of each slice, taken for one of the scanner."""
        h = torch.cat([centred(image), mask], 1)
        for layer in self.layers:
            h = _bent(layer(h))
        inside = F.max_pool2d(mask, 8)
        means = (h * inside).sum((2, 3)) / inside.sum((2, 3)).clamp_min(1)
        return F.layer_norm(self.codes[scanner](means), (STYLE,))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def _bent(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)
