"""The densities that latents are measured against."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from blindharmony.flow.bijection import NOTHING, Condition, full_precision, keep_outside, total, visible
from blindharmony.flow.bounds import LOG_SCALE_CAP, bounded


class StandardNormal:
    r"""Independent numbers of mean 0 and variance 1.

    .. math:: \log p(z) = -\tfrac12 \sum \left(z^2 + \log 2\pi\right)

    Example:
        >>> round(StandardNormal().log_prob(torch.zeros(1, 1, 2)).item(), 4)
        -1.8379
    """

    def log_prob(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the log-density, shape ``(B,)``, of the values of ``z`` at which ``mask`` is not zero."""
        with full_precision(z):
            return total(-0.5 * (z.square() + math.log(2 * math.pi)), mask)

    def sample(
        self,
        shape: tuple[int, ...],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        like: Tensor | None = None,
    ) -> Tensor:
        """Draw values of standard deviation ``temperature``, with the dtype and device of ``like``.

        Raises:
            ValueError: If the temperature is negative.
        """
        if temperature < 0:
            msg = f"the temperature must not be negative, got {temperature}"
            raise ValueError(msg)
        like = torch.empty(0) if like is None else like
        return temperature * torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


class GaussianGiven(nn.Module):
    r"""Independent Gaussians whose mean and spread a network reads from something already known.

    .. math:: x = \mu(g) + e^{s(g)}\,z, \qquad \log p(x \mid g) = \log N(z; 0, 1) - \sum s(g), \qquad
        s = 2\tanh(r / 2)

    Source: Dinh et al. 2017 (Real NVP), section 3.6; Kingma & Dhariwal 2018 (Glow), appendix A.

    Args:
        network: Maps what is given, ``(B, C_g, *space)``, to ``(B, 2C, *space)``: mean and raw
            log-spread. One that answers zero makes this the standard normal.

    Example:
        >>> from blindharmony.flow.conditioner import Bottleneck
        >>> prior, given = GaussianGiven(Bottleneck(2, 2)), torch.randn(3, 2, 4, 4)
        >>> x = prior.sample(given, generator=torch.Generator().manual_seed(0))
        >>> x.shape, prior.log_prob(x, given).shape
        (torch.Size([3, 1, 4, 4]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def _mean_and_spread(self, given: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        answer: Tensor = self.network(visible(given, cond), cond.context)
        mean, raw = answer.to(torch.promote_types(given.dtype, torch.float32)).chunk(2, 1)
        return mean, bounded(raw, LOG_SCALE_CAP)

    def to_standard(self, x: Tensor, given: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return the standardised z and log|det dz/dx|."""
        mean, log_spread = self._mean_and_spread(given, cond)
        with full_precision(x):
            z = (visible(x, cond) - mean) * (-log_spread).exp()
            return keep_outside(z, x, cond), -total(log_spread, cond.mask)

    def from_standard(self, z: Tensor, given: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        mean, log_spread = self._mean_and_spread(given, cond)
        with full_precision(z):
            x = torch.addcmul(mean, visible(z, cond), log_spread.exp())
            return keep_outside(x, z, cond), total(log_spread, cond.mask)

    def log_prob(self, x: Tensor, given: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Return log p(x | given), shape ``(B,)``, over the places that exist."""
        z, logdet = self.to_standard(x, given, cond)
        return StandardNormal().log_prob(z, cond.mask) + logdet

    def sample(
        self,
        given: Tensor,
        cond: Condition = NOTHING,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw x given the rest; zero at places that do not exist."""
        mean, log_spread = self._mean_and_spread(given, cond)
        z = StandardNormal().sample(tuple(mean.shape), temperature=temperature, generator=generator, like=mean)
        return visible(torch.addcmul(mean, z, log_spread.exp()), cond)
