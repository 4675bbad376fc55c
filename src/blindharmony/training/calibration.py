r"""Make a trained level right about scans it never saw: its gain, and the mean and spread of its latents.

Two corrections, neither of which the training scans can give. A gain :math:`s` in front of the flow,

.. math:: p'(d \mid c) = s^{n}\, p(s\,d \mid s\,c), \qquad
          \log s = \bar g \max\Bigl(0,\; 1 - \frac{e^2}{\bar g^2}\Bigr), \qquad
          g_i = \arg\max_g \log p(e^g d_i \mid e^g c_i) + n g,

:math:`\bar g` the mean over held-out scans and :math:`e` its standard error (the shrinkage of James and Stein), which
makes held-out scans most probable as they are, as far as they agree; and a shift and a scale of every latent channel.
Both are absorbed in what a level has anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from blindharmony.flow.honesty import optimum
from blindharmony.flow.level import LevelFlow
from blindharmony.training.fit import LevelData, nats_per_number

_GAINS = np.linspace(-0.12, 0.12, 7)
# The spread moves the best gain a little, and the gain the spread.
_ROUNDS = 2


class Calibration(NamedTuple):
    """What the latents of one level's held-out data were like before they were corrected.

    Attributes:
        spread: Root mean square of all latents, 1 for a flow that needs no correction.
        means: Mean of each channel, 0 for such a flow.
        spreads: Standard deviation of each channel, 1 for such a flow.
    """

    spread: float
    means: tuple[float, ...]
    spreads: tuple[float, ...]


@torch.no_grad()
def latent_moments(flow: LevelFlow, held_out: Sequence[LevelData], device: str = "cpu") -> Calibration:
    """Mean and spread of each latent channel over all places of the held-out data."""
    flow.eval()
    first, second, count = (torch.zeros(flow.latent_mean.numel(), dtype=torch.float64) for _ in range(3))
    for data in held_out:
        moved = LevelData(*(t.to(device) for t in data))
        z = nats_per_number(flow, moved)[1].double().where(moved.mask, 0.0).cpu()
        first += z.sum((0, 2, 3, 4))
        second += z.square().sum((0, 2, 3, 4))
        count += data.mask.sum((0, 2, 3, 4)).double().cpu()
    mean = first / count.clamp_min(1)
    spread = (second / count.clamp_min(1) - mean.square()).clamp_min(1e-4).sqrt()
    whole = float((second.sum() / count.sum().clamp_min(1)).sqrt())
    return Calibration(whole, tuple(mean.tolist()), tuple(spread.tolist()))


@torch.no_grad()
def common_gain(flow: LevelFlow, held_out: Sequence[LevelData], device: str = "cpu") -> float:
    """The logarithm of the gain that held-out scans agree on; 0 as far as they differ, and for a single one.

    Each scan's most probable gain (Jacobian included), averaged, and shrunk by what the mean's own error explains:
    four people say little about a gain in which people differ.
    """
    flow.eval()
    found = []
    for data in held_out:
        given = LevelData(*(t.to(device) for t in data))
        nats = [gain - float(nats_per_number(flow, given.brighter(math.exp(gain)))[0]) for gain in _GAINS]
        found.append(optimum(_GAINS, nats))
    if len(found) < 2:
        return 0.0
    mean, error = float(np.mean(found)), float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return mean * max(0.0, 1 - (error / mean) ** 2) if mean else 0.0


@torch.no_grad()
def calibrate(flow: LevelFlow, held_out: Sequence[LevelData], device: str = "cpu") -> Calibration:
    """Give held-out data gain 1, and their latents mean 0 and spread 1 in every channel.

    Returns:
        What they were like before.
    """
    before = latent_moments(flow, held_out, device)
    for _ in range(_ROUNDS):
        flow.absorb_gain(common_gain(flow, held_out, device))
        found = latent_moments(flow, held_out, device)
        mean, spread = (torch.tensor(v, dtype=torch.float64) for v in (found.means, found.spreads))
        flow.latent_mean.add_((mean * flow.latent_log_sd.exp().double().cpu()).to(flow.latent_mean))
        flow.latent_log_sd.add_(spread.log().to(flow.latent_log_sd))
    return before
