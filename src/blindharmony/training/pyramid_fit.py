"""Train a pyramid level by level, coarsest first, in a given time or a given number of steps."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.errors import UsageError
from blindharmony.flow.haar import HaarLevel
from blindharmony.flow.level import LevelFlow
from blindharmony.flow.pyramid import Pyramid
from blindharmony.training.calibration import Calibration, calibrate, latent_moments
from blindharmony.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from blindharmony.training.fit import FitState, LevelData, fit_level, level_data
from blindharmony.training.pool import Pool
from blindharmony.training.progress import Report
from blindharmony.training.team import Compute

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
