r"""The default flow is trained and calibrated.

Fit one level of the pyramid: a plain loop that can be interrupted anywhere and goes on as if it had not been.

Where a training run stands, in one file that is replaced in one piece.

Make a trained level right about scans it never saw: its gain, and the mean and spread of its latents.

Two corrections, neither of which the training scans can give. A gain :math:`s` in front of the flow,

.. math:: p'(d \mid c) = s^{n}\, p(s\,d \mid s\,c), \qquad
          \log s = \bar g \max\Bigl(0,\; 1 - \frac{e^2}{\bar g^2}\Bigr), \qquad
          g_i = \arg\max_g \log p(e^g d_i \mid e^g c_i) + n g,

:math:`\bar g` the mean over held-out scans and :math:`e` its standard error (the shrinkage of James and Stein), which
makes held-out scans most probable as they are, as far as they agree; and a shift and a scale of every latent channel.
Both are absorbed in what a level has anyway.

Train a pyramid level by level, coarsest first, in a given time or a given number of steps.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.files import write_bytes
from blindharmony.flows.pyramid import LevelFlow, Pyramid, optimum
from blindharmony.flows.transforms import HaarLevel
from blindharmony.training.data import Pool, Report
from blindharmony.training.distributed import Compute

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


_PARTS = ("best", "moments")


@dataclass
class Checkpoint:
    """A run between two steps.

    Attributes:
        level: Position in the order in which levels are trained.
        fit: State of that level's fit.
        plan: What the run was asked to do; a resumed run must have been asked the same.
    """

    level: int
    fit: FitState
    plan: dict[str, Any]


def save_checkpoint(path: Path, flow: nn.Module, checkpoint: Checkpoint) -> None:
    """Write flow, optimiser and plan."""
    tensors: dict[str, Tensor] = {f"flow.{k}": v for k, v in flow.state_dict().items()}
    for part, values in zip(_PARTS, (checkpoint.fit.best_weights, checkpoint.fit.moments), strict=True):
        tensors |= {f"{part}.{k}": v for k, v in values.items()}
    meta = {
        "level": checkpoint.level,
        "step": checkpoint.fit.step,
        "best": checkpoint.fit.best,
        "plan": checkpoint.plan,
    }
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"run": json.dumps(meta)})
    write_bytes(path, content, overwrite=True)


def load_checkpoint(path: Path, flow: nn.Module, plan: dict[str, Any]) -> Checkpoint:
    """Read a checkpoint into ``flow``.

    Raises:
        UsageError: If it is damaged, or belongs to a run with other data or settings.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["run"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise UsageError("this checkpoint is damaged", remedy="start again without --resume", path=path) from None
    differing = [k for k, v in json.loads(json.dumps(plan)).items() if k != "steps" and meta["plan"].get(k) != v]
    if differing:
        raise UsageError(
            f"the interrupted run had another {', '.join(differing)}",
            remedy="resume with the same inputs and options, or start again without --resume",
            path=path,
        )
    groups: dict[str, dict[str, Tensor]] = {"flow": {}, **{p: {} for p in _PARTS}}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        groups[part][name] = value
    flow.load_state_dict(groups["flow"])
    fit = FitState(meta["step"], meta["best"], groups["best"], groups["moments"])
    return Checkpoint(meta["level"], fit, meta["plan"])


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


# Shares of the time: the coarsest image, then details at 16, 8, 4 and 2 mm: the last are 7/8 of all numbers.
_SHARES = (0.02, 0.04, 0.10, 0.24, 0.60)
_PATCH = {0: 20}
_TRIAL_STEPS = 4
_SAVE_EVERY_S = 20.0


class _Data:
    """Level data by level, cached where small: coarse levels of all images fit in memory, the finest does not."""

    def __init__(self, flow: Pyramid, pool: Pool) -> None:
        self.flow, self.pool = flow, pool
        self.cache: dict[tuple[int, int], list[HaarLevel]] = {}

    def get(self, k: int, head: int, copy: int) -> LevelData:
        levels = self.cache.get((head, copy))
        if k == 0 or levels is None:
            found = self.flow.split(*self.pool.load(head, copy))
            levels = found
            # Without level 0: it holds seven eighths of the bytes.
            self.cache[head, copy] = [found[min(1, len(found) - 1)], *found[1:]]
        last = k == len(self.flow.levels)
        level = levels[-1] if last else levels[k]
        return level_data(level, self.flow.base_context(level) if last else self.flow.context(k, level), base=last)

    def draw(self, k: int) -> Callable[[np.random.Generator], LevelData]:
        return lambda rng: self.get(k, *self.pool.pick(rng))

    def each(self, k: int) -> Iterator[LevelData]:
        """Of every head as it is, one by one."""
        return (self.get(k, head, 0) for head in range(len(self.pool.files)))

    def all(self, k: int) -> list[LevelData]:
        return list(self.each(k))


def level_flow(flow: Pyramid, k: int) -> LevelFlow:
    """Level ``k`` of a pyramid, the coarsest image's flow for the last."""
    return flow.base if k == len(flow.levels) else flow.levels[k]  # type: ignore[return-value]


def fit_pyramid(
    flow: Pyramid,
    training: Pool,
    held_out: Pool,
    folder: Path,
    *,
    judged: Pool | None = None,
    plan: dict[str, Any],
    minutes: float,
    steps: int | None,
    resume: bool,
    compute: Compute | None = None,
    report: Report | None = None,
) -> tuple[Calibration, ...]:
    """Train, calibrate on held-out scans, and return what the latents of each level were like before.

    Args:
        flow: Trained in place.
        training: Images to learn from.
        held_out: Images to stop by.
        folder: For the checkpoint and the log (``log.jsonl``).
        judged: The same inside the region where scans are judged, to calibrate on; ``held_out`` if None.
        plan: Seed, data and settings, to recognise an interrupted run; gets the number of steps.
        minutes: Time to spend if ``steps`` is None. The number of steps is then fixed after a short trial and kept
            in the checkpoint, so that a resumed run ends where it would have ended.
        steps: Steps of every level.
        resume: Go on from the checkpoint, if there is one.
        compute: Where and how, and who shares the work.
        report: Called with a stage's name, the share of all work done, and numbers.

    Raises:
        UsageError: If the checkpoint is of another run.
    """
    compute = compute or Compute()
    order = list(range(len(flow.levels), -1, -1))
    shares = np.array(_SHARES[: len(order)]) / sum(_SHARES[: len(order)])
    data, unseen = _Data(flow, training), _Data(flow, held_out)
    file = folder / "checkpoint.safetensors"
    start = Checkpoint(0, FitState(0, np.inf, {}, {}), plan)
    resumed = resume and file.exists()
    if resumed:
        start = load_checkpoint(file, flow, plan)
        plan["steps"] = start.plan["steps"]
        if steps and plan["steps"] != [steps] * len(order):
            raise UsageError(
                f"the interrupted run had {plan['steps'][-1]} steps a level, not {steps}",
                remedy="resume with the same --steps, or start again without --resume",
            )
    else:
        set_scales(flow, data)
        plan["steps"] = [steps] * len(order) if steps else _measured(flow, data, order, shares, minutes, compute)
    saved = began = time.monotonic()
    recent: list[float] = []
    first = compute.team.first
    with (folder / "log.jsonl" if first else Path(os.devnull)).open("a" if resumed else "w") as log:
        for position, k in enumerate(order):
            if position < start.level:
                continue
            total = plan["steps"][position]

            def on_step(
                state: FitState, numbers: dict[str, float], position: int = position, total: int = total
            ) -> None:
                nonlocal saved
                recent.append(numbers["train"])
                if "held_out" in numbers:
                    # One step's loss is mostly noise; the mean since the last look at held-out scans is comparable.
                    row = {**numbers, "train": float(np.mean(recent)), "seconds": round(time.monotonic() - began, 2)}
                    log.write(json.dumps({"level": order[position], **row}) + "\n")
                    log.flush()
                    recent.clear()
                if report:
                    done = float(shares[:position].sum() + shares[position] * state.step / total)
                    report(_stage(flow, order[position]), done, numbers)
                if first and (time.monotonic() - saved > _SAVE_EVERY_S or state.step == total):
                    save_checkpoint(file, flow, Checkpoint(position, state, plan))
                    saved = time.monotonic()

            state = start.fit if position == start.level else None
            fit_level(
                level_flow(flow, k),
                data.draw(k),
                unseen.all(k),
                steps=total,
                seed=(int(plan["seed"]), k),
                patch=_PATCH.get(k),
                state=state,
                on_step=on_step,
                compute=compute,
            )
    flow.to("cpu")
    found, calibrating = [], _Data(flow, judged) if judged else unseen
    with (folder / "log.jsonl" if first else Path(os.devnull)).open("a") as log:
        for k in reversed(order):
            part, seen = level_flow(flow, k), calibrating.all(k)
            found.append(calibrate(part, seen))
            after = latent_moments(part, seen)
            row = {"level": k, "calibration": {"before": found[-1]._asdict(), "after": after._asdict()}}
            log.write(json.dumps(row) + "\n")
    return tuple(found)


def set_scales(flow: Pyramid, data: _Data) -> None:
    """Typical size of each channel, from the unchanged training heads."""
    for k in range(len(flow.levels) + 1):
        sizes = []
        for part in data.each(k):
            inside = part.mask.double()
            values = part.values.double() - (1.0 if k == len(flow.levels) else 0.0)
            sizes.append((values.square() * inside).sum((0, 2, 3, 4)) / inside.sum((0, 2, 3, 4)).clamp_min(1))
        mean = sum(sizes) / len(sizes)
        level_flow(flow, k).input_sd.copy_(mean.sqrt().clamp_min(1e-3))  # type: ignore[union-attr]


def _measured(
    flow: Pyramid, data: _Data, order: Sequence[int], shares: np.ndarray, minutes: float, compute: Compute
) -> list[int]:
    """Steps that fit in the time, from a few trial steps of each level; the weights are put back."""
    counts = []
    for k, share in zip(order, shares, strict=True):
        part = level_flow(flow, k)
        before = {n: v.clone() for n, v in part.state_dict().items()}
        # The first steps warm caches up and do not count.
        fit_level(part, data.draw(k), (), steps=2, seed=(0, k), patch=_PATCH.get(k), compute=compute)
        began = time.monotonic()
        fit_level(part, data.draw(k), (), steps=_TRIAL_STEPS, seed=(0, k), patch=_PATCH.get(k), compute=compute)
        each = (time.monotonic() - began) / _TRIAL_STEPS
        part.load_state_dict(before)
        counts.append(max(20, int(0.9 * share * minutes * 60 / each)))
    return compute.team.agree(counts)


def _stage(flow: Pyramid, k: int) -> str:
    if k == len(flow.levels):
        return f"{flow.spec.finest_mm * 2**k:g} mm image"
    return f"{flow.spec.finest_mm * 2**k:g} mm details"
