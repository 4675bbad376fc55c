"""A scale and a shift for each channel, started from data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blindharmony.flow.bijection import (
    NOTHING,
    Bijection,
    Condition,
    full_precision,
    keep_outside,
    places,
    visible,
)
from blindharmony.flow.bounds import bounded, unbounded

#: A channel may be stretched by at most e⁵ ≈ 148: enough for a nearly constant one.
CAP = 5.0


class ActNorm(Bijection):
    r"""Give every channel mean 0 and variance 1 at the start, then learn scale and shift.

    .. math:: z_c = (x_c + b_c)\,e^{s_c}, \qquad
        \log|\det| = N \sum_c s_c, \qquad s_c = 5\tanh(r_c / 5)

    with :math:`N` the number of places that exist. The first batch seen in training mode sets
    :math:`b` and :math:`s`; call :meth:`initialise` to choose that batch, for instance before the
    module is wrapped for several processes. Until then the map is the identity.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.1.

    Args:
        channels: Number of channels of ``x``, shape ``(B, channels, *space)``.

    Example:
        >>> norm, x = ActNorm(3), 2 + 3 * torch.randn(4, 3, 8, 8)
        >>> norm.initialise(x)
        >>> round(norm.to_latent(x)[0].std().item(), 2)
        1.0
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.raw_log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))
        # The buffer travels with the weights; its copy in Python spares a device sync at every step.
        self._ready = False

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Condition = NOTHING) -> None:
        """Set scale and shift from the places of ``x`` that exist.

        Args:
            x: A batch, shape ``(B, C, *space)``.
            cond: Its condition; only the mask matters.

        Raises:
            ValueError: If no place exists.
        """
        if x.numel() == 0:
            raise ValueError("ActNorm cannot start from an empty batch")
        count = places(x, cond).sum()
        if count == 0:
            raise ValueError("ActNorm cannot start from a batch whose mask is empty")
        axes = [0, *range(2, x.ndim)]
        mean = visible(x, cond).sum(axes) / count
        centred = visible(x - mean.view(1, -1, *[1] * (x.ndim - 2)), cond)
        deviation = (centred.square().sum(axes) / count).sqrt().clamp_min(1e-6)
        self.shift.copy_(-mean)
        self.raw_log_scale.copy_(unbounded(-deviation.log(), CAP))
        self.initialised.fill_(True)
        self._ready = True

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return bounded(self.raw_log_scale, CAP).view(shape), self.shift.view(shape)

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|; in training mode the first call starts the layer."""
        if self.training and not self._ready:
            self.initialise(x, cond)
        with full_precision(x):
            log_scale, shift = self._scale_and_shift(x)
            z = keep_outside((x + shift) * log_scale.exp(), x, cond)
            return z, places(x, cond) * log_scale.sum()

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        with full_precision(z):
            log_scale, shift = self._scale_and_shift(z)
            x = keep_outside(z * (-log_scale).exp() - shift, z, cond)
            return x, -places(z, cond) * log_scale.sum()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = bool(self.initialised)
