"""The numbers that define a multi-scale flow, as they are stored beside its weights."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from blindharmony.flow.affine import Affine, Elementwise
from blindharmony.flow.conditioner import Bottleneck, ConvResNet, Norm
from blindharmony.flow.spline import Spline


class MultiScaleSpec(BaseModel):
    """Everything needed to build a :class:`~blindharmony.flow.multiscale.MultiScaleFlow`.

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
