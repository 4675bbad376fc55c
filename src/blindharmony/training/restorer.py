r"""The restorer is trained.

What the restorer learns from: cubes of target heads, and the same cubes through random scanners and curves.

Half of them lie on the template grid, half on the scan's own, where texture is sharper: it will work on both.

Train the restorer of a target: from the target's heads through random scanners back to the heads.

.. math:: \min_R\; \mathbb E\; \frac{\overline{(R(y) - x)^2}}{\overline{(y - x)^2} + \epsilon}

Relative errors: a slightly spoiled scan counts as much as a badly spoiled one, and :math:`\epsilon` keeps scans that
were hardly changed from asking for perfection.

The restorer of a target, and how much it changes scans that need none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.files import write_bytes
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.refine import refine
from blindharmony.models.restorer import Restorer, RestorerSpec
from blindharmony.models.target import Target
from blindharmony.preprocessing.grid import mask_box
from blindharmony.training.data import Head, Report
from blindharmony.training.pyramid import (
    Checkpoint,
    FitState,
    load_checkpoint,
    moments_of,
    put_moments,
    save_checkpoint,
)
from blindharmony.training.random_scanner import spoil

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

PATCH = 48
_RIM = 8  # what blur reaches; cut away afterwards
_RANKS = np.concatenate([[0.0005, 0.002, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.998, 0.9995]])
_SIDE = 4  # what the restorer's two halvings ask for


@dataclass(frozen=True, eq=False)
class Cubes:
    """Files of heads, on the template grid and on their own in turn, and how the target's curves may be off.

    Attributes:
        files: Image and mask of each head and grid.
        knots: Intensities of the target's ranks, flow units, shape ``(Q,)``.
        errors: What the person model got wrong about each head, there, shape ``(heads, Q)``.
    """

    files: tuple[Path, ...]
    knots: NDArray[np.float64]
    errors: NDArray[np.float64]

    def patch(self, rng: np.random.Generator) -> tuple[Image, Image, Mask, Image]:
        """A random cube: what another scanner saw, the truth, the mask, and 1 if on the scan's own grid.

        What was seen has the histogram of the truth, as after a person's curve, bent as the person model errs: by the
        error that it made about a random head, either way. Left and right may be swapped.
        """
        index = int(rng.integers(len(self.files)))
        size = PATCH + 2 * _RIM
        with safe_open(self.files[index], "np") as file:
            whole = file.get_slice("mask")
            for _ in range(50):
                low = [int(rng.integers(0, n - size + 1)) for n in whole.get_shape()]
                cut = tuple(slice(a, a + size) for a in low)
                if whole[cut].mean() > 0.4:
                    break
            truth, mask = file.get_slice("image")[cut].astype(np.float32), whole[cut].astype(bool)
        seen = _matched(spoil(truth, mask, rng), truth, mask)
        error = self.errors[int(rng.integers(len(self.errors)))] * rng.uniform(-1, 1)
        seen = np.where(mask, np.maximum(seen + np.interp(seen, self.knots, error), 0), 0).astype(np.float32)
        inner, turn = (slice(_RIM, -_RIM),) * 3, -1 if rng.random() < 0.5 else 1
        x, y, m = (np.ascontiguousarray(p[inner][::turn]) for p in (seen, truth, mask))
        return x, y, m, np.full((1, 1, 1), index % 2, np.float32)


def _matched(seen: Image, truth: Image, mask: Mask) -> Image:
    """A spoiled cube with the histogram of the truth: blur narrows peaks, noise widens them, a curve undoes both."""
    if np.array_equal(seen, truth):
        return seen
    return CurveMap.through(np.quantile(seen[mask], _RANKS), np.quantile(truth[mask], _RANKS))(seen)


def make_cubes(
    heads: Sequence[Head], target: Target, folder: Path, *, on_head: Callable[[int, int], None] | None = None
) -> Cubes:
    """Write the heads on both grids, where they are not written yet.

    Args:
        heads: Training heads.
        target: With its person model.
        folder: Where they are kept.
        on_head: Called with heads done and their number.
    """
    if target.person is None:
        raise ValueError("the restorer needs the target's person model")
    files = []
    for index, head in enumerate(heads):
        key = head.key
        for grid in ("template", "own"):
            files.append(folder / f"{key}-{grid}.safetensors")
            if not files[-1].exists():
                image, mask = _on(grid, head)
                write_bytes(files[-1], save({"image": image.astype(np.float16), "mask": mask}), overwrite=True)
        if on_head:
            on_head(index + 1, len(heads))
    return Cubes(tuple(files), target.mean_curve, target.person.left_out() - target.quantiles)


def _on(grid: str, head: Head) -> tuple[Image, Mask]:
    """The head on one of its grids, cut to the brain, sides multiples of four and no smaller than a cube."""
    pair: tuple[torch.Tensor, torch.Tensor] = (head.data.float(), head.mask) if grid == "own" else head.image()
    image, mask = pair[0].numpy(), pair[1].numpy()
    box, _ = mask_box(mask, margin=1)
    image, mask = np.where(mask, image, 0)[box].astype(np.float32), mask[box]
    pad = [(0, max(PATCH + 2 * _RIM, n + -n % _SIDE) - n) for n in mask.shape]
    return np.pad(image, pad), np.pad(mask, pad)


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


# A head takes 50 MB of disk; more heads than this teach a network of this size little.
_MOST_HEADS = 40


def with_restorer(
    target: Target,
    heads: Sequence[Head],
    held_out: Sequence[Head],
    *,
    minutes: float,
    steps: int | None,
    seed: int,
    plan: dict[str, Any],
    folder: Path,
    resume: bool,
    device: str,
    spec: RestorerSpec | None = None,
    report: Report,
) -> Target:
    """The target with a restorer trained on the same heads.

    Args:
        target: With its person model, whose rows are ``heads`` and then ``held_out``.
        heads: Training heads.
        held_out: Heads that only tell how much a scan of the target itself is changed.
        minutes: Time to spend, if ``steps`` is None.
        steps: Steps to take.
        seed: Of weights and draws.
        plan: To recognise an interrupted run.
        folder: For heads and the checkpoint.
        resume: Go on from the checkpoint.
        device: Where to train.
        spec: Its shape.
        report: Called with stage, share done and numbers.
    """
    spec = spec or RestorerSpec()
    cubes = make_cubes(heads[:_MOST_HEADS], target, folder, on_head=lambda i, n: report("cutting heads", i / n, {}))
    net = fit_restorer(
        cubes,
        spec,
        minutes=minutes,
        steps=steps,
        seed=seed,
        plan=plan,
        checkpoint=folder / "restorer.safetensors",
        resume=resume,
        device=device,
        on_step=lambda i, n, loss: report("restorer", i / n, {"step": float(i), "train": loss}),
    )
    taught = replace(target, restorer=net)
    held = target.info.held_out.model_copy(
        update={"restorer_change": tuple(_own_change(taught, h, len(heads) + i) for i, h in enumerate(held_out))}
    )
    return replace(taught, info=target.info.model_copy(update={"restorer": spec, "held_out": held}))


def _own_change(target: Target, head: Head, row: int) -> float:
    """The change made to a head of the target whose curve was told as well as the person model tells it."""
    if target.person is None:
        raise ValueError("the target has no person model")
    image, mask = (part.numpy() for part in head.image())
    curve = CurveMap.through(target.quantiles[row], np.maximum.accumulate(target.person.left_out()[row]))
    return refine(np.where(mask, curve(image), 0).astype(np.float32), mask, target, strength=1.0).change
