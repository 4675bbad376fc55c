"""The two ends of a flow over several resolutions: parts that leave early, and grey levels.

:class:`Split` lets half of the channels leave for the latent, where wanted standardised given the other half
(:class:`GaussianGiven`). :func:`dequantise` turns the grey levels of a stored image into continuous values, which a
density needs; :func:`bits_per_dim` says what a density of either is worth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from blindharmony.flows.bijection import (
    LOG_SCALE_CAP,
    NOTHING,
    Bijection,
    Condition,
    StandardNormal,
    bounded,
    full_precision,
    keep_outside,
    no_change,
    total,
    visible,
)


class GaussianGiven(nn.Module):
    r"""Independent Gaussians whose mean and spread a network reads from something already known.

    .. math:: x = \mu(g) + e^{s(g)}\,z, \qquad \log p(x \mid g) = \log N(z; 0, 1) - \sum s(g), \qquad
        s = 2\tanh(r / 2)

    Source: Dinh et al. 2017 (Real NVP), section 3.6; Kingma & Dhariwal 2018 (Glow), appendix A.

    Args:
        network: Maps what is given, ``(B, C_g, *space)``, to ``(B, 2C, *space)``: mean and raw
            log-spread. One that answers zero makes this the standard normal.

    Example:
        >>> from blindharmony.flows.networks import Bottleneck
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


class Split(Bijection[list[Tensor]]):
    r"""Let the second half of the channels leave for the latent.

    .. math:: (x_{kept}, x_{out}) \mapsto (x_{kept}, z), \qquad
        z = (x_{out} - \mu(x_{kept}))\,e^{-s(x_{kept})}

    With no prior, :math:`\mu = s = 0`. With one, what leaves is standardised given what stays, so
    that every latent of the flow is measured against the same standard normal.

    Source: Dinh et al. 2017 (Real NVP), section 3.6.

    Args:
        channels: Number of channels of ``x``, at least 2.
        prior: Density of the leaving half given the kept one; ``None`` for the standard normal.

    Raises:
        ValueError: If there are fewer than two channels.

    Example:
        >>> (kept, z), logdet = Split(4).to_latent(torch.ones(1, 4, 2, 2))
        >>> kept.shape[1], z.shape[1], logdet.tolist()
        (2, 2, [0.0])
    """

    def __init__(self, channels: int, prior: GaussianGiven | None = None) -> None:
        super().__init__()
        if channels < 2:
            msg = f"a split needs at least 2 channels, got {channels}"
            raise ValueError(msg)
        self.leaving = channels // 2
        self.kept = channels - self.leaving
        self.prior = prior

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[list[Tensor], Tensor]:
        """Return the kept half and the latent of the leaving half, and log|det dz/dx|."""
        kept, leaving = x[:, : self.kept], x[:, self.kept :]
        if self.prior is None:
            return [kept, leaving], no_change(x)
        z, logdet = self.prior.to_standard(leaving, kept, cond)
        return [kept, z], logdet

    def to_image(self, z: list[Tensor], cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return both halves together and log|det dx/dz|."""
        kept, leaving = z
        if self.prior is None:
            return torch.cat([kept, leaving], 1), no_change(kept)
        leaving, logdet = self.prior.from_standard(leaving, kept, cond)
        return torch.cat([kept, leaving], 1), logdet

    def latent_masks(self, cond: Condition) -> list[Tensor | None]:
        """Return the mask of both halves."""
        return [cond.mask, cond.mask]


def dequantise(x: Tensor, levels: int = 2**12, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Round an image down to grey levels and spread each level evenly over its interval.

    .. math:: \tilde x = (\min(\lfloor n x \rfloor, n - 1) + u) / n, \qquad u \sim U[0, 1)

    A continuous density could otherwise grow without limit at the grey levels themselves.

    Source: Uria et al. 2013 (RNADE), section 4; Theis et al. 2016, section 3.1.

    Args:
        x: An image in [0, 1], any shape.
        levels: Number of grey levels n: 2¹² for 12 bits.
        generator: Source of randomness, on the device of ``x``.

    Returns:
        A tensor like ``x`` in [0, 1).

    Raises:
        ValueError: If a value lies outside [0, 1] or is not finite, or ``levels`` is not positive.

    Example:
        >>> x = torch.rand(2, 1, 4, 4)
        >>> torch.equal(quantise(dequantise(x, 16), 16), quantise(x, 16))
        True
    """
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    # In float32 level + noise can round up to the next level; stay just below it.
    level = _level(x, levels)
    upper = torch.nextafter((level + 1) / levels, torch.zeros_like(x))
    return torch.minimum((level + noise) / levels, upper)


def quantise(x: Tensor, levels: int = 2**12) -> Tensor:
    r"""Round an image down to grey levels: the inverse of :func:`dequantise`.

    .. math:: \min(\lfloor n x \rfloor, n - 1) / n

    Args:
        x: An image in [0, 1], any shape.
        levels: Number of grey levels n.

    Returns:
        A tensor like ``x``, multiples of 1/n.

    Raises:
        ValueError: If a value lies outside [0, 1] or is not finite, or ``levels`` is not positive.

    Example:
        >>> quantise(torch.tensor([0.0, 0.3, 1.0]), 4).tolist()
        [0.0, 0.25, 0.75]
    """
    return _level(x, levels) / levels


def bits_per_dim(log_prob: Tensor, dims: Tensor | float, levels: int = 1) -> Tensor:
    r"""Express a log-density as bits for each value of the image.

    .. math:: b = -\frac{\log p(x)}{D \log 2} + \log_2 n

    The last term is the width of a grey level: with it, b bounds the cost of storing the image.

    Source: Theis et al. 2016, section 3.1.

    Args:
        log_prob: Log-density of images in [0, 1], in nats, shape ``(B,)``.
        dims: Number of values D of an image, or one number for each image.
        levels: Number of grey levels n; 1 for images that are not quantised.

    Returns:
        ``(B,)``; smaller is better.

    Example:
        >>> bits_per_dim(torch.zeros(1), 100, levels=4096).tolist()  # uniform noise
        [12.0]
    """
    return -log_prob / (dims * math.log(2)) + math.log2(levels)


def _level(x: Tensor, levels: int) -> Tensor:
    if levels < 1:
        msg = f"the number of gray levels must be positive, got {levels}"
        raise ValueError(msg)
    if x.numel() and not bool(((x >= 0) & (x <= 1)).all()):
        msg = f"expected values in [0, 1], got {float(x.amin()):.6g} to {float(x.amax()):.6g}; rescale"
        raise ValueError(msg)
    level = (x * levels).floor()
    # k/n times n can come out just below k, and what is just below k/n just at k: the quotients decide.
    level = level + ((level + 1) / levels <= x).to(x.dtype) - (level / levels > x).to(x.dtype)
    return level.clamp_max(levels - 1)
