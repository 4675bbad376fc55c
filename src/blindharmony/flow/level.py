r"""The density of one resolution's details, given the coarser image and the place in the head.

.. math:: \log p(d \mid c) = \log \mathcal N(f(d; c)) + \log|\det \partial f/\partial d|

``f`` is a chain: first every channel is shifted and scaled by what the context predicts, then couplings do so with
places of one colour of a checkerboard as those of the other say, then with some channels as the others say, or bend
them with splines. The convolutions over the context are shared by all of them, and curves are evaluated only where
the mask says there is something: about a third of the box around a head.

Source: affine and checkerboard couplings, Dinh et al. 2017; spline couplings, Durkan et al. 2019; conditioning on the
coarser image, Yu et al. 2020.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindharmony.flow.affine import Affine, Elementwise
from blindharmony.flow.bijection import full_precision
from blindharmony.flow.convolution import Convolution
from blindharmony.flow.spline import Spline

_SEVEN = ((0, 1, 2, 3), (4, 5, 6), (0, 2, 4, 6), (1, 3, 5))


class ContextNet(nn.Module):
    """What the coarser image and the place say about the details: ``(B, C, ...) → (B, width, ...)``."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = Convolution(channels, width)
        self.blocks = nn.ModuleList(Convolution(width, width) for _ in range(blocks))

    def forward(self, context: Tensor) -> Tensor:
        """Hidden features at every place."""
        hidden = self.first(context)
        for block in self.blocks:
            hidden = hidden + block(F.silu(hidden))
        return F.silu(hidden)


class _Sites(NamedTuple):
    """Places where there is something: their flat index, their image, and which channels are there ``(C, sites)``."""

    at: Tensor
    image: Tensor
    valid: Tensor

    def where(self, chosen: Tensor) -> _Sites:
        return _Sites(self.at[chosen], self.image[chosen], self.valid[:, chosen])


def _colours(x: Tensor) -> Tensor:
    """0 or 1 at each place of a checkerboard, shape ``(X, Y, Z)``."""
    a, b, c = (torch.arange(n, device=x.device) for n in x.shape[2:])
    return (a[:, None, None] + b[:, None] + c) % 2


class _Layer(nn.Module):
    """One elementwise bijection of the channels ``moved``, decided by the context and what is not moved.

    That are the other channels or, with a ``colour``, all channels at the places of the other colour.
    """

    def __init__(
        self,
        channels: int,
        moved: tuple[int, ...],
        transform: Elementwise,
        width: int,
        dropout: float,
        colour: int | None = None,
    ) -> None:
        super().__init__()
        self.moved = moved
        self.colour = colour
        self.kept = tuple(c for c in range(channels) if c not in moved or colour is not None)
        self.transform = transform
        self.look = Convolution(2 * len(self.kept), width) if self.kept else None
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, len(moved) * transform.size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def params(self, x: Tensor, mask: Tensor, features: Tensor, sites: Tensor) -> Tensor:
        """Curve parameters at the ``sites`` (flat places), shape ``(1, moved, size, sites)``."""
        kept = list(self.kept)
        if self.look is not None:
            seen = torch.cat([x[:, kept], mask[:, kept].to(x.dtype)], 1)
            if self.colour is not None:
                seen = seen * (_colours(x) != self.colour)
            features = F.silu(features + self.look(seen))
        at_sites = features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1])[sites]
        raw: Tensor = self.head(self.dropout(F.silu(self.hidden(at_sites))))
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return raw.T.reshape(1, len(self.moved), self.transform.size, -1)


class LevelFlow(nn.Module):
    """Details to latents and back, at the places and channels where they exist.

    Args:
        channels: Detail channels: 7, or 1 for the coarsest image itself.
        context: Channels of the context.
        width: Hidden channels.
        blocks: Residual 3×3×3 convolutions over the context.
        checkerboards: How often the places of either colour are moved as the other colour says.
        affine_rounds: How often the pattern of channel couplings is then run through with affine ones.
        rounds: How often it is then run through with splines; without either, the map is the context's alone.
        bins: Bins of the splines.
        dropout: Share of hidden features dropped in training.

    Example:
        >>> level = LevelFlow(7, context=2, width=8, blocks=1, rounds=1)
        >>> d, c = torch.randn(1, 7, 4, 4, 4), torch.randn(1, 2, 4, 4, 4)
        >>> mask = torch.rand(1, 7, 4, 4, 4) > 0.3
        >>> z, logdet = level.to_latent(d * mask, c, mask)
        >>> bool(torch.allclose(level.to_image(z, c, mask)[0], d * mask, atol=1e-5))
        True
    """

    def __init__(
        self,
        channels: int,
        *,
        context: int,
        width: int,
        blocks: int,
        rounds: int,
        checkerboards: int = 0,
        affine_rounds: int = 0,
        bins: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.net = ContextNet(context, width, blocks)
        everything = tuple(range(channels))
        patterns = _SEVEN if channels == 7 else ()
        spline = Spline(bins=bins, bound=4.0)
        self.layers = nn.ModuleList([_Layer(channels, everything, Affine(), width, dropout)])
        for _ in range(checkerboards):
            self.layers.extend(_Layer(channels, everything, Affine(), width, dropout, colour) for colour in (0, 1))
        for _ in range(affine_rounds):
            self.layers.extend(_Layer(channels, moved, Affine(), width, dropout) for moved in patterns)
        for _ in range(rounds):
            self.layers.extend(_Layer(channels, moved, spline, width, dropout) for moved in patterns)
        if channels == 1 and rounds:
            self.layers.append(_Layer(channels, everything, spline, width, dropout))
        # The typical size of each channel, so that the network meets numbers around one.
        self.register_buffer("input_sd", torch.ones(channels))
        self.input_sd: Tensor
        # What is left after training: mean and spread of each latent channel on held-out scans.
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_log_sd", torch.zeros(channels))
        self.latent_mean: Tensor
        self.latent_log_sd: Tensor

    def to_latent(self, x: Tensor, context: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Latents like ``x`` (zero where masked) and log|det dz/dx|, shape ``(B,)``."""
        return self._run(x, context, mask, inverse=False)

    def to_image(self, z: Tensor, context: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Details like ``z`` and log|det dx/dz|, shape ``(B,)``."""
        return self._run(z, context, mask, inverse=True)

    @torch.no_grad()
    def absorb_gain(self, log_gain: float) -> None:
        r"""Become :math:`p'(x \mid c) = s^n p(s\,x \mid s\,c)` with :math:`s = e^{\text{log_gain}}`.

        Only channel 0 of the context, the coarser image, is an intensity; a scale and the weights that read it take
        the gain up, so that nothing is added to the flow.
        """
        self.input_sd.mul_(math.exp(-log_gain))
        self.net.first.weight[:, 0].mul_(math.exp(log_gain))

    def _run(self, x: Tensor, context: Tensor, mask: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        features = self.net(context)
        sites = mask.any(1).flatten().nonzero().squeeze(1)
        image = torch.arange(len(x), device=x.device).repeat_interleave(mask[0, 0].numel())[sites]
        everything = _Sites(sites, image, mask.transpose(0, 1).flatten(1)[:, sites])
        colours = _colours(x).flatten().repeat(len(x))[sites]
        exact = torch.promote_types(self.input_sd.dtype, torch.float32)
        logdet = x.new_zeros(len(x), dtype=exact)
        scale = self.input_sd.view(1, -1, 1, 1, 1)
        change = (everything.valid * self.input_sd.log()[:, None]).sum(0)
        if inverse:
            x, logdet = self._standardise(x, mask, logdet, everything, inverse=True)
        else:
            x = (x / scale).where(mask, 0.0)
            logdet = logdet.index_add(0, image, -change)
        for module in reversed(self.layers) if inverse else self.layers:
            layer = cast(_Layer, module)
            some = everything if layer.colour is None else everything.where(colours == layer.colour)
            params = layer.params(x, mask, features, some.at)
            moved = list(layer.moved)
            with full_precision(x):
                flat = x.transpose(0, 1).flatten(1)  # (C, B·places)
                values = flat[moved][:, some.at][None].to(params.dtype)
                bend = layer.transform.to_image if inverse else layer.transform.to_latent
                new, slope = bend(values, params)
                keep = some.valid[moved][None]
                new, slope = new.where(keep, 0.0), slope.where(keep, 0.0)
                logdet = logdet.index_add(0, some.image, slope.sum((0, 1)))
                flat = flat.to(new.dtype).index_put(
                    (torch.tensor(moved, device=x.device)[:, None], some.at[None]), new[0]
                )
                x = flat.reshape(len(flat), len(x), *x.shape[2:]).transpose(0, 1)
        if not inverse:
            return self._standardise(x, mask, logdet, everything, inverse=False)
        return x * scale, logdet.index_add(0, image, change)

    def _standardise(
        self, x: Tensor, mask: Tensor, logdet: Tensor, sites: _Sites, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        mean, log_sd = self.latent_mean.view(1, -1, 1, 1, 1), self.latent_log_sd.view(1, -1, 1, 1, 1)
        x = (x * log_sd.exp() + mean) if inverse else (x - mean) * (-log_sd).exp()
        change = (sites.valid * self.latent_log_sd[:, None]).sum(0)
        return x.where(mask, 0.0), logdet.index_add(0, sites.image, change if inverse else -change)
