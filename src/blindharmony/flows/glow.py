"""The multi-scale flow of slices: squeeze, transform, let half of the channels go, repeat.

:class:`MultiScaleSpec` are the numbers that define one, as they are stored beside its weights;
:class:`MultiScaleFlow` is the density; :func:`published_2d`, :func:`small_2d` and :func:`glow_3d` are ready-made
specifications, the first that of the published BlindHarmony.

Source: Dinh et al. 2017 (Real NVP); Kingma & Dhariwal 2018 (Glow); Durkan et al. 2019 (Neural spline flows).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from blindharmony.flows.bijection import (
    NOTHING,
    Bijection,
    Chain,
    Condition,
    StandardNormal,
    check_range,
    no_change,
    places,
    visible,
)
from blindharmony.flows.couplings import Affine, Coupling, Elementwise, Spline
from blindharmony.flows.latent import GaussianGiven, Split, bits_per_dim
from blindharmony.flows.networks import Bottleneck, ConvResNet, Norm
from blindharmony.flows.transforms import ActNorm, Mixing, Squeeze


class MultiScaleSpec(BaseModel):
    """Everything needed to build a :class:`~blindharmony.flows.glow.MultiScaleFlow`.

    Attributes:
        ndim: Number of spatial axes, 2 or 3.
        channels: Channels of the image.
        context_channels: Channels of the context that every conditioner reads.
        levels: How often the image is squeezed; each spatial size must be a multiple of 2^levels.
        steps: Couplings a level, each after an activation norm and a mixing.
        coupling: The curve of a coupling.
        bins: Bins of a spline.
        tail_bound: Half-width of the interval a spline acts on.
        minimum: Smallest width, height and slope of a spline.
        conditioner: Residual blocks, or the cheap bottleneck of three convolutions.
        width: Channels inside a conditioner.
        blocks: Residual blocks of a conditioner.
        kernel: Its odd kernel size.
        norm: Its normalisation.
        dropout: Its dropout while training.
        mixing: Whether to mix channels before each coupling.
        closing_mixing: Whether to mix them once more at the end of a level.
        split_prior: Whether channels leave standardised given those that stay.
        centre: Subtracted from the image: 0.5 takes [0, 1] to [−0.5, 0.5].
        grey_levels: Grey levels that training images were dequantised from; 1 for none.

    Example:
        >>> MultiScaleSpec(ndim=3, levels=2, steps=1).factor
        4
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ndim: Literal[2, 3] = 2
    channels: int = Field(default=1, ge=1, le=64)
    context_channels: int = Field(default=0, ge=0, le=1024)
    levels: int = Field(default=3, ge=1, le=8)
    steps: int = Field(default=4, ge=1, le=64)
    coupling: Literal["spline", "affine"] = "spline"
    bins: int = Field(default=8, ge=2, le=256)
    tail_bound: float = Field(default=3.0, gt=0)
    minimum: float = Field(default=1e-3, gt=0)
    conditioner: Literal["residual", "bottleneck"] = "residual"
    width: int = Field(default=32, ge=1, le=4096)
    blocks: int = Field(default=2, ge=0, le=64)
    kernel: int = Field(default=3, ge=1, le=15)
    norm: Norm = "none"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    mixing: bool = True
    closing_mixing: bool = False
    split_prior: bool = False
    centre: float = 0.0
    grey_levels: int = Field(default=1, ge=1, le=65536)

    @model_validator(mode="after")
    def _consistent(self) -> MultiScaleSpec:
        self.curve()  # a spline refuses bins that do not fit
        if self.kernel % 2 == 0:
            msg = f"the kernel size must be odd, got {self.kernel}"
            raise ValueError(msg)
        return self

    @property
    def factor(self) -> int:
        """Every spatial size must be a multiple of this."""
        return int(2**self.levels)

    def curve(self) -> Elementwise:
        """Return the family of curves of the couplings."""
        if self.coupling == "affine":
            return Affine()
        return Spline(bins=self.bins, bound=self.tail_bound, minimum=self.minimum)

    def network(self, channels: int, out: int) -> nn.Module:
        """Return a conditioner that reads ``channels`` and answers ``out``."""
        make = partial(Bottleneck, context=self.context_channels, ndim=self.ndim, width=self.width, kernel=self.kernel)
        if self.conditioner == "bottleneck":
            return make(channels, out)
        return ConvResNet(
            channels,
            out,
            context=self.context_channels,
            ndim=self.ndim,
            width=self.width,
            blocks=self.blocks,
            kernel=self.kernel,
            norm=self.norm,
            dropout=self.dropout,
        )


class MultiScaleFlow(Bijection[list[Tensor]]):
    r"""How plausible is this image? A flow over several resolutions answers exactly.

    .. math:: \log p(x) = \sum_l \log N(z_l; 0, 1) + \log\left|\det \partial z / \partial x\right|

    Each level squeezes the image, applies ``steps`` of activation norm, channel mixing and coupling,
    and lets half of the channels leave as its latent :math:`z_l`; the last level keeps all.

    Where a mask is given, values that no level can act on, because their block is not complete, are
    measured against the standard normal as they are: the density covers every place that exists.

    Warning:
        Call :meth:`initialise`, or train, before using a new flow. With batch norm, use the flow in
        evaluation mode: in training mode the two directions do not match.

    Source: Dinh et al. 2017 (Real NVP), section 3.6; Kingma & Dhariwal 2018 (Glow), figure 2;
    Durkan et al. 2019 (Neural spline flows), section 5.2.

    Args:
        spec: What to build.

    Raises:
        ValueError: On use, if a spatial size is not a multiple of 2^levels, the channels differ from
            the specification, or a value is not finite or above 1e4 in magnitude.

    Example:
        >>> flow = MultiScaleFlow(MultiScaleSpec(levels=2, steps=1, width=4)).eval()
        >>> x = torch.rand(3, 1, 8, 12)
        >>> latents, logdet = flow.to_latent(x)
        >>> [tuple(z.shape) for z in latents], tuple(logdet.shape)
        ([(3, 2, 4, 6), (3, 8, 2, 3)], (3,))
        >>> torch.allclose(flow.to_image(latents)[0], x, atol=1e-5)
        True
    """

    def __init__(self, spec: MultiScaleSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stages, self.splits = nn.ModuleList(), nn.ModuleList()
        channels = spec.channels
        for level in range(spec.levels):
            channels *= 2**spec.ndim
            self.stages.append(Chain([Squeeze(spec.ndim), *_steps(spec, channels)]))
            if level < spec.levels - 1:
                leaving = channels // 2
                network = spec.network(channels - leaving, 2 * leaving) if spec.split_prior else None
                self.splits.append(Split(channels, None if network is None else GaussianGiven(network)))
                channels -= leaving

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[list[Tensor], Tensor]:
        """Return one latent a level, finest first, and log|det dz/dx| of shape ``(B,)``."""
        self.latent_shapes(tuple(x.shape[2:]))
        if x.shape[1] != self.spec.channels:
            msg = f"expected {self.spec.channels} image channels, got {x.shape[1]}"
            raise ValueError(msg)
        check_range(x, cond.mask)
        latents, logdet = [], no_change(x)
        x = x.to(logdet.dtype) - self.spec.centre
        for stage, split in self._levels():
            x, change = stage.to_latent(x, cond)
            logdet = logdet + change
            cond = stage.condition_after(cond)
            if split is not None:
                (x, z), change = split.to_latent(x, cond)
                logdet = logdet + change
                latents.append(z)
        return [*latents, x], logdet

    def to_image(self, z: list[Tensor], cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return the image and log|det dx/dz| of shape ``(B,)``; ``cond`` describes the image."""
        if len(z) != self.spec.levels:
            msg = f"expected {self.spec.levels} latents, got {len(z)}"
            raise ValueError(msg)
        for part, mask in zip(z, self.latent_masks(cond), strict=True):
            check_range(part, mask, what="latent", limit=math.inf)
        levels, conditions = self._levels(), [cond]
        for stage, _ in levels:
            conditions.append(stage.condition_after(conditions[-1]))
        x, logdet = z[-1], no_change(z[-1])
        for level in reversed(range(self.spec.levels)):
            stage, split = levels[level]
            if split is not None:
                x, change = split.to_image([x, z[level]], conditions[level + 1])
                logdet = logdet + change
            x, change = stage.to_image(x, conditions[level])
            logdet = logdet + change
        return x + self.spec.centre, logdet

    def latent_masks(self, cond: Condition) -> list[Tensor | None]:
        """Return one mask a level, an entry for each value: a place may exist although its block is not complete."""
        if cond.mask is None:
            return [None] * self.spec.levels
        masks: list[Tensor | None] = []
        squeeze = Squeeze(self.spec.ndim)
        mask = cond.mask.expand(-1, self.spec.channels, *cond.mask.shape[2:])
        for _ in self.splits:
            folded = squeeze.fold(mask)
            kept = folded.shape[1] - folded.shape[1] // 2
            mask = folded[:, :kept]
            masks.append(folded[:, kept:])
        return [*masks, squeeze.fold(mask)]

    def bits_per_dim(self, x: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Return the density as bits a value, shape ``(B,)``; see :func:`~.latent.bits_per_dim`."""
        dims = self.spec.channels * places(x, cond)
        return bits_per_dim(self.log_prob(x, cond), dims, self.spec.grey_levels)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        space: tuple[int, ...],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        cond: Condition = NOTHING,
    ) -> Tensor:
        """Draw ``n`` images of size ``space``, shape ``(n, C, *space)``; zero at places that do not exist."""
        weight = next(self.parameters())
        latents = [
            StandardNormal().sample((n, *shape), temperature=temperature, generator=generator, like=weight)
            for shape in self.latent_shapes(space)
        ]
        return visible(self.to_image(latents, cond)[0], cond)

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Condition = NOTHING) -> None:
        """Start every activation norm that has not started from the batch ``x``, ``(B, C, *space)``."""
        training = self.training
        self.train()
        self.to_latent(x, cond)
        self.train(training)

    def latent_shapes(self, space: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return ``(C, *space)`` of each latent for images of size ``space``.

        Raises:
            ValueError: If a size is not a positive multiple of 2^levels.
        """
        factor = self.spec.factor
        if len(space) != self.spec.ndim or any(size < factor or size % factor for size in space):
            msg = f"expected {self.spec.ndim} sizes that are multiples of {factor}, got {space}; crop or pad"
            raise ValueError(msg)
        shapes, channels = [], self.spec.channels
        for level in range(1, self.spec.levels + 1):
            channels *= 2**self.spec.ndim
            leaving = channels // 2 if level < self.spec.levels else channels
            shapes.append((leaving, *(size // 2**level for size in space)))
            channels -= leaving
        return shapes

    def latent_flat(self, latents: Sequence[Tensor]) -> Tensor:
        """Return all latents as one matrix ``(B, D)``, for instance to shrink them together."""
        return torch.cat([z.flatten(1) for z in latents], 1)

    def unflatten(self, flat: Tensor, space: tuple[int, ...]) -> list[Tensor]:
        """Undo :meth:`latent_flat` for images of size ``space``."""
        shapes = self.latent_shapes(space)
        pieces = torch.split(flat, [math.prod(shape) for shape in shapes], 1)
        return [piece.reshape(-1, *shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def _levels(self) -> list[tuple[Chain, Split | None]]:
        stages = [stage for stage in self.stages if isinstance(stage, Chain)]
        splits = [split for split in self.splits if isinstance(split, Split)]
        return list(zip(stages, [*splits, None], strict=True))


def _steps(spec: MultiScaleSpec, channels: int) -> list[Bijection[Tensor]]:
    parts: list[Bijection[Tensor]] = []
    for step in range(spec.steps):
        parts.append(ActNorm(channels))
        if spec.mixing:
            parts.append(Mixing(channels))
        parts.append(Coupling(channels, spec.curve(), spec.network, "second" if step % 2 else "first"))
    if spec.closing_mixing:
        parts.append(Mixing(channels))
    return parts


def published_2d() -> MultiScaleSpec:
    """Return the flow of the published BlindHarmony: 14,486,534 parameters, for 1×144×176 slices.

    Four levels of seven steps (activation norm, 1×1 mixing, spline coupling) and a closing mixing;
    conditioners of three residual blocks of 96 channels with batch norm; images in [0, 1], shifted
    to [−0.5, 0.5], 4080 grey levels (12 bits). It is a reconstruction from the reported settings and
    the number of parameters, which it meets exactly. Known or possible differences, by name:

    * *capped slopes*: raw spline slopes go through 5·tanh(r/5);
    * *capped scales*: log-scales of activation norm within ±5, of the mixing's diagonal within ±2;
    * *mixing with bias, closing mixing*: inferred from the number of parameters;
    * *halves*: even steps transform the first half of the channels, odd ones the second;
    * *zero start*: a new coupling is the identity, and the mixing a random shuffle;
    * *last activation*: conditioners apply a ReLU before the closing 1×1 convolution.

    Source: Jeong et al. 2023 (BlindHarmony), section 4; Durkan et al. 2019, section 5.2.

    Example:
        >>> published_2d().factor
        16
    """
    return MultiScaleSpec(
        ndim=2,
        levels=4,
        steps=7,
        coupling="spline",
        bins=8,
        tail_bound=3.0,
        minimum=1e-3,
        conditioner="residual",
        width=96,
        blocks=3,
        norm="batch",
        closing_mixing=True,
        centre=0.5,
        grey_levels=255 * 16,
    )


def small_2d() -> MultiScaleSpec:
    """Return a spline flow for slices that trains and runs on two CPU cores.

    Example:
        >>> small_2d().factor
        8
    """
    return MultiScaleSpec(
        ndim=2, levels=3, steps=4, coupling="spline", bins=6, width=32, blocks=1, split_prior=True, centre=0.5
    )


def glow_3d() -> MultiScaleSpec:
    """Return a small affine flow for volumes, for comparisons.

    Source: Kingma & Dhariwal 2018 (Glow), in three dimensions.

    Example:
        >>> glow_3d().coupling
        'affine'
    """
    return MultiScaleSpec(
        ndim=3,
        levels=2,
        steps=4,
        coupling="affine",
        conditioner="bottleneck",
        width=24,
        split_prior=True,
        centre=0.5,
    )
