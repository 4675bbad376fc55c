r"""Train the restorer of a target: from the target's heads through random scanners back to the heads.

.. math:: \min_R\; \mathbb E\; \frac{\overline{(R(y) - x)^2}}{\overline{(y - x)^2} + \epsilon}

Relative errors: a slightly spoiled scan counts as much as a badly spoiled one, and :math:`\epsilon` keeps scans that
were hardly changed from asking for perfection.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.target.restorer import Restorer, RestorerSpec
from blindharmony.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from blindharmony.training.fit import FitState, moments_of, put_moments
from blindharmony.training.restorer_pool import Cubes

_RATE, _WARMUP, _CLIP, _BATCH, _SLOWEST = 6e-4, 200, 0.5, 2, 0.999
_SMALL = 2e-4  # mean square error of a matched clean scan, flow units
_TRIAL, _SAVE_EVERY = 6, 100


def fit_restorer(
    cubes: Cubes,
    spec: RestorerSpec,
    *,
    minutes: float,
    steps: int | None,
    seed: int,
    plan: dict[str, Any],
    checkpoint: Path,
    resume: bool = False,
    device: str = "cpu",
    on_step: Callable[[int, int, float], None] | None = None,
) -> Restorer:
    """The trained network: the running mean of the weights, which is steadier than the last ones.

    Args:
        cubes: What it learns from.
        spec: Its shape.
        minutes: Time, if ``steps`` is None; the number of steps is then fixed after a short trial.
        steps: Steps of two cubes each.
        seed: Of weights and draws; everything random in a step follows from it, so that resuming repeats it.
        plan: To recognise an interrupted run.
        checkpoint: Where it is kept while it runs.
        resume: Go on from the checkpoint, if there is one.
        device: Where to train.
        on_step: Called with steps done, their number, and the loss; may raise to stop.

    Raises:
        UsageError: If the interrupted run had other data, settings or steps.
    """
    torch.manual_seed(seed)
    net = Restorer(spec).to(device)
    state, known = FitState(0, math.inf, _copy(net), {}), False
    plan = {**plan, "restorer": spec.model_dump(mode="json")}
    if resume and checkpoint.exists():
        found = load_checkpoint(checkpoint, net, plan)
        state, plan, known = found.fit, found.plan, True
        state.best_weights = {name: value.to(device) for name, value in state.best_weights.items()}
        if steps and plan["steps"] != steps:
            raise UsageError(
                f"the interrupted run had {plan['steps']} steps of the restorer, not {steps}",
                remedy="resume with the same --restorer-steps, or start again without --resume",
            )
    optimiser = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=1e-4, betas=(0.9, 0.98))
    put_moments(optimiser, net, state)
    if not known:
        plan["steps"] = steps or _measured(net, cubes, minutes, device)
    total = int(plan["steps"])
    while state.step < total:
        rng = np.random.default_rng((seed, 77, state.step))
        rate = min(1.0, (state.step + 1) / _WARMUP) * (0.5 * (1 + math.cos(math.pi * state.step / total)) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = _RATE * rate
        loss = _loss(net, cubes, rng, device)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
        optimiser.step()
        state.step += 1
        keep = min(_SLOWEST, state.step / (state.step + 9))
        for name, value in net.state_dict().items():
            state.best_weights[name].lerp_(value, 1 - keep)
        if state.step % _SAVE_EVERY == 0 or state.step == total:
            state.moments = moments_of(optimiser, net)
            save_checkpoint(checkpoint, net, Checkpoint(0, state, plan))
        if on_step:
            on_step(state.step, total, loss.item())
    net.load_state_dict(state.best_weights)
    return net.cpu().eval().requires_grad_(False)


def _loss(net: Restorer, cubes: Cubes, rng: np.random.Generator, device: str) -> Tensor:
    drawn = [cubes.patch(rng) for _ in range(_BATCH)]
    seen, truth, mask, own = (torch.from_numpy(np.stack(p))[:, None].to(device) for p in zip(*drawn, strict=True))
    inside = mask.float()
    count = inside.sum((1, 2, 3, 4))
    after, before = (((x - truth) ** 2 * inside).sum((1, 2, 3, 4)) / count for x in (net(seen, mask, own), seen))
    return (after / (before + _SMALL)).mean()


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def _measured(net: Restorer, cubes: Cubes, minutes: float, device: str) -> int:
    """Steps that fit in the time."""
    rng = np.random.default_rng(0)
    began = 0.0
    for step in range(_TRIAL + 2):
        if step == 2:  # the first ones warm caches up
            began = time.monotonic()
        _loss(net, cubes, rng, device).backward()  # type: ignore[no-untyped-call]
    net.zero_grad()
    return max(20, int(0.95 * minutes * 60 * _TRIAL / (time.monotonic() - began)))
