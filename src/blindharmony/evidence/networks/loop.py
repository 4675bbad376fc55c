r"""The training loop of every network: bounded by time or steps, interruptible anywhere, the mean of recent weights.

.. math:: \bar w_t = \bar w_{t-1} + (1 - k_t) (w_t - \bar w_{t-1}), \qquad k_t = \min(k, t / (t + 9))

The rate rises for a few steps, then falls along a cosine over the share of time or steps that is used. Of
:math:`\bar w` at every look at the held-out scans the best is kept, or the last where nothing can be held out.

Source: averaging, Polyak & Juditsky 1992; cosine, Loshchilov & Hutter 2017 (arXiv 1608.03983).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blindharmony.evidence.networks.learner import Learner
from blindharmony.evidence.networks.parts import count
from blindharmony.evidence.networks.store import (
    Progress,
    copied,
    moments,
    put_moments,
    read_checkpoint,
    read_network,
    write_checkpoint,
    write_network,
)
from blindharmony.evidence.system import Say

_WARMUP, _KEEP, _LOOKS, _LEAST = 30, 0.99, 20, 0.02


@dataclass(frozen=True)
class Limits:
    """How long to train.

    Attributes:
        minutes: Wall clock, if ``steps`` is None; what is learnt then depends on the machine.
        steps: Steps; equal input then gives equal bytes.
        seed: Of everything random.
    """

    minutes: float
    steps: int | None = None
    seed: int = 0

    def share(self, progress: Progress, seconds: float) -> float:
        """How much of it is used."""
        if self.steps is not None:
            return progress.step / self.steps
        return min(1.0, seconds / (60 * self.minutes)) if self.minutes > 0 else 1.0


def train(learner: Learner, folder: Path, plan: Mapping[str, Any], limits: Limits, say: Say, stage: str) -> None:
    """Train, go on training, or take what was learnt already; the networks have the chosen weights afterwards.

    Args:
        learner: Networks with their first weights.
        folder: Where all is kept.
        plan: What tells this training from others.
        limits: How long.
        say: Told how far it is.
        stage: What it is called.
    """
    # Minutes are no part of it: what was learnt in another time is still what was learnt from these scans.
    plan = {**plan, "steps": limits.steps, "seed": limits.seed}
    known = read_network(folder, plan)
    if known is None:
        _learn(learner, folder, plan, limits, say, stage)
    else:
        learner.networks.load_state_dict(known)
    learner.networks.eval().requires_grad_(False)


def _learn(learner: Learner, folder: Path, plan: Mapping[str, Any], limits: Limits, say: Say, stage: str) -> None:
    nets, progress = learner.networks, Progress()
    mean = copied(nets)
    best = mean
    found = read_checkpoint(folder, plan)
    if found is not None:
        progress, parts = found
        nets.load_state_dict(parts["now"])
        device = next(nets.parameters()).device
        mean, best = ({k: v.to(device) for k, v in parts[p].items()} for p in ("mean", "best"))
        put_moments(learner.optimisers, parts.get("moments", {}))
        learner.recall(parts.get("memory", {}))
    before, began = progress.seconds, time.monotonic()
    share = limits.share(progress, before)
    losses: list[dict[str, float]] = []
    while share < 1 or progress.step == 0:
        _set_rate(learner, progress.step, share)
        nets.train()
        rng = np.random.default_rng((limits.seed, 4711, progress.step))
        losses.append(learner.step(rng, progress.step))
        progress.step += 1
        _average(mean, nets.state_dict(), progress.step)
        progress.seconds = before + time.monotonic() - began
        last, share = share, limits.share(progress, progress.seconds)
        say(stage, min(share, 1.0))
        if int(share * _LOOKS) > int(last * _LOOKS) or share >= 1:
            best = _look(learner, progress, losses, mean, best)
            losses = []
            tensors = {"now": copied(nets), "mean": mean, "best": best, "moments": moments(learner.optimisers)}
            write_checkpoint(folder, progress, {**tensors, "memory": learner.memory()}, plan)
    nets.load_state_dict(best)
    write_network(folder, best, plan, progress, count(nets))


def _set_rate(learner: Learner, step: int, share: float) -> None:
    cosine = _LEAST + (1 - _LEAST) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    # Thirty steps, but no more than a tenth of a short training.
    rise = min(1.0, max((step + 1) / _WARMUP, 10 * share))
    for optimiser in learner.optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * rise * cosine


def _average(mean: dict[str, Tensor], now: Mapping[str, Tensor], step: int) -> None:
    keep = min(_KEEP, step / (step + 9))
    for name, value in now.items():
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - keep)
        else:
            mean[name].copy_(value)


def _look(
    learner: Learner,
    progress: Progress,
    losses: list[dict[str, float]],
    mean: dict[str, Tensor],
    best: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Judge the mean weights, add a row to the curve, and say which weights are the best now."""
    now = copied(learner.networks)
    learner.networks.load_state_dict(mean)
    learner.networks.eval()
    with torch.no_grad():
        score = learner.score()
    learner.networks.load_state_dict(now)
    row: dict[str, float] = {"step": progress.step, "seconds": round(progress.seconds, 1)}
    row |= {k: float(np.mean([x[k] for x in losses])) for k in losses[0]}
    if score is not None:
        row["held_out"] = score
    progress.rows.append(row)
    if score is not None and score > progress.best:
        return best
    progress.best = progress.best if score is None else score
    return {k: v.clone() for k, v in mean.items()}
