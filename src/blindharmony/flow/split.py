"""Half of the channels are done; the other half goes on to the next level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindharmony.flow.bijection import NOTHING, Condition, no_change
from blindharmony.flow.latent import GaussianGiven


class Split(nn.Module):
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
        >>> kept, z, logdet = Split(4).to_latent(torch.ones(1, 4, 2, 2))
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

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor, Tensor]:
        """Return the kept half, the latent of the leaving half, and log|det| of shape ``(B,)``."""
        kept, leaving = x[:, : self.kept], x[:, self.kept :]
        if self.prior is None:
            return kept, leaving, no_change(x)
        z, logdet = self.prior.to_standard(leaving, kept, cond)
        return kept, z, logdet

    def to_image(self, kept: Tensor, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return both halves together and log|det| of shape ``(B,)``."""
        if self.prior is None:
            return torch.cat([kept, z], 1), no_change(kept)
        leaving, logdet = self.prior.from_standard(z, kept, cond)
        return torch.cat([kept, leaving], 1), logdet
