r"""The default flow: a pyramid of conditional flows, its density, and whether it is honest.

The density of one resolution's details, given the coarser image and the place in the head.

.. math:: \log p(d \mid c) = \log \mathcal N(f(d; c)) + \log|\det \partial f/\partial d|

``f`` is a chain: first every channel is shifted and scaled by what the context predicts, then couplings do so with
places of one colour of a checkerboard as those of the other say, then with some channels as the others say, or bend
them with splines. The convolutions over the context are shared by all of them, and curves are evaluated only where
the mask says there is something: about a third of the box around a head.

Source: affine and checkerboard couplings, Dinh et al. 2017; spline couplings, Durkan et al. 2019; conditioning on the
coarser image, Yu et al. 2020.

The whole-volume density of the target scanner: one conditional flow for each resolution.

.. math:: \log p(x) = \log p(c_K) + \sum_{k=1}^{K} \log p(d_k \mid c_k, \text{place})

:math:`c_0 = x` is the image at the finest resolution, and :math:`(c_k, d_k)` the Haar split of
:math:`c_{k-1}`. Every level can be trained, calibrated and used alone: coarse levels know contrast, fine ones
texture.

A given image with its fine details drawn anew: what the coarse levels of a pyramid leave open.

Is a density an honest judge? Where the likelihood of a changed image has its optimum, for images it never saw.

For a family of invertible changes :math:`T_t` of the image, :math:`T_0` the identity,

.. math:: t^* = \arg\max_t\; \log p(T_t(x)) + \log\left|\det \partial T_t / \partial x\right|

A judge without fault has :math:`t^* = 0` on average over unseen scans; how much it differs between people is how
much it believes to know about one person.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from blindharmony.flows.bijection import check_range, full_precision
from blindharmony.flows.networks import Convolution
from blindharmony.flows.transforms import Affine, Elementwise, HaarLevel, Spline, haar_merge, haar_split

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


_CONTEXT = 13  # coarse image, its mask, atlas and its 7 details, three coordinates


class PyramidSpec(BaseModel):
    """The shape of a pyramid.

    Attributes:
        finest_mm: Voxel size of the image whose density it is.
        shape: Voxels of that image; every side a multiple of 2 to the number of levels.
        widths: Hidden channels of each level, finest first.
        checkerboards: Pairs of affine couplings between the two colours of a checkerboard in each level.
        affine_rounds: Rounds of four affine couplings between channels after them.
        rounds: Rounds of four spline couplings after them, for details with several peaks: a head's have one.
        blocks: Context convolutions in each level.
        bins: Bins of each spline.
        dropout: In training.

    Example:
        >>> PyramidSpec().widths
        (24, 32, 32, 32)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    finest_mm: float = Field(default=2.0, gt=0, le=20)
    shape: tuple[int, int, int] = (80, 96, 80)
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        default=(24, 32, 32, 32), min_length=1, max_length=4
    )
    checkerboards: int = Field(default=1, ge=0, le=64)
    affine_rounds: int = Field(default=1, ge=0, le=64)
    rounds: int = Field(default=0, ge=0, le=64)
    blocks: int = Field(default=2, ge=0, le=64)
    bins: int = Field(default=8, ge=2, le=256)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Density(NamedTuple):
    """Log-density of each level, finest first and the coarsest image last.

    Attributes:
        nats: Shape ``(B, levels + 1)``.
        numbers: How many coefficients each level has, same shape.

    Example:
        >>> flat = Density(nats=torch.zeros(1, 2), numbers=torch.ones(1, 2))
        >>> flat.bits_per_dim().item()  # a density of 1 on [0, 1]: every grey value alike
        8.0
    """

    nats: Tensor
    numbers: Tensor

    def bits_per_dim(self, first: int = 0) -> Tensor:
        r""":math:`-\log_2 p(x)/n + 8`: bits a voxel at 256 grey levels between 0 and 1, shape ``(B,)``."""
        return -self.nats[:, first:].sum(1) / self.numbers[:, first:].sum(1) / math.log(2) + 8


class Pyramid(nn.Module):
    """A multi-resolution flow of masked 3-D images.

    Args:
        spec: Its shape.
        atlas: What a brain usually has at each place, shape ``spec.shape``, roughly in [0, 1].

    Source: a flow for each level of a wavelet transform, Yu et al. 2020 (Wavelet Flow, arXiv:2010.13821); here with
    masks, the place in the head as context, and couplings that see neighbours.

    Example:
        >>> flow = Pyramid(PyramidSpec(shape=(16, 16, 16), widths=(4, 4)), torch.rand(16, 16, 16))
        >>> x, mask = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16) > 0.5
        >>> density = flow.density(x * mask, mask)
        >>> density.nats.shape, int(density.numbers.sum()) == int(mask.sum())
        (torch.Size([1, 3]), True)
    """

    def __init__(self, spec: PyramidSpec, atlas: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.levels = nn.ModuleList(
            LevelFlow(
                7,
                context=_CONTEXT,
                width=w,
                blocks=spec.blocks,
                rounds=spec.rounds,
                checkerboards=spec.checkerboards,
                affine_rounds=spec.affine_rounds,
                bins=spec.bins,
                dropout=spec.dropout,
            )
            for w in spec.widths
        )
        width = spec.widths[-1]
        self.base = LevelFlow(1, context=_CONTEXT, width=width, blocks=0, rounds=0, dropout=spec.dropout)
        # Without memory there are no positions either: only the names and shapes of the weights are asked for.
        self._places = [] if atlas.is_meta else self._positions(atlas.float())

    def _positions(self, atlas: Tensor) -> list[Tensor]:
        """Atlas, its details, and coordinates at the resolution of each level's coarse image."""
        places = []
        image = atlas[None, None]
        everywhere = torch.ones_like(image, dtype=torch.bool)
        for _ in self.spec.widths:
            level = haar_split(image, everywhere)
            axes = [torch.linspace(-1, 1, n) for n in level.coarse.shape[2:]]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
            places.append(torch.cat([level.coarse, level.detail * 4, grid], 1))
            image, everywhere = level.coarse, level.coarse_mask
        return places

    def split(self, x: Tensor, mask: Tensor) -> list[HaarLevel]:
        """All levels of an image, finest first."""
        levels = []
        for _ in self.levels:
            levels.append(haar_split(x, mask))
            x, mask = levels[-1].coarse, levels[-1].coarse_mask
        return levels

    def context(self, k: int, level: HaarLevel) -> Tensor:
        """What level ``k`` may look at: the coarser image, its mask, and the place."""
        place = self._places[k].to(level.coarse)
        place = place.expand(len(level.coarse), -1, -1, -1, -1)
        return torch.cat([level.coarse, level.coarse_mask.to(level.coarse), place], 1)

    def base_context(self, level: HaarLevel) -> Tensor:
        """The place alone: nothing is coarser."""
        context = self.context(len(self.levels) - 1, level)
        return torch.cat([torch.zeros_like(context[:, :1]), context[:, 1:]], 1)

    def latents(self, levels: list[HaarLevel], first: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Latent, log-det and mask of each level from ``first`` on, and of the coarsest image at the end."""
        found = []
        for k in range(first, len(levels)):
            flow: LevelFlow = self.levels[k]  # type: ignore[assignment]
            z, logdet = flow.to_latent(levels[k].detail, self.context(k, levels[k]), levels[k].detail_mask)
            found.append((z, logdet, levels[k].detail_mask))
        last = levels[-1]
        z, logdet = self.base.to_latent(last.coarse, self.base_context(last), last.coarse_mask)
        return [*found, (z, logdet, last.coarse_mask)]

    def density(self, x: Tensor, mask: Tensor, *, first: int = 0) -> Density:
        """Log-density of the image at level ``first``'s resolution (0: the finest).

        Args:
            x: ``(B, 1, *shape)`` with the shape of that resolution; values in the flow's units.
            mask: Bool, same shape: the voxels that count.
            first: Leave out the levels finer than this.

        Raises:
            ValueError: If values inside the mask are not finite or far outside any image's range.
        """
        check_range(x, mask)
        levels: list[HaarLevel] = []
        for _ in self.levels[first:]:
            levels.append(haar_split(x, mask))
            x, mask = levels[-1].coarse, levels[-1].coarse_mask
        padded = [levels[0]] * first + levels
        parts = self.latents(padded, first)
        nats = [
            logdet - 0.5 * (z.square() + math.log(2 * math.pi)).where(m, 0.0).flatten(1).sum(1)
            for z, logdet, m in parts
        ]
        return Density(torch.stack(nats, 1), torch.stack([m.flatten(1).sum(1) for _, _, m in parts], 1))

    def sample(self, mask: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Images of the target scanner inside ``mask``, shape like it.

        Args:
            mask: Bool ``(B, 1, *spec.shape)``.
            temperature: Standard deviation of the latents.
            generator: Source of randomness, on the CPU; equal states give equal images on every device.
        """
        dtype = self.base.input_sd.dtype
        masks = [mask]
        shells = []
        for _ in self.levels:
            shells.append(haar_split(torch.zeros_like(masks[-1], dtype=dtype), masks[-1]))
            masks.append(shells[-1].coarse_mask)

        def draw(like: Tensor) -> Tensor:
            noise = torch.randn(like.shape, generator=generator, dtype=torch.float32)
            return temperature * noise.to(like)

        x, _ = self.base.to_image(draw(shells[-1].coarse), self.base_context(shells[-1]), masks[-1])
        for k in reversed(range(len(self.levels))):
            flow: LevelFlow = self.levels[k]  # type: ignore[assignment]
            level = shells[k]._replace(coarse=x)
            detail, _ = flow.to_image(draw(level.detail), self.context(k, level), level.detail_mask)
            x = haar_merge(level._replace(detail=detail), masks[k])
        return x


@torch.no_grad()
def redraw(
    flow: Pyramid,
    x: Tensor,
    mask: Tensor,
    *,
    levels: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw the finest details of an image from :math:`p(d_1, \dots, d_k \mid c_k)` and keep the rest.

    Args:
        flow: The density.
        x: Image ``(B, 1, *flow.spec.shape)``, flow units.
        mask: Bool, same shape.
        levels: How many levels are drawn, finest first; 0 gives the image back.
        temperature: Standard deviation of the latents.
        generator: Source of randomness, on the CPU; equal states give equal images.

    Returns:
        An image like ``x``, zero outside the mask.

    Example:
        >>> from blindharmony.flows.pyramid import PyramidSpec
        >>> spec = PyramidSpec(shape=(8, 8, 8), widths=(4, 4), blocks=0, bins=4)
        >>> flow = Pyramid(spec, torch.rand(8, 8, 8)).eval()
        >>> x, mask = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8) > 0.2
        >>> bool(torch.allclose(redraw(flow, x, mask, levels=0), x * mask, atol=1e-6))
        True
    """
    parts = flow.split(x, mask)
    masks = [mask, *(part.coarse_mask for part in parts)]
    image = parts[levels - 1].coarse if levels else x.where(mask, 0.0)
    for k in reversed(range(levels)):
        level = parts[k]._replace(coarse=image)
        noise = temperature * torch.randn(level.detail.shape, generator=generator).to(level.detail)
        own: LevelFlow = flow.levels[k]  # type: ignore[assignment]
        detail, _ = own.to_image(noise, flow.context(k, level), level.detail_mask)
        image = haar_merge(level._replace(detail=detail), masks[k])
    return image


#: Image, mask and t → the changed image and log|det|, a number.
Change = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

_DARK = 0.05


def gain(x: Tensor, mask: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Multiply by :math:`e^t`."""
    return x * float(np.exp(t)), t * mask.sum().double()


def gamma(x: Tensor, mask: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Raise to the power :math:`e^t`, straight below 0.05; 1, about white matter's intensity, stays."""
    power = float(np.exp(t))
    bent = x.clamp_min(_DARK) ** power
    straight = x.new_tensor(_DARK ** (power - 1))
    slope = (power * x.clamp_min(_DARK) ** (power - 1)).where(x > _DARK, straight)
    return bent.where(x > _DARK, x * straight), slope.log()[mask].sum()


def bias(axis: int, order: int = 1) -> Change:
    r"""A field :math:`e^{t\,b(v)}`, :math:`b` a power of the position along an axis, mean 0 and rms 1 in the mask."""

    def change(x: Tensor, mask: Tensor, t: float) -> tuple[Tensor, Tensor]:
        shape = [1] * 5
        shape[2 + axis] = x.shape[2 + axis]
        b = torch.linspace(-1, 1, x.shape[2 + axis], dtype=x.dtype).view(shape).expand_as(x) ** order
        b = b - b[mask].mean()
        b = b / b[mask].square().mean().sqrt()
        return x * torch.exp(t * b), t * b[mask].sum()

    return change


FAMILIES: dict[str, Change] = {
    "gain": gain,
    "gamma": gamma,
    "bias left-right": bias(0),
    "bias back-front": bias(1),
    "bias down-up": bias(2),
    "bias middle-ends": bias(2, 2),
}


def optimum(grid: NDArray[np.float64], values: Sequence[float]) -> float:
    """Vertex of the parabola through the best point of an even grid and its neighbours.

    Example:
        >>> grid = np.linspace(-1, 1, 5)
        >>> round(optimum(grid, [-((t - 0.3) ** 2) for t in grid]), 6)
        0.3
    """
    best = int(np.clip(np.argmax(values), 1, len(grid) - 2))
    low, mid, high = values[best - 1 : best + 2]
    step = grid[1] - grid[0]
    return float(grid[best] + step * np.clip(0.5 * (low - high) / min(low - 2 * mid + high, -1e-9), -1, 1))


@torch.no_grad()
def most_probable(
    flow: Pyramid, x: Tensor, mask: Tensor, grid: NDArray[np.float64], families: Sequence[str] = tuple(FAMILIES)
) -> list[dict[str, float]]:
    """For each resolution, finest first, and each family the most probable change of one image.

    Args:
        flow: The density.
        x: Image ``(1, 1, *flow.spec.shape)``, flow units.
        mask: Bool, same shape.
        grid: Even values of t that are tried.
        families: Names out of :data:`FAMILIES`.
    """

    def likelihood(level: int, image: Tensor) -> float:
        return float(flow.density(image.where(mask, 0.0), mask, first=level).nats.double().sum())

    found = []
    for level in range(len(flow.levels)):
        unchanged = likelihood(level, x)
        row = {}
        for name in families:
            changed = [FAMILIES[name](x, mask, float(t)) for t in grid]
            values = [
                float(jacobian) + (likelihood(level, bent) if t else unchanged)
                for t, (bent, jacobian) in zip(grid, changed, strict=True)
            ]
            row[name] = optimum(grid, values)
        found.append(row)
        split = haar_split(x, mask)
        x, mask = split.coarse, split.coarse_mask
    return found
