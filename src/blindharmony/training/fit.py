"""Fit one level of the pyramid: a plain loop that can be interrupted anywhere and goes on as if it had not been."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from blindharmony.flow.haar import HaarLevel
from blindharmony.flow.level import LevelFlow
from blindharmony.training.team import Compute

_RATE, _WARMUP, _DECAY, _CLIP = 2e-3, 20, 1e-4, 1.0
# How often the held-out scans are looked at.
_EVALUATIONS = 12


class LevelData(NamedTuple):
    """What one level learns from: numbers, what they may depend on, and where they exist."""

    values: Tensor
    context: Tensor
    mask: Tensor

    def patch(self, size: int | None, rng: np.random.Generator) -> LevelData:
        """A random cube of ``size`` places that holds some brain, or everything if ``size`` is None."""
        if size is None or max(self.values.shape[2:]) <= size:
            return self
        while True:
            low = [int(rng.integers(0, max(1, n - size + 1))) for n in self.values.shape[2:]]
            cut = (slice(None), slice(None), *[slice(a, a + size) for a in low])
            if self.mask[cut].float().mean() > 0.2:
                return LevelData(*(t[cut] for t in self))

    def brighter(self, gain: float) -> LevelData:
        """The same with all intensities times ``gain``, the coarser image among them: channel 0 of the context."""
        context = self.context.clone()
        context[:, :1] *= gain
        return LevelData(self.values * gain, context, self.mask)


def level_data(level: HaarLevel, context: Tensor, *, base: bool) -> LevelData:
    """The details of a level, or its coarse image for the coarsest one."""
    if base:
        return LevelData(level.coarse, context, level.coarse_mask)
    return LevelData(level.detail, context, level.detail_mask)


def nats_per_number(flow: LevelFlow, data: LevelData) -> tuple[Tensor, Tensor]:
    """Mean negative log-density of the numbers in ``data``, and their latents."""
    z, logdet = flow.to_latent(data.values, data.context, data.mask)
    energy = 0.5 * (z.square() + math.log(2 * math.pi)).where(data.mask, 0.0).sum()
    return (energy - logdet.sum()) / data.mask.sum().clamp_min(1), z


@dataclass
class FitState:
    """Where a fit stands: enough to go on with the same result.

    Attributes:
        step: Steps done.
        best: Lowest held-out nats a number so far.
        best_weights: The weights that had it.
        moments: Adam's running moments by parameter name.
    """

    step: int
    best: float
    best_weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def fit_level(
    flow: LevelFlow,
    draw: Callable[[np.random.Generator], LevelData],
    held_out: Sequence[LevelData],
    *,
    steps: int,
    seed: tuple[int, ...],
    patch: int | None = None,
    state: FitState | None = None,
    compute: Compute | None = None,
    on_step: Callable[[FitState, dict[str, float]], None] | None = None,
) -> float:
    """Train one level and keep the weights that were best on held-out scans.

    Args:
        flow: Trained in place.
        draw: Gives the training data of one step.
        held_out: Data that never trains.
        steps: Number of steps; the learning rate falls along a cosine.
        seed: Everything random in patch ``j`` of step ``i`` follows from ``(*seed, i, j)``: resuming repeats it.
        patch: Side of the random cubes used instead of whole heads.
        state: Where an interrupted fit stood.
        compute: Where and how, and who shares the work.
        on_step: Called after each step with the state and numbers for the log; may raise to stop.

    Returns:
        Held-out nats a number.
    """
    compute = compute or Compute()
    team = compute.team
    flow.to(compute.device)
    optimiser = torch.optim.AdamW(flow.parameters(), lr=_RATE, weight_decay=_DECAY)
    state = state or FitState(0, math.inf, {}, {})
    put_moments(optimiser, flow, state)
    every = max(1, steps // _EVALUATIONS)
    while state.step < steps:
        rate = _RATE * min(1.0, (state.step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * state.step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        flow.train()
        optimiser.zero_grad()
        total = 0.0
        for piece in team.share(compute.batch):
            rng = np.random.default_rng((*seed, state.step, piece) if piece else (*seed, state.step))
            torch.manual_seed(int(rng.integers(2**62)))  # dropout
            data = LevelData(*(t.to(compute.device) for t in draw(rng).patch(patch, rng)))
            with compute.precision():
                loss = nats_per_number(flow, data)[0] / compute.batch
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        team.add_gradients(flow)
        nn.utils.clip_grad_norm_(flow.parameters(), _CLIP)
        optimiser.step()
        state.step += 1
        log = {"step": float(state.step), "train": team.total(total)}
        if team.first and (state.step % every == 0 or state.step == steps):
            log["held_out"] = evaluate(flow, held_out, compute.device)
            if log["held_out"] < state.best:
                state.best = log["held_out"]
                state.best_weights = {k: v.detach().cpu().clone() for k, v in flow.state_dict().items()}
        if on_step:
            state.moments = moments_of(optimiser, flow)
            on_step(state, log)
    if state.best_weights:
        flow.load_state_dict(state.best_weights)
    team.same_weights(flow)
    flow.eval()
    return state.best


@torch.no_grad()
def evaluate(flow: LevelFlow, held_out: Sequence[LevelData], device: str = "cpu") -> float:
    """Mean held-out nats a number."""
    flow.eval()
    costs = [float(nats_per_number(flow, LevelData(*(t.to(device) for t in d)))[0]) for d in held_out]
    return float(np.mean(costs)) if costs else math.inf


def moments_of(optimiser: torch.optim.Optimizer, flow: nn.Module) -> dict[str, Tensor]:
    """Adam's running moments by parameter name, for a checkpoint."""
    found = {}
    for name, parameter in flow.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            found[f"{name}|{key}"] = value
    return found


def put_moments(optimiser: torch.optim.Optimizer, flow: nn.Module, state: FitState) -> None:
    """Give an optimiser the moments of a checkpoint."""
    for name, parameter in flow.named_parameters():
        own = {k.split("|")[1]: v.clone() for k, v in state.moments.items() if k.split("|")[0] == name}
        if own:
            optimiser.state[parameter] = {k: v if k == "step" else v.to(parameter) for k, v in own.items()}
