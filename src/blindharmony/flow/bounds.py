"""Every soft limit and every range check of the flow, in one place.

A scale that can grow without limit makes an inverse that explodes after a few layers. Each learned
scale therefore goes through :func:`bounded`, and each image through :func:`check_range`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Cap of a learned log-scale: one layer stretches by at most e² ≈ 7.4.
LOG_SCALE_CAP = 2.0
#: Largest magnitude a prepared image may have: anything above is in raw scanner units.
LARGEST_VALUE = 1e4


def bounded(raw: Tensor, cap: float = LOG_SCALE_CAP) -> Tensor:
    r"""Squash a number smoothly into (−cap, cap), leaving small numbers as they are.

    .. math:: b(r) = c\,\tanh(r / c)

    Args:
        raw: Any tensor.
        cap: The limit :math:`c > 0`.

    Returns:
        A tensor of the same shape.

    Example:
        >>> bounded(torch.tensor([0.0, 1e6])).tolist()
        [0.0, 2.0]
    """
    return cap * torch.tanh(raw / cap)


def unbounded(value: Tensor, cap: float = LOG_SCALE_CAP) -> Tensor:
    r"""Find the raw number that :func:`bounded` squashes to ``value``; limits are approached to 0.1 %.

    .. math:: r = c\,\operatorname{artanh}(v / c)

    Args:
        value: Any tensor; values at or beyond the cap count as 99.9 % of it.
        cap: The limit :math:`c > 0`.

    Returns:
        A tensor of the same shape.

    Example:
        >>> round(float(unbounded(bounded(torch.tensor(0.5)))), 4)
        0.5
    """
    return cap * torch.atanh((value / cap).clamp(-0.999, 0.999))


def check_range(x: Tensor, mask: Tensor | None = None, *, what: str = "image", limit: float = LARGEST_VALUE) -> None:
    """Refuse values that no prepared image has, instead of answering with nonsense.

    Args:
        x: Values of shape ``(B, C, *space)``.
        mask: Places that count, broadcastable to ``x``; ``None`` means all.
        what: How to call the values in the message.
        limit: Largest magnitude allowed; infinity asks only for finite values.

    Raises:
        ValueError: If a value is not finite or its magnitude exceeds ``limit``.

    Example:
        >>> check_range(torch.tensor([3e4]))
        Traceback (most recent call last):
        ...
        ValueError: image values must be finite and at most 10000 in magnitude, got 30000; prepare the ...
    """
    if x.numel() == 0 or torch.compiler.is_compiling():  # a check reads values, which would break the graph
        return
    seen = x.detach() if mask is None else torch.where(mask != 0, x.detach(), 0.0)
    largest = float(seen.abs().amax())
    if not math.isfinite(largest) or largest > limit:
        msg = (
            f"{what} values must be finite and at most {limit:.0f} in magnitude, got {largest:.6g}; "
            "prepare the image as in training first"
        )
        raise ValueError(msg)
