"""What every layer of a flow promises.

A bijection turns an image ``x`` into a latent ``z`` and back, and says by how much it changes
volume. **x → z is the fast, differentiated direction**: training, densities and estimates use
:meth:`Bijection.to_latent`; :meth:`Bijection.to_image` is exact and used for sampling.

Tensors are ``(B, C, *space)`` with two or three spatial axes. Log-determinants have shape ``(B,)``
and are float32 or better, also under autocast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Condition(NamedTuple):
    """What a layer knows besides the values it transforms.

    Attributes:
        context: ``(B, C_ctx, *space)``: what conditioners may also look at (coarser image, position).
        mask: ``(B, 1, *space)`` of 0 and 1: the places that exist. Elsewhere a map is the identity,
            adds nothing to the log-determinant, and no conditioner sees the values.

    Example:
        >>> Condition(mask=torch.ones(1, 1, 4, 4)).context is None
        True
    """

    context: Tensor | None = None
    mask: Tensor | None = None


#: No context, and every place exists.
NOTHING = Condition()


class Bijection(nn.Module):
    r"""An invertible map with a known volume change.

    .. math:: z = f(x), \qquad \log p(x) = \log p(z) + \log\left|\det \partial z / \partial x\right|

    Subclasses define :meth:`to_latent` and :meth:`to_image`, and :meth:`condition_after` where the
    spatial grid changes.
    """

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx| of shape ``(B,)``; ``cond`` describes x."""
        raise NotImplementedError

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz| of shape ``(B,)``; ``cond`` describes x."""
        raise NotImplementedError

    def condition_after(self, cond: Condition) -> Condition:
        """Return the condition that goes with z, given the one that goes with x."""
        return cond

    def forward(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Call :meth:`to_latent`, so that ``torch.compile`` and ``DistributedDataParallel`` work."""
        return self.to_latent(x, cond)


def visible(x: Tensor, cond: Condition) -> Tensor:
    """Blank the places that do not exist.

    Args:
        x: ``(B, C, *space)``.
        cond: Its condition.

    Returns:
        A tensor like ``x``, zero outside the mask even where ``x`` is NaN.

    Example:
        >>> visible(torch.ones(1, 1, 2), Condition(mask=torch.tensor([[[1.0, 0.0]]]))).tolist()
        [[[1.0, 0.0]]]
    """
    return x if cond.mask is None else torch.where(cond.mask != 0, x, 0.0)


def keep_outside(new: Tensor, old: Tensor, cond: Condition) -> Tensor:
    """Take the new values at places that exist and the old ones elsewhere.

    Args:
        new: ``(B, C, *space)``.
        old: A tensor of the same shape.
        cond: Their condition.

    Returns:
        A tensor like ``new``.

    Example:
        >>> left = Condition(mask=torch.tensor([[[1, 0]]]))
        >>> keep_outside(torch.ones(1, 1, 2), torch.zeros(1, 1, 2), left).tolist()
        [[[1.0, 0.0]]]
    """
    return new if cond.mask is None else torch.where(cond.mask != 0, new, old)


def total(terms: Tensor, mask: Tensor | None) -> Tensor:
    """Add up one number per value, at the places that exist.

    Args:
        terms: ``(B, C, *space)``.
        mask: Broadcastable to ``terms``; ``None`` means all places.

    Returns:
        ``(B,)``, float32 or better.

    Example:
        >>> total(torch.ones(2, 3, 4), None).tolist()
        [12.0, 12.0]
    """
    if mask is not None:
        terms = torch.where(mask != 0, terms, 0.0)
    return terms.flatten(1).sum(1, dtype=torch.promote_types(terms.dtype, torch.float32))


def places(x: Tensor, cond: Condition) -> Tensor:
    """Count the places of each image that exist.

    Args:
        x: ``(B, C, *space)``.
        cond: Its condition.

    Returns:
        ``(B,)``, float32 or better.

    Example:
        >>> places(torch.zeros(2, 3, 4, 5), NOTHING).tolist()
        [20.0, 20.0]
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if cond.mask is None:
        return torch.full((len(x),), float(x[0, 0].numel()), dtype=dtype, device=x.device)
    return (cond.mask != 0).flatten(1).sum(1).to(dtype).expand(len(x))


def no_change(x: Tensor) -> Tensor:
    """Return the log-determinant of a map that keeps volume.

    Args:
        x: ``(B, C, *space)``.

    Returns:
        Zeros of shape ``(B,)``, float32 or better.

    Example:
        >>> no_change(torch.zeros(2, 3, 4)).tolist()
        [0.0, 0.0]
    """
    return torch.zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def full_precision(x: Tensor) -> torch.autocast:
    """Switch autocast off around arithmetic that must be inverted or summed exactly.

    Args:
        x: Any tensor on the device in question.

    Returns:
        A context manager.

    Example:
        >>> with full_precision(torch.zeros(1)):
        ...     torch.is_autocast_enabled("cpu")
        False
    """
    return torch.autocast(x.device.type, enabled=False)
