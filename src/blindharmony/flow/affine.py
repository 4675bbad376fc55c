"""A scale and a shift for every single value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from blindharmony.flow.bounds import LOG_SCALE_CAP, bounded


class Elementwise(Protocol):
    """A family of increasing functions of one number, for couplings to choose from."""

    @property
    def size(self) -> int:
        """How many parameters one value needs."""
        ...

    def to_latent(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log dz/dx, both like ``x``; ``params`` is ``(B, C, size, *space)``."""
        ...

    def to_image(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log dx/dz, both like ``z``; ``params`` is ``(B, C, size, *space)``."""
        ...


@dataclass(frozen=True)
class Affine:
    r"""Stretch and shift each value; the identity where the parameters are zero.

    .. math:: z = x\,e^{s} + t, \qquad s = c\,\tanh(r / c)

    for parameters :math:`(r, t)`.

    Source: Dinh et al. 2017 (Real NVP), equation 7, with a capped log-scale.

    Args:
        cap: The largest log-scale :math:`c`.

    Example:
        >>> z, slope = Affine().to_latent(torch.ones(1, 1, 1), torch.tensor([[[[0.0], [3.0]]]]))
        >>> z.item(), slope.item()
        (4.0, 0.0)
    """

    cap: float = LOG_SCALE_CAP

    @property
    def size(self) -> int:
        """Two parameters a value: raw log-scale and shift."""
        return 2

    def to_latent(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log dz/dx, both like ``x``; ``params`` is ``(B, C, 2, *space)``."""
        log_scale = bounded(params[:, :, 0], self.cap)
        return torch.addcmul(params[:, :, 1], x, log_scale.exp()), log_scale

    def to_image(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log dx/dz, both like ``z``; ``params`` is ``(B, C, 2, *space)``."""
        log_scale = bounded(params[:, :, 0], self.cap)
        return (z - params[:, :, 1]) * (-log_scale).exp(), -log_scale
