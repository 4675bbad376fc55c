"""An invertible mixing of the channels at each place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindharmony.flow.bijection import NOTHING, Bijection, Condition, full_precision, keep_outside, places
from blindharmony.flow.bounds import LOG_SCALE_CAP, bounded


class Mixing(Bijection):
    r"""Mix channels with one invertible matrix, the same at every place (a 1×1 convolution).

    .. math:: z = W x + b, \quad W = P\,L\,(\operatorname{diag}(e^{s}) + U), \quad
        \log|\det| = N \sum_c s_c, \quad s_c = 2\tanh(r_c / 2)

    :math:`P` is a fixed random permutation, :math:`L` is unit lower and :math:`U` strictly upper
    triangular, :math:`N` the number of places that exist. A new layer is a shuffle of channels. The
    capped diagonal keeps the matrix invertible; its inverse comes from two triangular solves.

    Source: Kingma & Dhariwal 2018 (Glow), equations 9 to 11.

    Args:
        channels: Number of channels of ``x``, shape ``(B, channels, *space)``.
        bias: Whether to add a learned :math:`b`.
        generator: Source of randomness for the permutation.

    Example:
        >>> layer, x = Mixing(4), torch.randn(1, 4, 6, 6)
        >>> torch.allclose(layer.to_image(layer.to_latent(x)[0])[0], x)
        True
    """

    permutation: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, channels: int, *, bias: bool = True, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.channels = channels
        entries = channels * (channels - 1) // 2
        self.lower = nn.Parameter(torch.zeros(entries))
        self.upper = nn.Parameter(torch.zeros(entries))
        self.raw_log_diagonal = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.register_buffer("permutation", torch.randperm(channels, generator=generator))
        rows, columns = torch.tril_indices(channels, channels, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        log_diagonal = bounded(self.raw_log_diagonal, LOG_SCALE_CAP)
        zeros = torch.zeros_like(log_diagonal).expand(self.channels, self.channels)
        lower = torch.eye(self.channels, dtype=zeros.dtype, device=zeros.device)
        lower = lower + zeros.index_put((self.rows, self.columns), self.lower)
        upper = torch.diag(log_diagonal.exp()) + zeros.index_put((self.columns, self.rows), self.upper)
        return lower, upper, log_diagonal

    def matrix(self) -> Tensor:
        """Return W, shape ``(channels, channels)``."""
        lower, upper, _ = self._factors()
        return (lower @ upper)[self.permutation]

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|."""
        with full_precision(x):
            lower, upper, log_diagonal = self._factors()
            z = _apply((lower @ upper)[self.permutation], x)
            if self.bias is not None:
                z = z + self.bias.view(1, -1, *[1] * (x.ndim - 2))
            return keep_outside(z, x, cond), places(x, cond) * log_diagonal.sum()

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        with full_precision(z):
            lower, upper, log_diagonal = self._factors()
            # Solving once for the small inverse is exact enough and far cheaper than at every place.
            identity = torch.eye(self.channels, dtype=lower.dtype, device=lower.device)
            inverse = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
            inverse = torch.linalg.solve_triangular(upper, inverse, upper=True)[:, self.permutation]
            centred = z if self.bias is None else z - self.bias.view(1, -1, *[1] * (z.ndim - 2))
            x = _apply(inverse, centred)
            return keep_outside(x, z, cond), -places(z, cond) * log_diagonal.sum()


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix.to(x.dtype) @ x.flatten(2)).reshape(x.shape)
