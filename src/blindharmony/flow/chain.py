"""Several bijections, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from blindharmony.flow.bijection import NOTHING, Bijection, Condition, no_change


class Chain(Bijection):
    r"""Apply bijections in order; their log-determinants add up.

    .. math:: f = f_n \circ \dots \circ f_1, \qquad
        \log|\det f'| = \sum_i \log|\det f_i'|

    Args:
        parts: The bijections, image side first.

    Example:
        >>> import torch
        >>> from blindharmony.flow.squeeze import Squeeze
        >>> z, logdet = Chain([Squeeze(2), Squeeze(2)]).to_latent(torch.zeros(1, 1, 8, 12))
        >>> tuple(z.shape), logdet.tolist()
        ((1, 16, 2, 3), [0.0])
    """

    def __init__(self, parts: Iterable[Bijection]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def _bijections(self) -> list[Bijection]:
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
        steps: list[tuple[Bijection, Condition]] = []
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
