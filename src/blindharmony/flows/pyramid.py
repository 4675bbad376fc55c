r"""The default flow: the density of a whole head, resolution by resolution.

.. math:: \log p(x) = \log p(c_K) + \sum_{k=1}^{K} \log p(d_k \mid c_k, \text{place})

:math:`c_0 = x` is the image at the finest resolution, and :math:`(c_k, d_k)` its Haar split into a coarser image and
details (:func:`~blindharmony.flows.transforms.haar_split`). Every level can be trained, calibrated and used alone:
coarse levels know contrast, fine ones texture. In reading order:

* :class:`LevelFlow` is the density of one resolution's details, given the coarser image and the place in the head:
  a chain of sparse couplings that share the convolutions over the context;
* :class:`Pyramid` puts one for each resolution together: :meth:`~Pyramid.density`, :meth:`~Pyramid.sample`;
* :func:`redraw` keeps the coarse levels of an image and draws the fine ones anew;
* :func:`most_probable` asks whether the density is an honest judge.

Source: affine and checkerboard couplings, Dinh et al. 2017; spline couplings, Durkan et al. 2019; a flow for each level
of a wavelet transform, Yu et al. 2020 (Wavelet Flow, arXiv:2010.13821). Masks, the place in the head as context, and
couplings that look at neighbours are ours.
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

from blindharmony.flows.bijection import (
    NOTHING,
    Bijection,
    Condition,
    check_range,
    keep_outside,
    no_change,
    visible,
)
from blindharmony.flows.couplings import Affine, Sites, SparseCoupling, Spline, full_mask
from blindharmony.flows.networks import Convolution, with_context
from blindharmony.flows.transforms import HaarLevel, haar_merge, haar_split

# Which of the seven details are moved while the others look: halves, then every other one.
_SEVEN = ((0, 1, 2, 3), (4, 5, 6), (0, 2, 4, 6), (1, 3, 5))


class ContextNet(nn.Module):
    """What the coarser image and the place say about the details: ``(B, C, ...) → (B, width, ...)``."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = Convolution(channels, width)
        self.blocks = nn.ModuleList(Convolution(width, width) for _ in range(blocks))

    def forward(self, context: Tensor) -> Tensor:
        """Hidden features at every place."""
        hidden = self.first(context)
        for block in self.blocks:
            hidden = hidden + block(F.silu(hidden))
        return F.silu(hidden)


class LevelFlow(Bijection[Tensor]):
    r"""Details to latents and back, at the places and channels where they exist.

    .. math:: \log p(d \mid c) = \log \mathcal N(f(d; c)) + \log|\det \partial f/\partial d|

    First every channel is shifted and scaled by what the context predicts, then couplings do so with places of one
    colour of a checkerboard as those of the other say, then with some channels as the others say, or bend them with
    splines. The condition's context is ``(B, context, *space)``, its mask may differ between channels.

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
        >>> z, logdet = level.to_latent(d * mask, Condition(c, mask))
        >>> bool(torch.allclose(level.to_image(z, Condition(c, mask))[0], d * mask, atol=1e-5))
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
        self.layers = nn.ModuleList([SparseCoupling(channels, everything, Affine(), width, dropout)])
        for _ in range(checkerboards):
            self.layers.extend(
                SparseCoupling(channels, everything, Affine(), width, dropout, colour) for colour in (0, 1)
            )
        for _ in range(affine_rounds):
            self.layers.extend(SparseCoupling(channels, moved, Affine(), width, dropout) for moved in patterns)
        for _ in range(rounds):
            self.layers.extend(SparseCoupling(channels, moved, spline, width, dropout) for moved in patterns)
        if channels == 1 and rounds:
            self.layers.append(SparseCoupling(channels, everything, spline, width, dropout))
        # The typical size of each channel, so that the network meets numbers around one.
        self.register_buffer("input_sd", torch.ones(channels))
        self.input_sd: Tensor
        # What is left after training: mean and spread of each latent channel on held-out scans.
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_log_sd", torch.zeros(channels))
        self.latent_mean: Tensor
        self.latent_log_sd: Tensor

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return latents like ``x`` and log|det dz/dx|."""
        return self._run(x, cond, inverse=False)

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return details like ``z`` and log|det dx/dz|."""
        return self._run(z, cond, inverse=True)

    @torch.no_grad()
    def absorb_gain(self, log_gain: float) -> None:
        r"""Become :math:`p'(x \mid c) = s^n p(s\,x \mid s\,c)` with :math:`s = e^{\text{log_gain}}`.

        Only channel 0 of the context, the coarser image, is an intensity; a scale and the weights that read it take
        the gain up, so that nothing is added to the flow.
        """
        self.input_sd.mul_(math.exp(-log_gain))
        self.net.first.weight[:, 0].mul_(math.exp(log_gain))

    def cost(self, x: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        r"""What each place costs, and how many numbers it has: :math:`-\log p(d \mid c)` is the sum over all places.

        A place's part of the log-determinant is what its own numbers were stretched by.

        Returns:
            Nats and numbers, both ``(B, *space)``.
        """
        z, logdet = self._run(x, cond, inverse=False, by_place=True)
        mask = full_mask(x, cond)
        nats = 0.5 * (z.square() + math.log(2 * math.pi)).where(mask, 0.0).sum(1)
        return nats - logdet.view_as(nats), mask.sum(1)

    def _run(self, x: Tensor, cond: Condition, *, inverse: bool, by_place: bool = False) -> tuple[Tensor, Tensor]:
        mask = full_mask(x, cond)
        features = self.net(with_context(x[:, :0], cond.context, self.net.channels))
        # The places are looked up once for all couplings, and log-determinants are added up in one running sum.
        sites = Sites.of(mask)
        dtype = torch.promote_types(self.input_sd.dtype, torch.float32)
        logdet = no_change(x).to(dtype)
        if by_place:
            # Each place takes the part of an image: sums then stop at the place.
            sites, logdet = sites._replace(image=sites.at), logdet.new_zeros(mask[:, 0].numel())
        start = visible(x, cond)
        if inverse:
            y, logdet = self._calibrate(start, mask, logdet, sites, inverse=True)
            for coupling in reversed(self.couplings):
                y, logdet = coupling.bend(y, logdet, mask, features, sites, inverse=True)
            y, logdet = self._scale(y, mask, logdet, sites, inverse=True)
        else:
            y, logdet = self._scale(start, mask, logdet, sites, inverse=False)
            for coupling in self.couplings:
                y, logdet = coupling.bend(y, logdet, mask, features, sites, inverse=False)
            y, logdet = self._calibrate(y, mask, logdet, sites, inverse=False)
        return keep_outside(y, x, cond), logdet

    @property
    def couplings(self) -> list[SparseCoupling]:
        """The couplings, image side first."""
        return [cast(SparseCoupling, layer) for layer in self.layers]

    def _scale(self, x: Tensor, mask: Tensor, logdet: Tensor, sites: Sites, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Divide by the typical size of each channel."""
        scale = self.input_sd.view(1, -1, 1, 1, 1)
        change = (sites.valid * self.input_sd.log()[:, None]).sum(0)
        x = x * scale if inverse else (x / scale).where(mask, 0.0)
        return x, logdet.index_add(0, sites.image, change if inverse else -change)

    def _calibrate(
        self, x: Tensor, mask: Tensor, logdet: Tensor, sites: Sites, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """Standardise each latent channel by what was left after training."""
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
        return _bits(self.nats[:, first:].sum(1), self.numbers[:, first:].sum(1))

    def level_bits(self) -> Tensor:
        """The same for each level by itself, finest first, shape ``(B, levels)``."""
        return _bits(self.nats.double(), self.numbers.double())


def _bits(nats: Tensor, numbers: Tensor) -> Tensor:
    return -nats / numbers / math.log(2) + 8


class Pyramid(Bijection[list[Tensor]]):
    """A multi-resolution flow of masked 3-D images.

    Args:
        spec: Its shape.
        atlas: What a brain usually has at each place, shape ``spec.shape``, roughly in [0, 1].

    An image is ``(B, 1, *spec.shape)`` and its condition a mask alone: a pyramid makes its own context. Its latents are
    ``(B, 7, ...)`` for each level, finest first, and ``(B, 1, ...)`` for the coarsest image. What lies outside the mask
    is lost: :meth:`to_image` puts zero there.

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
        # What a brain usually has at each place of a level: moves with the flow, but the target stores the atlas.
        # Without memory there are no places, and to reason about their shapes torch would load its compiler (4 s).
        for k, place in enumerate([] if atlas.is_meta else self._positions(atlas.float())):
            self.register_buffer(f"place_{k}", place, persistent=False)

    def _positions(self, atlas: Tensor) -> list[Tensor]:
        """Atlas, its details, and coordinates at the resolution of each level's coarse image."""
        positions = []
        image = atlas[None, None]
        everywhere = torch.ones_like(image, dtype=torch.bool)
        for _ in self.spec.widths:
            level = haar_split(image, everywhere)
            axes = [torch.linspace(-1, 1, n) for n in level.coarse.shape[2:]]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
            positions.append(torch.cat([level.coarse, level.detail * 4, grid], 1))
            image, everywhere = level.coarse, level.coarse_mask
        return positions

    def split(self, x: Tensor, mask: Tensor, first: int = 0) -> list[HaarLevel]:
        """Split an image of level ``first``'s resolution into that level and all coarser ones, finest first."""
        parts = []
        for _ in range(first, len(self.levels)):
            parts.append(haar_split(x, mask))
            x, mask = parts[-1].coarse, parts[-1].coarse_mask
        return parts

    def level(self, k: int) -> LevelFlow:
        """The flow of level ``k``, 0 the finest; the last one, ``k = len(levels)``, is that of the coarsest image."""
        return self.base if k == len(self.levels) else cast(LevelFlow, self.levels[k])

    def context(self, k: int, level: HaarLevel) -> Tensor:
        """What level ``k`` may look at: the coarser image, its mask, and the place."""
        place = self.get_buffer(f"place_{k}").to(level.coarse).expand(len(level.coarse), -1, -1, -1, -1)
        return torch.cat([level.coarse, level.coarse_mask.to(level.coarse), place], 1)

    def base_context(self, level: HaarLevel) -> Tensor:
        """The place alone: nothing is coarser."""
        context = self.context(len(self.levels) - 1, level)
        return torch.cat([torch.zeros_like(context[:, :1]), context[:, 1:]], 1)

    def latents(self, parts: list[HaarLevel], first: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Latent, log-determinant and mask of each of the levels from ``first`` on, and of the coarsest image."""
        latents = []
        for k, part in enumerate(parts, first):
            z, logdet = self.level(k).to_latent(part.detail, Condition(self.context(k, part), part.detail_mask))
            latents.append((z, logdet, part.detail_mask))
        last = parts[-1]
        z, logdet = self.base.to_latent(last.coarse, Condition(self.base_context(last), last.coarse_mask))
        return [*latents, (z, logdet, last.coarse_mask)]

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[list[Tensor], Tensor]:
        """Return the latent of each level, finest first, and log|det dz/dx| of shape ``(B,)``."""
        mask = full_mask(x, cond)
        check_range(x, mask)
        latents = self.latents(self.split(x, mask))
        return [z for z, _, _ in latents], torch.stack([logdet for _, logdet, _ in latents]).sum(0)

    def to_image(self, z: list[Tensor], cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return the image, zero outside the mask, and log|det dx/dz| of shape ``(B,)``."""
        mask = self._mask(z[-1], cond)
        parts = self._empty(mask)
        last = parts[-1]
        x, logdet = self.base.to_image(z[-1], Condition(self.base_context(last), last.coarse_mask))
        x = x.where(last.coarse_mask, 0.0)
        for k in reversed(range(len(parts))):
            x, change = self.finer(k, x, z[k], parts[k], parts[k - 1].coarse_mask if k else mask)
            logdet = logdet + change
        return x, logdet

    def finer(self, k: int, coarse: Tensor, z: Tensor, part: HaarLevel, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Add the details that have the latent ``z`` at level ``k`` to a coarse image.

        Args:
            k: The level.
            coarse: ``(B, 1, ...)``, the image that level ``k`` makes finer.
            z: ``(B, 7, ...)``, same grid.
            part: The level's split; only its masks matter.
            mask: Bool, that of the finer image.

        Returns:
            The finer image, zero outside ``mask``, and log|det| of shape ``(B,)``.
        """
        part = part._replace(coarse=coarse)
        detail, logdet = self.level(k).to_image(z, Condition(self.context(k, part), part.detail_mask))
        return haar_merge(part._replace(detail=detail), mask), logdet

    def latent_masks(self, cond: Condition) -> list[Tensor | None]:
        """Return the mask of each level's details, and of the coarsest image."""
        if cond.mask is None:
            return [None] * (len(self.levels) + 1)
        parts = self._empty(cond.mask != 0)
        return [*(part.detail_mask for part in parts), parts[-1].coarse_mask]

    def _empty(self, mask: Tensor) -> list[HaarLevel]:
        return self.split(torch.zeros_like(mask, dtype=self.base.input_sd.dtype), mask)

    def _mask(self, coarsest: Tensor, cond: Condition) -> Tensor:
        whole = coarsest.new_ones(len(coarsest), 1, *self.spec.shape, dtype=torch.bool)
        return whole if cond.mask is None else (cond.mask != 0).expand_as(whole)

    def density(self, x: Tensor, mask: Tensor, *, first: int = 0) -> Density:
        """Log-density of the image at level ``first``'s resolution (0: the finest), level by level.

        Args:
            x: ``(B, 1, *shape)`` with the shape of that resolution; values in the flow's units.
            mask: Bool, same shape: the voxels that count.
            first: Leave out the levels finer than this.

        Raises:
            ValueError: If values inside the mask are not finite or far outside any image's range.
        """
        check_range(x, mask)
        latents = self.latents(self.split(x, mask, first), first)
        nats = [
            logdet - 0.5 * (z.square() + math.log(2 * math.pi)).where(m, 0.0).flatten(1).sum(1)
            for z, logdet, m in latents
        ]
        return Density(torch.stack(nats, 1), torch.stack([m.flatten(1).sum(1) for _, _, m in latents], 1))

    @torch.no_grad()
    def costs(self, x: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The density as maps: nats and numbers of every place of each level, finest first, the coarsest image last.

        The nats of all places and levels add up to minus the log-density. Shapes are ``(B, *space)`` of each level.

        Args:
            x: ``(B, 1, *shape)``, flow units.
            mask: Bool, same shape.

        Raises:
            ValueError: As :meth:`density`.
        """
        check_range(x, mask)
        parts = self.split(x, mask)
        maps = [
            self.level(k).cost(part.detail, Condition(self.context(k, part), part.detail_mask))
            for k, part in enumerate(parts)
        ]
        last = parts[-1]
        return [*maps, self.base.cost(last.coarse, Condition(self.base_context(last), last.coarse_mask))]

    @torch.no_grad()
    def sample(self, mask: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Images of the target scanner inside ``mask``, shape like it.

        Args:
            mask: Bool ``(B, 1, *spec.shape)``.
            temperature: Standard deviation of the latents.
            generator: Source of randomness, on the CPU; equal states give equal images on every device.
        """
        parts = self._empty(mask)
        like = [parts[-1].coarse, *(part.detail for part in reversed(parts))]
        noise = [temperature * torch.randn(part.shape, generator=generator).to(part) for part in like]
        return self.to_image(noise[::-1], Condition(mask=mask))[0]


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
        noise = temperature * torch.randn(parts[k].detail.shape, generator=generator).to(parts[k].detail)
        image, _ = flow.finer(k, image, noise, parts[k], masks[k])
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
    r"""Ask whether the density is an honest judge: the most probable change of an image that it never saw.

    For a family of invertible changes :math:`T_t`, :math:`T_0` the identity,

    .. math:: t^* = \arg\max_t\; \log p(T_t(x)) + \log\left|\det \partial T_t / \partial x\right|

    A judge without fault has :math:`t^* = 0` on average over unseen scans; how much it differs between people is how
    much it believes to know about one person.

    Args:
        flow: The density.
        x: Image ``(1, 1, *flow.spec.shape)``, flow units.
        mask: Bool, same shape.
        grid: Even values of t that are tried.
        families: Names out of :data:`FAMILIES`.

    Returns:
        For each resolution, finest first, :math:`t^*` by family.
    """

    def likelihood(level: int, image: Tensor) -> float:
        return float(flow.density(image.where(mask, 0.0), mask, first=level).nats.double().sum())

    optima = []
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
        optima.append(row)
        split = haar_split(x, mask)
        x, mask = split.coarse, split.coarse_mask
    return optima
