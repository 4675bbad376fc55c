r"""Couplings: one part of an image decides how the other part is bent, value by value.

Two things make a coupling, and either can be exchanged alone:

* the *curve*, a family of increasing functions of one number (:class:`Elementwise`): :class:`Affine`, :class:`Spline`;
* the *cut*, which values decide and which are moved: halves of the channels (:class:`Coupling`, for slices and full
  volumes), or channels and checkerboards at the places of a mask only (:class:`SparseCoupling`, for heads).

Both couplings keep the contract of :class:`~blindharmony.flows.bijection.Bijection`. A new one belongs here, and as one
line into the table ``CASES`` of ``tests/flows/test_laws.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blindharmony.flows.bijection import (
    LOG_SCALE_CAP,
    NOTHING,
    Bijection,
    Condition,
    bounded,
    full_precision,
    keep_outside,
    no_change,
    total,
    visible,
)
from blindharmony.flows.networks import Convolution


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


@dataclass(frozen=True)
class Spline:
    r"""Bend each value by a monotone rational-quadratic spline; the identity at zero parameters.

    Inside [−B, B], with :math:`\xi = (x - x_k) / (x_{k+1} - x_k)`, :math:`h_k = y_{k+1} - y_k` and
    :math:`s_k = h_k / (x_{k+1} - x_k)`,

    .. math:: z = y_k + \frac{h_k\,[s_k \xi^2 + \delta_k \xi (1 - \xi)]}
        {s_k + [\delta_{k+1} + \delta_k - 2 s_k]\,\xi (1 - \xi)}

    and :math:`z = x` outside. Of the 3K − 1 parameters of a value, K give the widths of the bins,
    K their heights and K − 1 the slopes :math:`\delta` at the inner knots. Widths and heights have a
    floor, and raw slopes go through :math:`c\tanh(r/c)`, so that every curve can be inverted.

    Warning:
        Values beyond ±B pass unchanged: standardise them first.

    Source: Durkan et al. 2019 (Neural spline flows), equations 4 to 8.

    Args:
        bins: Number of bins K.
        bound: Half-width B of the interval.
        minimum: Smallest width and height, as a share of the interval, and smallest slope.
        cap: The limit c of a raw slope; slopes stay below about c + 0.6.

    Raises:
        ValueError: If the bins cannot all have the smallest width, or an option is not positive.

    Example:
        >>> curve, x = Spline(bins=4), torch.linspace(-4, 4, 5).view(1, 1, 5)
        >>> curve.to_latent(x, torch.zeros(1, 1, curve.size, 5))[0].flatten().tolist()
        [-4.0, -2.0, 0.0, 2.0, 4.0]
    """

    bins: int = 8
    bound: float = 3.0
    minimum: float = 1e-3
    cap: float = 5.0

    def __post_init__(self) -> None:
        if self.bins < 2 or self.bound <= 0 or self.cap <= 0 or not 0 < self.minimum * self.bins < 1:
            msg = f"a spline needs 2 or more bins, bound and cap > 0, 0 < minimum·bins < 1, got {self}"
            raise ValueError(msg)

    @property
    def size(self) -> int:
        """How many parameters a value needs: 3K − 1."""
        return 3 * self.bins - 1

    def to_latent(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log dz/dx, both like ``x``; ``params`` is ``(B, C, 3K − 1, *space)``."""
        inside = (x > -self.bound) & (x < self.bound)
        # The curve is evaluated at clamped values, so that its gradient stays finite where it is not used.
        u = x.clamp(-self.bound, self.bound).unsqueeze(2)
        knots_x, knots_y, slopes = self._curve(params)
        bin_ = (u >= knots_x[:, :, 1:-1]).sum(2, keepdim=True)
        x0, y0, width, height, low, high = _at(bin_, knots_x, knots_y, slopes)
        xi, slope = (u - x0) / width, height / width
        inner = xi * (1 - xi)
        z = y0 + height * (slope * xi.square() + low * inner) / (slope + (high + low - 2 * slope) * inner)
        log_slope = _log_derivative(xi, slope, low, high)
        return torch.where(inside, z.squeeze(2), x), torch.where(inside, log_slope.squeeze(2), 0.0)

    def to_image(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log dx/dz, both like ``z``; ``params`` is ``(B, C, 3K − 1, *space)``."""
        inside = (z > -self.bound) & (z < self.bound)
        v = z.clamp(-self.bound, self.bound).unsqueeze(2)
        knots_x, knots_y, slopes = self._curve(params)
        bin_ = (v >= knots_y[:, :, 1:-1]).sum(2, keepdim=True)
        x0, y0, width, height, low, high = _at(bin_, knots_x, knots_y, slopes)
        share, slope = (v - y0) / height, height / width
        bend = share * (high + low - 2 * slope)
        a, b, c = slope - low + bend, low - bend, -slope * share
        root = (b.square() - 4 * a * c).clamp_min(torch.finfo(z.dtype).tiny).sqrt()
        # Of the two forms of the same root, take the one that does not subtract nearly equal numbers.
        xi = torch.where(b >= 0, 2 * c, root - b) / torch.where(b >= 0, -b - root, 2 * a)
        xi = xi.clamp(0.0, 1.0)
        x = x0 + xi * width
        log_slope = _log_derivative(xi, slope, low, high)
        return torch.where(inside, x.squeeze(2), z), torch.where(inside, -log_slope.squeeze(2), 0.0)

    def _curve(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        widths, heights, raw = torch.split(params, [self.bins, self.bins, self.bins - 1], 2)
        # A raw slope of zero means slope one; the outer slopes are one, to meet the straight tails.
        inner = self.minimum + F.softplus(bounded(raw, self.cap) + math.log(math.expm1(1 - self.minimum)))
        ends = torch.ones_like(inner[:, :, :1])
        return self._knots(widths), self._knots(heights), torch.cat([ends, inner, ends], 2)

    def _knots(self, raw: Tensor) -> Tensor:
        shares = self.minimum + (1 - self.minimum * self.bins) * raw.softmax(2)
        inner = self.bound * (2 * shares[:, :, :-1].cumsum(2) - 1)
        end = torch.full_like(inner[:, :, :1], self.bound)
        return torch.cat([-end, inner, end], 2)


def _at(bin_: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
    x0, y0, low = (curve.gather(2, bin_) for curve in (knots_x, knots_y, slopes))
    x1, y1, high = (curve.gather(2, bin_ + 1) for curve in (knots_x, knots_y, slopes))
    return x0, y0, x1 - x0, y1 - y0, low, high


def _log_derivative(xi: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    inner = xi * (1 - xi)
    top = high * xi.square() + 2 * slope * inner + low * (1 - xi).square()
    bottom = slope + (high + low - 2 * slope) * inner
    return 2 * (slope.log() - bottom.log()) + top.log()


Half = Literal["first", "second"]


class Coupling(Bijection[Tensor]):
    r"""Transform some channels, value by value, in a way that the other channels decide.

    .. math:: z_b = x_b, \qquad z_a = T\bigl(x_a; \theta(x_b)\bigr), \qquad
        \log|\det| = \sum \log T'

    where :math:`a` is ``half`` of the channels and :math:`b` the rest. Both directions are exact,
    since :math:`x_b` is known in both. The network sees zeros at places that do not exist.

    Source: Dinh et al. 2017 (Real NVP), section 3.2; Durkan et al. 2019, equations 1 to 3.

    Args:
        channels: Number of channels of ``x``, at least 2.
        transform: The family of curves :math:`T`: :class:`Affine` or :class:`Spline`.
        conditioner: Makes the network :math:`\theta` from the channels it reads and returns.
        half: Channels to transform: the ``"first"`` or ``"second"`` half.

    Raises:
        ValueError: If there are fewer than two channels.

    Example:
        >>> from blindharmony.flows.networks import Bottleneck
        >>> layer = Coupling(4, Affine(), Bottleneck)
        >>> x = torch.randn(1, 4, 6, 6)
        >>> torch.equal(layer.to_latent(x)[0], x)  # a new coupling is the identity
        True
    """

    def __init__(
        self,
        channels: int,
        transform: Elementwise,
        conditioner: Callable[[int, int], nn.Module],
        half: Half = "second",
    ) -> None:
        super().__init__()
        if channels < 2:
            msg = f"a coupling needs at least 2 channels, got {channels}; squeeze the image first"
            raise ValueError(msg)
        middle = channels // 2
        halves = slice(0, middle, 1), slice(middle, channels, 1)
        self.moved, self.kept = halves if half == "first" else halves[::-1]
        self.transform = transform
        count = len(range(channels)[self.moved])
        self.conditioner = conditioner(channels - count, count * transform.size)

    def _params(self, x: Tensor, cond: Condition) -> Tensor:
        params: Tensor = self.conditioner(visible(x[:, self.kept], cond), cond.context)
        # Under autocast the network may answer in half precision; the curve is always exact.
        params = params.to(torch.promote_types(x.dtype, torch.float32))
        return params.reshape(len(x), -1, self.transform.size, *x.shape[2:])

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|."""
        params = self._params(x, cond)
        with full_precision(x):
            moved, slopes = self.transform.to_latent(visible(x[:, self.moved], cond), params)
            return self._join(moved, x, cond), total(slopes, cond.mask)

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        params = self._params(z, cond)
        with full_precision(z):
            moved, slopes = self.transform.to_image(visible(z[:, self.moved], cond), params)
            return self._join(moved, z, cond), total(slopes, cond.mask)

    def _join(self, moved: Tensor, old: Tensor, cond: Condition) -> Tensor:
        moved = keep_outside(moved, old[:, self.moved], cond)
        where = self.moved
        return old.to(moved.dtype).slice_scatter(moved, 1, where.start, where.stop, where.step)


class Sites(NamedTuple):
    """The places of a batch of volumes at which at least one channel exists.

    Attributes:
        at: Flat index of each place, ``(sites,)``, counting through the images of the batch.
        image: To which image each belongs, ``(sites,)``.
        valid: Which channels exist there, bool ``(C, sites)``.
        colour: The colour of each on a checkerboard, 0 or 1, ``(sites,)``.

    Example:
        >>> mask = torch.zeros(2, 1, 2, 2, 2, dtype=torch.bool)
        >>> mask[1, 0, 0, 0, 1] = True
        >>> Sites.of(mask)
        Sites(at=tensor([9]), image=tensor([1]), valid=tensor([[True]]), colour=tensor([1]))
    """

    at: Tensor
    image: Tensor
    valid: Tensor
    colour: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Sites:
        """The places where any channel of a bool mask ``(B, C, X, Y, Z)`` is set."""
        at = mask.any(1).flatten().nonzero().squeeze(1)
        image = torch.arange(len(mask), device=mask.device).repeat_interleave(mask[0, 0].numel())[at]
        colour = checkerboard(mask).flatten().repeat(len(mask))[at]
        return cls(at, image, mask.transpose(0, 1).flatten(1)[:, at], colour)

    def of_colour(self, colour: int) -> Sites:
        """Those of one colour."""
        chosen = self.colour == colour
        return Sites(self.at[chosen], self.image[chosen], self.valid[:, chosen], self.colour[chosen])


def checkerboard(x: Tensor) -> Tensor:
    """Colour the places of a volume, 0 or 1, neighbours differently.

    Args:
        x: ``(B, C, X, Y, Z)``.

    Returns:
        ``(X, Y, Z)``, integers.

    Example:
        >>> checkerboard(torch.zeros(1, 1, 1, 2, 2)).tolist()
        [[[0, 1], [1, 0]]]
    """
    a, b, c = (torch.arange(n, device=x.device) for n in x.shape[2:])
    return (a[:, None, None] + b[:, None] + c) % 2


class SparseCoupling(Bijection[Tensor]):
    r"""Bend some channels of a volume, only at places that exist, as the context and what is not moved decide.

    .. math:: z_a = T\bigl(x_a; \theta(h, x_b)\bigr), \qquad z_b = x_b, \qquad \log|\det| = \sum \log T'

    :math:`h` are hidden features of the context, which a flow computes once for all its couplings; :math:`a` are the
    channels ``moved`` and :math:`b` the others or, with a ``colour``, :math:`a` are all channels at the places of that
    colour of a checkerboard and :math:`b` those of the other colour. With all channels moved and no colour nothing is
    left to look at, and the context alone decides. A convolution looks at :math:`x_b` and at its mask; curves are
    evaluated at the places that exist, about a third of the box around a head. The mask may differ between channels.

    Source: Dinh et al. 2017 (Real NVP), sections 3.2 and 3.4; Durkan et al. 2019 for the splines.

    Args:
        channels: Number of channels of ``x``, shape ``(B, channels, X, Y, Z)``.
        moved: The channels that are bent.
        transform: The family of curves :math:`T`: :class:`Affine` or :class:`Spline`.
        width: Channels of the features :math:`h`, the ``context`` of the condition.
        dropout: Share of hidden features dropped in training.
        colour: The colour of the places that are bent; ``None`` for places of both colours.

    Raises:
        ValueError: On use, if the features are missing.

    Example:
        >>> layer = SparseCoupling(7, (0, 1, 2), Affine(), width=8)
        >>> x, features = torch.randn(1, 7, 4, 4, 4), torch.randn(1, 8, 4, 4, 4)
        >>> torch.equal(layer.to_latent(x, Condition(features))[0], x)  # a new coupling is the identity
        True
    """

    def __init__(
        self,
        channels: int,
        moved: tuple[int, ...],
        transform: Elementwise,
        width: int,
        dropout: float = 0.0,
        colour: int | None = None,
    ) -> None:
        super().__init__()
        self.moved = list(moved)
        self.colour = colour
        self.kept = [c for c in range(channels) if c not in moved or colour is not None]
        self.transform = transform
        self.look = Convolution(2 * len(self.kept), width) if self.kept else None
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, len(moved) * transform.size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|; the context of ``cond`` is ``(B, width, X, Y, Z)``."""
        return self._alone(x, cond, inverse=False)

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        return self._alone(z, cond, inverse=True)

    def _alone(self, x: Tensor, cond: Condition, *, inverse: bool) -> tuple[Tensor, Tensor]:
        if cond.context is None:
            msg = f"a sparse coupling needs {self.hidden.in_features} features of the context at every place, got none"
            raise ValueError(msg)
        mask = full_mask(x, cond)
        start = no_change(x)
        new, logdet = self.bend(visible(x, cond), start, mask, cond.context, Sites.of(mask), inverse=inverse)
        return keep_outside(new, x, cond), logdet

    def bend(
        self, x: Tensor, logdet: Tensor, mask: Tensor, features: Tensor, sites: Sites, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """Do one direction inside a flow that has looked up the places and blanked the others already.

        Args:
            x: ``(B, C, X, Y, Z)``, zero where ``mask`` is not set.
            logdet: What the layers before have added up, ``(B,)``.
            mask: Bool, like ``x``.
            features: ``(B, width, X, Y, Z)``.
            sites: The places of ``mask``.
            inverse: From z to x.

        Returns:
            The bent values, zero where ``mask`` is not set, and ``logdet`` with this layer's part.
        """
        if self.colour is not None:
            sites = sites.of_colour(self.colour)
        params = self._params(x, mask, features, sites.at)
        with full_precision(x):
            flat = x.transpose(0, 1).flatten(1)  # (C, B·places)
            values = flat[self.moved][:, sites.at][None].to(params.dtype)
            curve = self.transform.to_image if inverse else self.transform.to_latent
            new, slope = curve(values, params)
            valid = sites.valid[self.moved][None]
            new, slope = new.where(valid, 0.0), slope.where(valid, 0.0)
            rows = torch.tensor(self.moved, device=x.device)[:, None]
            flat = flat.to(new.dtype).index_put((rows, sites.at[None]), new[0])
            logdet = logdet.index_add(0, sites.image, slope.sum((0, 1)))
            return flat.reshape(len(flat), len(x), *x.shape[2:]).transpose(0, 1), logdet

    def _params(self, x: Tensor, mask: Tensor, features: Tensor, at: Tensor) -> Tensor:
        """Parameters of the curves at flat places, shape ``(1, moved, size, sites)``."""
        if self.look is not None:
            visible_part = torch.cat([x[:, self.kept], mask[:, self.kept].to(x.dtype)], 1)
            if self.colour is not None:
                visible_part = visible_part * (checkerboard(x) != self.colour)
            features = F.silu(features + self.look(visible_part))
        at_sites = features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1])[at]
        raw: Tensor = self.head(self.dropout(F.silu(self.hidden(at_sites))))
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return raw.T.reshape(1, len(self.moved), self.transform.size, -1)


def full_mask(x: Tensor, cond: Condition) -> Tensor:
    """Give every value its own entry of the mask.

    Args:
        x: ``(B, C, *space)``.
        cond: Its condition; no mask means that everything exists.

    Returns:
        Bool, shape like ``x``.

    Example:
        >>> full_mask(torch.zeros(2, 3, 4), Condition(mask=torch.ones(1, 1, 4))).shape
        torch.Size([2, 3, 4])
    """
    if cond.mask is None:
        return torch.ones_like(x, dtype=torch.bool)
    return (cond.mask != 0).expand_as(x)
