"""From grey levels to continuous values and back, and what a density of either is worth in bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
        msg = f"the number of grey levels must be positive, got {levels}"
        raise ValueError(msg)
    if x.numel() and not bool(((x >= 0) & (x <= 1)).all()):
        msg = f"expected values in [0, 1], got {float(x.amin()):.6g} to {float(x.amax()):.6g}; rescale"
        raise ValueError(msg)
    level = (x * levels).floor()
    # k/n times n can come out just below k, and what is just below k/n just at k: the quotients decide.
    level = level + ((level + 1) / levels <= x).to(x.dtype) - (level / levels > x).to(x.dtype)
    return level.clamp_max(levels - 1)
