r"""A U-Net that learns to turn one image into another of the same head, voxel by voxel.

.. math:: \hat x = y + m \cdot U(y, m, o), \qquad
          \min_U\; \mathbb E\; \frac{\overline{(\hat x - x)^2}}{\overline{(y - x)^2} + \epsilon}

:math:`y` are slices with their neighbours, :math:`m` the mask, :math:`o` the orientation of the slice. It starts as
the identity. Errors are relative, so that a slightly changed scan counts as much as a badly changed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from blindharmony.evidence.networks.learner import Learner
from blindharmony.evidence.networks.parts import unet
from blindharmony.evidence.networks.slices import (
    AXES,
    REACH,
    Mask,
    Spot,
    Volume,
    centred,
    cut,
    draw,
    orientation,
    patch_side,
)
from blindharmony.evidence.networks.whole import through

#: Slices from below to above.
SEEN = 2 * REACH + 1
_SMALL = 2e-4  # mean square error of a matched clean scan, flow units
_JUDGED = 48
_RATE, _BATCH = 2e-3, 6

#: From a scan's number and the step's to what is seen and what is to be made of it.
Pairs = Callable[[int, int], tuple[Volume, Volume]]


class SliceRegression(nn.Module):
    """Slices with neighbours and mask ``(B, 2 reach + 2, H, W)`` to the middle slice, ``(B, 1, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.correction = unet(SEEN + 1 + len(AXES), 1)

    def forward(self, x: Tensor, axes: Tensor) -> Tensor:
        """Corrected slices, zero outside the mask."""
        inside = x[:, -1:]
        change: Tensor = self.correction(torch.cat([centred(x[:, :-1]), inside, orientation(axes, x)], 1))
        return inside * (x[:, REACH : REACH + 1] + change)


class Regression(Learner):
    """Learns from patches of slices that somebody else provides.

    Args:
        pairs: Provides seen and wanted volume of a scan.
        masks: Of the scans, cropped.
        held_out: Scans that only judge: seen, wanted and mask.
        device: Where it learns.
    """

    def __init__(
        self,
        pairs: Pairs,
        masks: Sequence[Mask],
        held_out: Sequence[tuple[Volume, Volume, Mask]],
        device: str,
    ) -> None:
        self.net, self.device = SliceRegression(), device
        self.networks = nn.ModuleDict({"net": self.net}).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimisers = {
            "net": torch.optim.AdamW(self.net.parameters(), lr=_RATE, weight_decay=1e-4, betas=(0.9, 0.98))
        }
        self._pairs, self._masks = pairs, masks
        self._side = patch_side(masks)
        self._judged = [self._fixed(held_out, k) for k in range(_JUDGED if held_out else 0)]

    def _fixed(self, held_out: Sequence[tuple[Volume, Volume, Mask]], k: int) -> tuple[Volume, Volume, int]:
        seen, wanted, mask = held_out[k % len(held_out)]
        side = patch_side([mask])
        spot = draw([mask], side, np.random.default_rng((99, k)))
        return _stack(seen, mask, spot, side), cut(wanted, spot, side), spot.axis

    def step(self, rng: np.random.Generator, number: int) -> dict[str, float]:
        """A batch of patches of any orientation."""
        drawn = []
        for _ in range(_BATCH):
            spot = draw(self._masks, self._side, rng)
            seen, wanted = self._pairs(spot.scan, number)
            drawn.append(
                (_stack(seen, self._masks[spot.scan], spot, self._side), cut(wanted, spot, self._side), spot.axis)
            )
        loss = self._loss(drawn)
        self.optimisers["net"].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimisers["net"].step()
        return {"train": loss.item()}

    def score(self) -> float | None:
        """The same loss on held-out scans."""
        if not self._judged:
            return None
        return float(np.mean([self._loss([one]).item() for one in self._judged]))

    def _loss(self, drawn: Sequence[tuple[Volume, Volume, int]]) -> Tensor:
        stacks, wanted, axes = zip(*drawn, strict=True)
        x = torch.from_numpy(np.stack(stacks)).to(self.device, memory_format=torch.channels_last)
        truth = torch.from_numpy(np.stack(wanted)).to(self.device)
        inside = x[:, -1:]
        count = inside.sum((1, 2, 3)).clamp_min(1)
        made = self.net(x, torch.tensor(axes, device=self.device))
        after, before = (
            ((part - truth).square() * inside).sum((1, 2, 3)) / count for part in (made, x[:, REACH : REACH + 1])
        )
        return (after / (before + _SMALL)).mean()

    def whole(self, image: Volume, mask: Mask, axes: Sequence[int] = AXES) -> Volume:
        """A scan through the network, the mean over orientations."""

        def run(x: Tensor, axis: int) -> Tensor:
            made: Tensor = self.net(x, torch.full((len(x),), axis, device=x.device))
            return made

        made = through([image], mask, run, axes, self.device)
        return np.asarray(made[0])


def _stack(seen: Volume, mask: Mask, spot: Spot, side: int) -> Volume:
    return np.concatenate([cut(seen, spot, side, REACH), cut(mask, spot, side)])
