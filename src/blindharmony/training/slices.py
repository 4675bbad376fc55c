"""The flow of slices is trained, for the published method.

Axial slices in the grey scale of the slice flow, and what makes a run over them repeatable.

Learn how the slices of target scans look: the flow of the published method.

The slice flow of a target, which the published method needs.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from blindharmony.errors import UsageError
from blindharmony.files import write_bytes
from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec, small_2d
from blindharmony.flows.latent import dequantise
from blindharmony.harmonization.published import CEILING, LEAST_BRAIN
from blindharmony.models.target import Target
from blindharmony.training.data import Head, Report


class SliceData:
    r"""All slices of a group of scans that show enough brain, without copying the scans.

    .. math:: s = \operatorname{clip}(x / c, 0, 1) \text{ inside the mask, } 0 \text{ outside}

    One ceiling :math:`c` serves every slice of every scan. The published method stretches each slice from its
    own minimum to its own maximum; then one bright vessel changes the brightness of a whole slice, and
    neighbouring slices differ. This is a named deviation.

    Source: Jeong et al. 2023 (BlindHarmony), section 4, for the use of axial slices.

    Args:
        volumes: Scans on the template grid in flow units, each of shape ``(X, Y, Z)``, axial slices along Z.
        masks: Their brain masks.
        ceiling: The flow intensity :math:`c` that becomes 1.

    Raises:
        ValueError: If there are not as many masks as volumes, shapes differ, the ceiling is not positive, or
            no slice shows enough brain.

    Example:
        >>> head, mask = np.full((8, 8, 5), 1.5, np.float32), np.zeros((8, 8, 5), bool)
        >>> mask[2:6, 2:6, 1:4] = True
        >>> slices = SliceData([head], [mask])
        >>> len(slices), slices.batch([0, 2]).shape, float(slices.batch([0]).amax())
        (3, torch.Size([2, 1, 8, 8]), 0.75)
    """

    def __init__(
        self,
        volumes: Sequence[NDArray[np.float32]],
        masks: Sequence[NDArray[np.bool_]],
        ceiling: float = CEILING,
    ) -> None:
        shapes = {array.shape for array in (*volumes, *masks)}
        if len(volumes) != len(masks) or len(shapes) > 1:
            got = f"{len(volumes)} volumes, {len(masks)} masks, shapes {sorted(shapes)}"
            raise ValueError(f"expected one mask for each volume and one shape, got {got}")
        if not ceiling > 0:
            raise ValueError(f"the ceiling must be positive, got {ceiling}")
        self.ceiling = ceiling
        self._volumes, self._masks = list(volumes), list(masks)
        self._index = [
            (scan, int(z))
            for scan, mask in enumerate(masks)
            for z in np.flatnonzero(mask.mean(axis=(0, 1)) >= LEAST_BRAIN)
        ]
        if not self._index:
            raise ValueError(f"no slice is at least {LEAST_BRAIN:.0%} brain; check the masks")

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self._index)

    def batch(self, which: Sequence[int]) -> Tensor:
        """Return the slices with these numbers, shape ``(B, 1, X, Y)``, in [0, 1]."""
        slices = []
        for number in which:
            scan, z = self._index[number]
            inside = self._masks[scan][:, :, z]
            slices.append(np.where(inside, self._volumes[scan][:, :, z] / self.ceiling, 0.0))
        return torch.from_numpy(np.stack(slices)[:, None].astype(np.float32)).clamp(0, 1)

    def spread(self, count: int) -> list[int]:
        """Return at most ``count`` slice numbers, evenly spread over all scans and heights."""
        return [int(n) for n in np.linspace(0, len(self) - 1, min(count, len(self)))]


@contextmanager
def randomness(seed: int, step: int) -> Iterator[np.random.Generator]:
    """Make everything random in a block follow from two numbers, so that a resumed training repeats it.

    Afterwards torch's own random state is as it was before.

    Example:
        >>> draws = []
        >>> for _ in range(2):
        ...     with randomness(7, 3) as rng:
        ...         draws.append((torch.rand(1).item(), rng.random()))
        >>> draws[0] == draws[1]
        True
    """
    rng = np.random.default_rng([seed, step])
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**62)))
        yield rng


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event to look at between two steps.

    Inside a step it could leave half of the weights updated. Outside the main thread, which alone receives
    interrupts, the event never happens.

    Example:
        >>> with deferred_interrupt() as asked:
        ...     signal.raise_signal(signal.SIGINT)
        >>> asked.is_set()
        True
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


Volumes: TypeAlias = Sequence[NDArray[np.float32]]
Masks: TypeAlias = Sequence[NDArray[np.bool_]]

PUBLISHED_STEPS = 10_000
LEARNING_RATE = 5e-4
GREY_LEVELS = 4096
# A usual gradient has norm 1 to 5; one far beyond would spoil Adam's moments.
_CLIP = 20.0
_JUDGES = 48
_AFRESH = "delete it to start afresh"


class Point(NamedTuple):
    """Bits a value after so many steps, of recent training slices and of validation slices."""

    step: int
    train: float
    validation: float | None = None


def train_slice_flow(
    volumes: Volumes,
    masks: Masks,
    spec: MultiScaleSpec,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    batch: int = 8,
    seed: int = 0,
    ceiling: float = CEILING,
    validation: tuple[Volumes, Masks] | None = None,
    every: int = 100,
    checkpoint: Path | None = None,
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[MultiScaleFlow, list[Point]]:
    r"""Train a flow on single axial slices by maximum likelihood, from target scans only.

    .. math:: \min_\theta\; -\frac{\log_2 p_\theta(\tilde x)}{D} + \log_2 n

    with :math:`\tilde x` a slice spread over its n grey levels; Adam at 5e-4, falling to zero along a cosine.
    With ``steps``, the same seed, device and number of threads give the same bytes, also after an interrupt,
    which is obeyed between two steps. Updates whose gradient is not finite are skipped.

    Source: Jeong et al. 2023 (BlindHarmony), section 4: 10,000 steps (``PUBLISHED_STEPS``) of 256 slices.
    Named deviations: clipped gradients, the slices' grey scale.

    Args:
        volumes: Scans on the template grid in flow units, each ``(X, Y, Z)``, float32.
        masks: Their brain masks.
        spec: The flow; without grey levels it gets 4096 (12 bits).
        minutes: Most time.
        steps: Most steps; the published number if there is no limit.
        batch: Slices a step.
        seed: Of weights, slices and noise.
        ceiling: Flow intensity that becomes 1.0; harmonization must use the same.
        validation: Scans that never train; if given, the weights that suit them best are kept.
        every: Steps between two judgements, each followed by a checkpoint.
        checkpoint: File of the state; continued if it exists.
        device: Where to compute.
        progress: Called after each step with the fraction done.
        log: Called with a line a judgement.

    Returns:
        The flow in evaluation mode, and its learning curve.

    Raises:
        ValueError: If the scans do not suit :class:`~.slice_data.SliceData` or the flow, or a limit is not
            positive.
        UsageError: If the checkpoint is damaged or belongs to another training.
        KeyboardInterrupt: Once the checkpoint is written.

    Example:
        >>> head, mask = np.ones((8, 8, 4), np.float32), np.ones((8, 8, 4), bool)
        >>> spec = MultiScaleSpec(levels=1, steps=1, width=4, coupling="affine")
        >>> flow, curve = train_slice_flow([head], [mask], spec, steps=2)
        >>> curve[-1].step
        2
    """
    steps = PUBLISHED_STEPS if steps is None and minutes is None else steps
    if any(limit is not None and not limit > 0 for limit in (steps, minutes)):
        raise ValueError(f"limits must be positive, got {steps} steps and {minutes} minutes")
    data = SliceData(volumes, masks, ceiling)
    judges = None if validation is None else SliceData(*validation, ceiling)
    if spec.grey_levels == 1:
        spec = spec.model_copy(update={"grey_levels": GREY_LEVELS})
    run = _Run(spec, data, seed, device)
    about = {"spec": spec.model_dump(), "steps": steps, "minutes": minutes, "batch": batch, "seed": seed}
    about |= {"ceiling": ceiling, "every": every, "slices": len(data)}
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, about)
    before, started = run.seconds, time.monotonic()

    def done() -> float:
        return max(run.step / steps if steps else 0.0, run.seconds / (60 * minutes) if minutes else 0.0)

    with deferred_interrupt() as interrupted:
        while (fraction := done()) < 1:
            run.learn(data, batch, seed, LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * fraction)))
            run.seconds = before + time.monotonic() - started
            if pause := run.step % every == 0 or done() >= 1:
                point = run.judge(judges, seed)
                if log is not None:
                    log("step {}: bits a value {:.4f}, validation {}".format(*point))
            # Asked once: what arrives later is obeyed after the next step.
            stop = interrupted.is_set()
            if checkpoint is not None and (pause or stop):
                run.save(checkpoint, about)
            if progress is not None:
                progress(min(done(), 1.0))
            if stop:
                break
        if interrupted.is_set():
            raise KeyboardInterrupt
    if run.best:
        run.flow.load_state_dict(run.best)
    return run.flow.eval().requires_grad_(False), run.curve


class _Run:
    def __init__(self, spec: MultiScaleSpec, data: SliceData, seed: int, device: str) -> None:
        self.step, self.seconds, self.recent = 0, 0.0, math.nan
        self.best, self.curve = dict[str, Tensor](), list[Point]()
        with randomness(seed, 0):
            self.flow = MultiScaleFlow(spec).to(device)
            self.flow.initialise(self._slices(data, data.spread(16)))
        self.adam = torch.optim.Adam(self.flow.parameters(), LEARNING_RATE)

    def _slices(self, data: SliceData, which: Sequence[int]) -> Tensor:
        weight = next(self.flow.parameters())
        return dequantise(data.batch(which), self.flow.spec.grey_levels).to(weight.device)

    def learn(self, data: SliceData, batch: int, seed: int, rate: float) -> None:
        self.step += 1
        with randomness(seed, self.step) as rng:
            x = self._slices(data, rng.integers(len(data), size=batch).tolist())
            bits = self.flow.train().bits_per_dim(x).mean()
            self.adam.zero_grad()
            bits.backward()  # type: ignore[no-untyped-call]
        self.adam.param_groups[0]["lr"] = rate
        if bool(torch.nn.utils.clip_grad_norm_(self.flow.parameters(), _CLIP).isfinite()):
            self.adam.step()
            self.recent = bits.item() if math.isnan(self.recent) else 0.95 * self.recent + 0.05 * bits.item()

    @torch.no_grad()
    def judge(self, data: SliceData | None, seed: int) -> Point:
        bits = None
        if data is not None:
            which = data.spread(_JUDGES)
            with randomness(seed, 0):
                parts = [self._slices(data, which[i : i + 8]) for i in range(0, len(which), 8)]
            bits = torch.cat([self.flow.eval().bits_per_dim(part) for part in parts]).mean().item()
            if bits < min((p.validation for p in self.curve if p.validation is not None), default=math.inf):
                self.best = {name: value.clone() for name, value in self.flow.state_dict().items()}
        self.curve.append(Point(self.step, self.recent, bits))
        return self.curve[-1]

    def save(self, path: Path, about: dict[str, Any]) -> None:
        tensors = {f"flow.{k}": v for k, v in self.flow.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for number, weight in enumerate(self.flow.parameters()):
            tensors |= {f"adam.{number}.{k}": v for k, v in self.adam.state[weight].items()}
        state = [self.step, self.seconds, self.recent, self.curve]
        text = {"about": json.dumps(about), "state": json.dumps(state)}
        content = save_tensors({k: v.cpu().contiguous() for k, v in tensors.items()}, text)
        write_bytes(path, content, overwrite=True)

    def load(self, path: Path, about: dict[str, Any]) -> None:
        try:
            with safe_open(path, "pt") as file:
                text = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            same = json.loads(text["about"]) == json.loads(json.dumps(about))
            self.step, self.seconds, self.recent, curve = json.loads(text["state"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise UsageError(f"damaged checkpoint ({error})", remedy=_AFRESH, path=path) from None
        if not same:
            raise UsageError("this checkpoint belongs to another training", remedy=_AFRESH, path=path)
        self.curve = [Point(*point) for point in curve]
        self.flow.load_state_dict(_part(tensors, "flow."))
        self.best = _part(tensors, "best.")
        for number, weight in enumerate(self.flow.parameters()):
            # Adam counts its steps on the CPU.
            for name, value in _part(tensors, f"adam.{number}.").items():
                self.adam.state[weight][name] = value if name == "step" else value.to(weight.device)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


# A whole 1 mm head takes 25 MB; forty of them hold more slices than a flow of this size can learn by heart.
_MOST_HEADS = 40


def with_slice_flow(
    target: Target,
    heads: Sequence[Head],
    held_out: Sequence[Head],
    *,
    minutes: float | None,
    steps: int | None,
    seed: int,
    device: str,
    checkpoint: Path | None = None,
    spec: MultiScaleSpec | None = None,
    report: Report,
) -> Target:
    """The target with a slice flow trained on the same heads.

    Args:
        target: Without, or with an older slice flow.
        heads: Training heads.
        held_out: Heads that choose the best weights and are reported.
        minutes: Time to spend, if ``steps`` is None.
        steps: Steps to take.
        seed: Of weights, slices and noise.
        device: Where to train.
        checkpoint: Where an interrupted training goes on.
        spec: Its shape; the small one, which suits two cores, if None.
        report: Called with stage, share done and numbers.
    """
    images = [h.image() for h in heads[:_MOST_HEADS]]
    unseen = [h.image() for h in held_out]
    flow, curve = train_slice_flow(
        [x.numpy() for x, _ in images],
        [m.numpy() for _, m in images],
        spec or small_2d(),
        minutes=None if steps else minutes,
        steps=steps,
        seed=seed,
        validation=([x.numpy() for x, _ in unseen], [m.numpy() for _, m in unseen]),
        checkpoint=checkpoint,
        device=device,
        progress=lambda share: report("slice flow", share, {}),
    )
    judged = [p.validation for p in curve if p.validation is not None]
    held = target.info.held_out.model_copy(update={"slice_bits": min(judged) if judged else None})
    info = target.info.model_copy(update={"slices": flow.spec, "held_out": held})
    return replace(target, info=info, slices=flow.to("cpu"))
