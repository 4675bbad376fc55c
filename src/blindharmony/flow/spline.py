"""A flexible increasing curve for every single value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from blindharmony.flow.bounds import bounded


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
