r"""Is a density an honest judge? Where the likelihood of a changed image has its optimum, for images it never saw.

For a family of invertible changes :math:`T_t` of the image, :math:`T_0` the identity,

.. math:: t^* = \arg\max_t\; \log p(T_t(x)) + \log\left|\det \partial T_t / \partial x\right|

A judge without fault has :math:`t^* = 0` on average over unseen scans; how much it differs between people is how
much it believes to know about one person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindharmony.flow.haar import haar_split
from blindharmony.flow.pyramid import Pyramid

#: Image, mask and t → the changed image and log|det|, a number.
Change = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

_DARK = 0.05


def gain(x: Tensor, mask: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Multiply by :math:`e^t`."""
    return x * float(np.exp(t)), t * mask.sum().double()


def gamma(x: Tensor, mask: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Raise to the power :math:`e^t`, straight below 0.05; 1, about white matter's intensity, stays."""
    power = float(np.exp(t))
    bent = x.clamp_min(_DARK) ** power
    straight = x.new_tensor(_DARK ** (power - 1))
    slope = (power * x.clamp_min(_DARK) ** (power - 1)).where(x > _DARK, straight)
    return bent.where(x > _DARK, x * straight), slope.log()[mask].sum()


def bias(axis: int, order: int = 1) -> Change:
    r"""A field :math:`e^{t\,b(v)}`, :math:`b` a power of the position along an axis, mean 0 and rms 1 in the mask."""

    def change(x: Tensor, mask: Tensor, t: float) -> tuple[Tensor, Tensor]:
        shape = [1] * 5
        shape[2 + axis] = x.shape[2 + axis]
        b = torch.linspace(-1, 1, x.shape[2 + axis], dtype=x.dtype).view(shape).expand_as(x) ** order
        b = b - b[mask].mean()
        b = b / b[mask].square().mean().sqrt()
        return x * torch.exp(t * b), t * b[mask].sum()

    return change


FAMILIES: dict[str, Change] = {
    "gain": gain,
    "gamma": gamma,
    "bias left-right": bias(0),
    "bias back-front": bias(1),
    "bias down-up": bias(2),
    "bias middle-ends": bias(2, 2),
}


def optimum(grid: NDArray[np.float64], values: Sequence[float]) -> float:
    """Vertex of the parabola through the best point of an even grid and its neighbours.

    Example:
        >>> grid = np.linspace(-1, 1, 5)
        >>> round(optimum(grid, [-((t - 0.3) ** 2) for t in grid]), 6)
        0.3
    """
    best = int(np.clip(np.argmax(values), 1, len(grid) - 2))
    low, mid, high = values[best - 1 : best + 2]
    step = grid[1] - grid[0]
    return float(grid[best] + step * np.clip(0.5 * (low - high) / min(low - 2 * mid + high, -1e-9), -1, 1))


@torch.no_grad()
def most_probable(
    flow: Pyramid, x: Tensor, mask: Tensor, grid: NDArray[np.float64], families: Sequence[str] = tuple(FAMILIES)
) -> list[dict[str, float]]:
    """For each resolution, finest first, and each family the most probable change of one image.

    Args:
        flow: The density.
        x: Image ``(1, 1, *flow.spec.shape)``, flow units.
        mask: Bool, same shape.
        grid: Even values of t that are tried.
        families: Names out of :data:`FAMILIES`.
    """

    def likelihood(level: int, image: Tensor) -> float:
        return float(flow.density(image.where(mask, 0.0), mask, first=level).nats.double().sum())

    found = []
    for level in range(len(flow.levels)):
        unchanged = likelihood(level, x)
        row = {}
        for name in families:
            changed = [FAMILIES[name](x, mask, float(t)) for t in grid]
            values = [
                float(jacobian) + (likelihood(level, bent) if t else unchanged)
                for t, (bent, jacobian) in zip(grid, changed, strict=True)
            ]
            row[name] = optimum(grid, values)
        found.append(row)
        split = haar_split(x, mask)
        x, mask = split.coarse, split.coarse_mask
    return found
