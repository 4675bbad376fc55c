r"""What every flow and every layer of a flow promises.

A :class:`Bijection` turns an image ``x`` into a latent ``z`` and back, and says by how much it changes volume. From
that follows a density (:meth:`Bijection.log_prob`). **x → z is the fast, differentiated direction**: training,
densities and estimates use :meth:`Bijection.to_latent`; :meth:`Bijection.to_image` is exact and used for sampling.

Tensors are ``(B, C, *space)`` with two or three spatial axes. A :class:`Condition` says what a layer knows besides the
values: a context, and a mask of the places that exist. Log-determinants have shape ``(B,)`` and are float32 or better,
also under autocast. :class:`Chain` applies one after the other. The laws are tests: ``tests/flows/test_laws.py``.

A scale that can grow without limit makes an inverse that explodes after a few layers. Each learned scale therefore
goes through :func:`bounded`, and each image through :func:`check_range`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

#: Cap of a learned log-scale: one layer stretches by at most e² ≈ 7.4.
LOG_SCALE_CAP = 2.0
#: Largest magnitude a prepared image may have: anything above is in raw scanner units.
LARGEST_VALUE = 1e4


class Condition(NamedTuple):
    """What a layer knows besides the values it transforms.

    Attributes:
        context: ``(B, C_ctx, *space)``: what conditioners may also look at (coarser image, position).
        mask: ``(B, 1, *space)`` of 0 and 1: the places that exist. Elsewhere a map is the identity,
            adds nothing to the log-determinant, and no conditioner sees the values. Maps that do not mix
            channels also take ``(B, C, *space)``: channels that exist at some places only.

    Example:
        >>> Condition(mask=torch.ones(1, 1, 4, 4)).context is None
        True
    """

    context: Tensor | None = None
    mask: Tensor | None = None


#: No context, and every place exists.
NOTHING = Condition()


#: A latent: one tensor or, for a flow over several resolutions, one for each.
Z = TypeVar("Z", Tensor, list[Tensor])


class Bijection(nn.Module, Generic[Z]):
    r"""An invertible map with a known volume change, and the density that follows from it.

    .. math:: z = f(x), \qquad \log p(x) = \log p(z) + \log\left|\det \partial z / \partial x\right|

    Subclasses define :meth:`to_latent` and :meth:`to_image`, :meth:`condition_after` where the spatial grid changes,
    and :meth:`latent_masks` where z is several tensors. A layer is a ``Bijection[Tensor]``; a flow over several
    resolutions is a ``Bijection[list[Tensor]]``, finest first.
    """

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Z, Tensor]:
        """Return z and log|det dz/dx| of shape ``(B,)``; ``cond`` describes x."""
        raise NotImplementedError

    def to_image(self, z: Z, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz| of shape ``(B,)``; ``cond`` describes x."""
        raise NotImplementedError

    def condition_after(self, cond: Condition) -> Condition:
        """Return the condition that goes with z, given the one that goes with x."""
        return cond

    def latent_masks(self, cond: Condition) -> list[Tensor | None]:
        """Return, for each tensor of z, which of its values exist; ``None`` means all."""
        return [self.condition_after(cond).mask]

    def log_prob(self, x: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Return the log-density in nats, shape ``(B,)``, of the values at places that exist; z is standard normal."""
        z, logdet = self.to_latent(x, cond)
        parts = [z] if isinstance(z, Tensor) else z
        for part, mask in zip(parts, self.latent_masks(cond), strict=True):
            logdet = logdet + StandardNormal().log_prob(part, mask)
        return logdet

    def forward(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Z, Tensor]:
        """Call :meth:`to_latent`, so that ``torch.compile`` and ``DistributedDataParallel`` work."""
        return self.to_latent(x, cond)


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


class Chain(Bijection[Tensor]):
    r"""Apply bijections in order; their log-determinants add up.

    .. math:: f = f_n \circ \dots \circ f_1, \qquad
        \log|\det f'| = \sum_i \log|\det f_i'|

    Args:
        parts: The bijections, image side first.

    Example:
        >>> import torch
        >>> from blindharmony.flows.transforms import Squeeze
        >>> z, logdet = Chain([Squeeze(2), Squeeze(2)]).to_latent(torch.zeros(1, 1, 8, 12))
        >>> tuple(z.shape), logdet.tolist()
        ((1, 16, 2, 3), [0.0])
    """

    def __init__(self, parts: Iterable[Bijection[Tensor]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def _bijections(self) -> list[Bijection[Tensor]]:
        return [part for part in self.parts if isinstance(part, Bijection)]

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|."""
        logdet = no_change(x)
        for part in self._bijections():
            x, change = part.to_latent(x, cond)
            logdet = logdet + change
            cond = part.condition_after(cond)
        return x, logdet

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        logdet = no_change(z)
        steps: list[tuple[Bijection[Tensor], Condition]] = []
        for part in self._bijections():
            steps.append((part, cond))
            cond = part.condition_after(cond)
        for part, before in reversed(steps):
            z, change = part.to_image(z, before)
            logdet = logdet + change
        return z, logdet

    def condition_after(self, cond: Condition) -> Condition:
        """Return the condition that the last part leaves behind."""
        for part in self._bijections():
            cond = part.condition_after(cond)
        return cond


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
    inside = x.detach() if mask is None else torch.where(mask != 0, x.detach(), 0.0)
    largest = float(inside.abs().amax())
    if not math.isfinite(largest) or largest > limit:
        msg = (
            f"{what} values must be finite and at most {limit:.0f} in magnitude, got {largest:.6g}; "
            "prepare the image as in training first"
        )
        raise ValueError(msg)


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
