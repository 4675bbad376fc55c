r"""The whole-volume density of the target scanner: one conditional flow for each resolution.

.. math:: \log p(x) = \log p(c_K) + \sum_{k=1}^{K} \log p(d_k \mid c_k, \text{place})

:math:`c_0 = x` is the image at the finest resolution, and :math:`(c_k, d_k)` the Haar split of
:math:`c_{k-1}`. Every level can be trained, calibrated and used alone: coarse levels know contrast, fine ones
texture.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from blindharmony.flow.bounds import check_range
from blindharmony.flow.haar import HaarLevel, haar_merge, haar_split
from blindharmony.flow.level import LevelFlow

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
