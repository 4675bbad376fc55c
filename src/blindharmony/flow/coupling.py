"""One part of the channels decides how the other part is transformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from blindharmony.flow.affine import Elementwise
from blindharmony.flow.bijection import (
    NOTHING,
    Bijection,
    Condition,
    full_precision,
    keep_outside,
    total,
    visible,
)

Half = Literal["first", "second"]


class Coupling(Bijection):
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
        >>> from blindharmony.flow.affine import Affine
        >>> from blindharmony.flow.conditioner import Bottleneck
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
