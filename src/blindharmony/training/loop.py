r"""The loop that trains every network: bounded by steps or time, interruptible, resumed to the same bytes.

.. math::
    \eta_t = \min\Bigl(1, \frac{t + 1}{t_0}\Bigr)
             \Bigl(\eta_\text{low} + (\eta - \eta_\text{low})\,\frac{1 + \cos \pi s_t}{2}\Bigr), \qquad
    \bar w_{t+1} = \bar w_t + (1 - k_t)(w_{t+1} - \bar w_t), \quad k_t = \min\Bigl(k, \frac{t + 1}{t + 10}\Bigr)

:math:`s_t` is the share of the budget that is used, :math:`t_0` the steps of warm-up. AdamW takes the steps; gradients
are clipped, and an update whose gradient is not finite is skipped. Weights (their running mean :math:`\bar w`, where
one is kept) are judged on held-out data from time to time, and the best ones stay; the last ones where nothing is
held out.

Everything random in a step follows from the seed and the step's number, so that a training that was interrupted goes
on as if it had not been. Where it stands is one file, replaced in one piece: weights, their mean, the best ones, the
moments of Adam, what the task remembers, the curve, and the plan that tells this training from others.

Several processes can share the patches of a step, and add up their gradients,

.. math:: g = \frac1B \sum_{j=0}^{B-1} g_j, \qquad g_j \text{ computed by process } j \bmod W

Patch j is the same whoever computes it, so W processes do what one does with the same batch B, up to rounding.

Source: AdamW and cosine, Loshchilov & Hutter 2019 and 2017 (arXiv 1711.05101, 1608.03983); averaging, Polyak &
Juditsky 1992.
"""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from blindharmony.device import resolved_device
from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.files import write_bytes
from blindharmony.settings import OptimizerSettings, TrainSettings

#: Seconds between two checkpoints: what a power cut may cost.
SAVE_EVERY_S = 20.0
# The first steps warm caches up and do not count.
_WARM_STEPS = 2
_TRIAL_STEPS = 4
# Later steps may be slower than the trial's, and looks at held-out data take time too.
_USABLE = 0.9
_LEAST_STEPS = 20
# Updates in a row without a finite gradient: the weights are beyond repair.
_DIVERGED = 100

# How long the others wait for the first process, which goes on alone after the flow is learnt.
_PATIENCE = timedelta(days=7)

T = TypeVar("T")
Row = dict[str, float]
Tensors = dict[str, Tensor]


class Task(ABC):
    """What is trained: networks, the losses of a step, and a score on what nothing is learnt from.

    Attributes:
        networks: All weights, trained in place.
        seed: Everything random in step ``i`` follows from ``(*seed, i)``.
    """

    networks: nn.Module
    seed: tuple[int, ...] = (0,)

    @abstractmethod
    def step(self, number: int, update: Update) -> Row:
        """Compute the losses of a step, hand them to ``update``, and return them for the log, ``train`` first."""

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each optimizer by its name; one for all, unless networks play against each other."""
        return {"all": list(self.networks.parameters())}

    def score(self) -> float | None:
        """A loss on held-out data, lower is better; None if nothing is held out."""
        return None

    def memory(self) -> Tensors:
        """What a step depends on besides weights, seed and number."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take up such a memory."""
        if memory:
            raise ValueError("nothing is remembered here")

    def generator(self, number: int) -> np.random.Generator:
        """Where everything random in a step comes from."""
        return np.random.default_rng((*self.seed, number))


@dataclass(frozen=True)
class Budget:
    """How long to train: ``steps``, or ``minutes``.

    Attributes:
        steps: Steps; equal seeds then give equal bytes.
        minutes: Time, if there are no steps. A short trial turns it into steps, which a checkpoint keeps: a resumed
            training ends where it would have ended.
        by_clock: Whether the clock is watched in place of the trial, for steps that take very different times.

    Raises:
        UsageError: If neither is given, or one makes no sense.

    Example:
        >>> Budget(steps=8).share(2, seconds=0.0), Budget(minutes=2.0, by_clock=True).share(5, seconds=30.0)
        (0.25, 0.25)
    """

    steps: int | None = None
    minutes: float | None = None
    by_clock: bool = False

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise UsageError("a training needs a number of steps or a time", remedy="give one of them")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps is {self.steps}", remedy="give a number of steps above zero")
        if self.minutes is not None and not 0 <= self.minutes < math.inf:
            raise UsageError(f"minutes is {self.minutes}", remedy="give a time in minutes")

    def share(self, step: int, seconds: float) -> float:
        """How much of it is used after so many steps and seconds."""
        if self.steps is not None:
            return step / self.steps
        return min(1.0, seconds / (60 * self.minutes)) if self.minutes else 1.0


@dataclass
class Progress:
    """Where a training stands between two steps.

    Attributes:
        steps: All steps there will be; None if the clock decides.
        step: Steps done.
        seconds: Spent on them, all sittings together.
        best: Lowest held-out score so far.
        rows: The learning curve: step, seconds, mean losses since the row before, held-out score.
        sums: Sums of the losses since the last row.
        counted: How many steps they are the sums of.
    """

    steps: int | None = None
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    rows: list[Row] = field(default_factory=list)
    sums: Row = field(default_factory=dict)
    counted: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The file of an unfinished training.

    Attributes:
        path: The file; a training that finds it goes on from there.
        plan: What is learnt from what, with which settings; JSON values. Another plan is another training.
    """

    path: Path
    plan: Mapping[str, Any]

    def write(self, parts: Mapping[str, Mapping[str, Tensor]], progress: Progress) -> None:
        """Replace the file in one piece."""
        write_tensors(self.path, parts, {"plan": self.plan, "progress": asdict(progress)})

    def read(self) -> tuple[dict[str, Tensors], Progress]:
        """Tensors by part, and where the training stood.

        Raises:
            UsageError: If the file is damaged, or belongs to a training with another plan.
        """
        try:
            parts, about = read_tensors(self.path)
            plan, progress = about["plan"], Progress(**about["progress"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise _damaged(self.path, error) from None
        differing = [k for k, v in json.loads(json.dumps(self.plan)).items() if plan.get(k) != v]
        if differing:
            raise UsageError(
                f"the interrupted run had another {', '.join(differing)}",
                remedy="resume with the same inputs and options, or start again without --resume",
                path=self.path,
            )
        return parts, progress


def write_tensors(path: Path, parts: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, Any]) -> None:
    """Write named groups of tensors, and JSON values about them, as one safetensors file."""
    tensors = {f"{p}/{k}": v.detach().cpu().contiguous() for p, group in parts.items() for k, v in group.items()}
    write_bytes(path, save(tensors, {"about": json.dumps(about, sort_keys=True)}), overwrite=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        OSError, SafetensorError, KeyError, ValueError, TypeError: If the file is missing or damaged.
    """
    parts: dict[str, Tensors] = {}
    with safe_open(path, "pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["about"])
        for key in file.keys():  # noqa: SIM118 - not a dict
            part, name = key.split("/", 1)
            parts.setdefault(part, {})[name] = file.get_tensor(key)
    return parts, about


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"this checkpoint is damaged ({error})", remedy="start again without --resume", path=path)


class ProcessGroup:
    """The processes that train together; a process on its own is a group of one.

    Attributes:
        rank: Which of them this is; the first one, 0, alone writes files.
        size: How many there are.

    Example:
        >>> alone = ProcessGroup()
        >>> alone.first, list(alone.share(3)), alone.agree([4, 5])
        (True, [0, 1, 2], [4, 5])
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, device

    @classmethod
    def from_environment(cls, device: str = "cpu") -> ProcessGroup:
        """The group that ``torchrun`` has started, each process with its own GPU if there are any.

        Raises:
            UsageError: If the processes cannot find each other.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=device)
        rank = int(os.environ["RANK"])
        if device.startswith("cuda"):
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            torch.cuda.set_device(device)
        try:
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"the {size} processes cannot find each other ({error})", remedy="start them with torchrun"
            ) from error
        return cls(rank, size, device)

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, count: int) -> Iterable[int]:
        """This process's part of ``count`` pieces of work."""
        return range(self.rank, count, self.size)

    def after_first(self, work: Callable[[], T]) -> T:
        """What the first process does, and the others repeat once its files are there."""
        if not self.first:
            self.wait()
        result = work()
        if self.first:
            self.wait()
        return result

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes the sum over the group."""
        if self.size > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def total(self, value: float) -> float:
        """The sum of a number over the group."""
        if self.size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(number)
        return number.item()

    def any(self, *, value: bool) -> bool:
        """Whether it is true in any process."""
        return self.total(float(value)) > 0

    def agree(self, values: Sequence[int]) -> list[int]:
        """The first process's numbers."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, device=self.device)
        dist.broadcast(numbers, 0)
        return [int(v) for v in numbers.tolist()]

    def same_weights(self, module: nn.Module) -> None:
        """Every process takes the first one's weights."""
        if self.size > 1:
            with torch.no_grad():
                for value in module.state_dict().values():
                    dist.broadcast(value, 0)

    def leave(self) -> None:
        """The work is done: all come here, then the group's threads end before the interpreter does.

        Left to the interpreter's end, a thread that is still running there aborts the process.
        """
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()
            gc.collect()


@dataclass(frozen=True)
class Compute:
    """Where and how a flow trains.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        batch: Patches a step; a multiple of the group's size.
        mixed: Whether convolutions compute in bfloat16; couplings and log-dets never do.
        group: The processes that share the patches of each step.

    Raises:
        UsageError: If the batch cannot be shared evenly.

    Example:
        >>> Compute().device
        'cpu'
    """

    device: str = "cpu"
    batch: int = 1
    mixed: bool = False
    group: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.group.size:
            raise UsageError(
                f"a batch of {self.batch} cannot be shared by {self.group.size} processes",
                remedy="give a batch that is a multiple of their number",
            )

    @classmethod
    def of(cls, settings: TrainSettings, device: str) -> Compute:
        """As the settings want it, on a device (``auto`` for a GPU if there is one), for all processes of torchrun.

        Raises:
            UsageError: If there is no such device, or the processes cannot find each other.
        """
        group = ProcessGroup.from_environment(resolved_device(device))
        mixed = settings.precision == "mixed" or (settings.precision == "auto" and group.device.startswith("cuda"))
        return cls(group.device, settings.batch or group.size, mixed, group)

    def precision(self) -> torch.autocast:
        """The context in which a loss is computed."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.mixed)


class Update:
    """AdamW for the parameters of a task, and one step of it.

    Args:
        task: What is trained.
        settings: Rates, clipping, decay.
        compute: Which processes share the work.
    """

    def __init__(self, task: Task, settings: OptimizerSettings, compute: Compute) -> None:
        self._settings, self._group, self._skipped = settings, compute.group, 0
        self.optimizers = {
            name: torch.optim.AdamW(
                parameters, lr=settings.rate, betas=settings.betas, weight_decay=settings.weight_decay
            )
            for name, parameters in task.parameters().items()
        }
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in task.networks.named_parameters()}

    def descend(self, losses: Iterable[Tensor], optimizer: str = "all") -> float:
        """Take a step down the sum of the losses, and return that sum over all processes.

        Every loss is taken back through its network before the next one is asked for, so that a generator of losses
        needs the memory of one.

        Raises:
            BlindHarmonyError: If no gradient was finite for a long time.
        """
        adam = self.optimizers[optimizer]
        parameters = adam.param_groups[0]["params"]
        adam.zero_grad()
        total = 0.0
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        self._group.add_gradients(parameters)
        if bool(nn.utils.clip_grad_norm_(parameters, self._settings.clip or math.inf).isfinite()):
            adam.step()
            self._skipped = 0
        else:
            self._skipped += 1
        if self._skipped >= _DIVERGED:
            raise BlindHarmonyError(
                f"the training has diverged: {_DIVERGED} gradients in a row were not finite",
                remedy="check that all scans are of one contrast, or give a lower learning rate",
            )
        return self._group.total(total)

    def set_rate(self, step: int, share: float) -> None:
        """The learning rate of a step, when that share of the budget is used."""
        s = self._settings
        warm = (step + 1) / s.warmup_steps
        if s.warmup_share:
            warm = max(warm, share / s.warmup_share)
        cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        for adam in self.optimizers.values():
            adam.param_groups[0]["lr"] = min(1.0, warm) * (s.lowest_rate + (s.rate - s.lowest_rate) * cosine)

    def moments(self) -> Tensors:
        """Adam's running moments, named by parameter and moment."""
        states = [(p, state) for adam in self.optimizers.values() for p, state in adam.state.items()]
        return {f"{self._names[p]}|{key}": value for p, state in states for key, value in state.items()}

    def put_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Go on with the moments of a checkpoint; without any, begin anew."""
        for adam in self.optimizers.values():
            adam.state.clear()
            for parameter in adam.param_groups[0]["params"]:
                prefix = f"{self._names[parameter]}|"
                state = {k.removeprefix(prefix): v for k, v in moments.items() if k.startswith(prefix)}
                if state:
                    # Adam counts its steps on the CPU.
                    adam.state[parameter] = {k: v if k == "step" else v.to(parameter) for k, v in state.items()}


def fit(
    task: Task,
    settings: OptimizerSettings,
    budget: Budget,
    *,
    checkpoint: Checkpoint | None = None,
    compute: Compute | None = None,
    on_step: Callable[[float, Row], None] | None = None,
    on_look: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train, or go on training; the networks have the chosen weights afterwards and are in evaluation mode.

    Args:
        task: What is trained.
        settings: Rates, clipping, averaging, how often held-out data are looked at.
        budget: How long.
        checkpoint: Where the training is kept while it runs; gone on with, if the file exists. It is written every 20
            seconds, at the end, after Ctrl-C (which is obeyed between two steps), and if ``on_step`` raises.
        compute: Device, and which processes share the work; the first one judges and writes.
        on_step: Called after each step with the share of the budget that is used, and the numbers of the step:
            ``step``, its losses, and ``held_out`` after a look at held-out data.
        on_look: Called after each look at held-out data.

    Returns:
        Steps, time, best score and learning curve.

    Raises:
        UsageError: If the checkpoint is damaged, or of another training.
        KeyboardInterrupt: After Ctrl-C, once the checkpoint is written.
    """
    compute = compute or Compute()
    task.networks.to(compute.device)
    with _own_randomness(compute.device), deferred_interrupt() as interrupted:
        run = _Run(task, settings, budget, checkpoint, compute)
        while not run.finished:
            numbers = run.advance()
            if run.look_is_due() and compute.group.first:
                numbers |= run.look()
                if on_look:
                    on_look(run.progress)
            try:
                if on_step:
                    on_step(min(run.share, 1.0), numbers)
                if compute.group.any(value=interrupted.is_set()):
                    raise KeyboardInterrupt
            except BaseException:
                run.save()
                raise
            if run.finished or time.monotonic() - run.saved > SAVE_EVERY_S:
                run.save()
    run.take_best()
    return run.progress


class _Run:
    """One call of :func:`fit`."""

    def __init__(
        self,
        task: Task,
        settings: OptimizerSettings,
        budget: Budget,
        checkpoint: Checkpoint | None,
        compute: Compute,
    ) -> None:
        self.task, self.settings, self.checkpoint, self.compute = task, settings, checkpoint, compute
        self.update = Update(task, settings, compute)
        self.progress, self.best = Progress(budget.steps), Tensors()
        self.mean = _copied(task.networks) if settings.average else Tensors()
        if checkpoint and checkpoint.path.exists():
            self._restore(checkpoint, budget)
        elif budget.steps is None and not budget.by_clock:
            self.progress.steps = self._steps_within(budget.minutes or 0.0)
        self.budget = Budget(self.progress.steps, budget.minutes, budget.by_clock)
        self._before, self._began = self.progress.seconds, time.monotonic()
        self._last_share = self.share
        self.saved = self._began

    @property
    def share(self) -> float:
        """Of the budget that is used."""
        return self.budget.share(self.progress.step, self.progress.seconds)

    @property
    def finished(self) -> bool:
        return self.progress.step > 0 and self.share >= 1

    def advance(self) -> Row:
        """One step; its numbers."""
        progress, networks = self.progress, self.task.networks
        self._last_share = self.share
        losses = self._step(progress.step, self.share)
        progress.step += 1
        if self.mean:
            _average(self.mean, networks.state_dict(), min(self.settings.average, progress.step / (progress.step + 9)))
        progress.seconds = self._before + time.monotonic() - self._began
        finite = all(map(math.isfinite, losses.values()))
        progress.sums = {k: progress.sums.get(k, 0.0) + (v if finite else 0.0) for k, v in losses.items()}
        progress.counted += finite
        return {"step": float(progress.step), **losses}

    def _step(self, number: int, share: float) -> Row:
        self.update.set_rate(number, share)
        self.task.networks.train()
        return self.task.step(number, self.update)

    def look_is_due(self) -> bool:
        if self.share >= 1:
            return True
        looks, every, steps = self.settings.looks, self.settings.look_every, self.progress.steps
        if every is None and steps is None:
            return int(self.share * looks) > int(self._last_share * looks)
        return self.progress.step % (every or max(1, (steps or 1) // max(1, looks))) == 0 and bool(every or looks)

    @torch.no_grad()
    def look(self) -> Row:
        """Judge the weights on held-out data, keep them if they are the best, add a row to the curve."""
        networks, progress = self.task.networks, self.progress
        weights = self.mean or networks.state_dict()
        latest = _copied(networks) if self.mean else None
        networks.load_state_dict(weights)
        networks.eval()
        score = self.task.score()
        if score is None or score <= progress.best:
            self.best = {k: v.detach().clone() for k, v in weights.items()}
            progress.best = progress.best if score is None else score
        if latest:
            networks.load_state_dict(latest)
        row: Row = {"step": float(progress.step), "seconds": round(progress.seconds, 2)}
        row |= {k: v / progress.counted if progress.counted else math.nan for k, v in progress.sums.items()}
        judged = {} if score is None else {"held_out": score}
        progress.rows.append(row | judged)
        progress.sums, progress.counted = {}, 0
        return judged

    def save(self) -> None:
        """Write the checkpoint, if there is one and this is the process that writes."""
        if self.checkpoint and self.compute.group.first:
            parts = {"now": self.task.networks.state_dict(), "mean": self.mean, "best": self.best}
            parts |= {"moments": self.update.moments(), "memory": self.task.memory()}
            self.checkpoint.write(parts, self.progress)
        self.saved = time.monotonic()

    def take_best(self) -> None:
        """The best weights become the networks', on every process."""
        if self.best or self.mean:
            self.task.networks.load_state_dict(self.best or self.mean)
        self.compute.group.same_weights(self.task.networks)
        self.task.networks.eval()

    def _restore(self, checkpoint: Checkpoint, budget: Budget) -> None:
        parts, self.progress = checkpoint.read()
        done = self.progress.steps
        if budget.steps is not None and done != budget.steps:
            raise UsageError(
                f"the interrupted run had {done} steps, not {budget.steps}",
                remedy="resume with the same number of steps, or start again without --resume",
                path=checkpoint.path,
            )
        device = self.compute.device
        try:
            self.task.networks.load_state_dict(parts["now"])
            self.update.put_moments(parts.get("moments", {}))
            self.task.recall(parts.get("memory", {}))
        except (RuntimeError, KeyError, ValueError) as error:
            raise _damaged(checkpoint.path, error) from None
        self.mean, self.best = ({k: v.to(device) for k, v in parts.get(p, {}).items()} for p in ("mean", "best"))

    def _steps_within(self, minutes: float) -> int:
        """Steps that fit in the time, from a few trial steps; weights and memory are put back."""
        weights, memory = _copied(self.task.networks), self.task.memory()
        for number in range(_WARM_STEPS):
            self._step(number, 0.0)
        began = time.monotonic()
        for number in range(_TRIAL_STEPS):
            self._step(number, 0.0)
        each = (time.monotonic() - began) / _TRIAL_STEPS
        self.task.networks.load_state_dict(weights)
        self.task.recall(memory)
        self.update.put_moments({})
        return self.compute.group.agree([max(_LEAST_STEPS, int(_USABLE * minutes * 60 / each))])[0]


def _copied(module: nn.Module) -> Tensors:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _average(mean: Tensors, weights: Mapping[str, Tensor], keep: float) -> None:
    for name, value in weights.items():
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - keep)
        else:
            mean[name].copy_(value)


@contextmanager
def _own_randomness(device: str) -> Iterator[None]:
    """Steps may seed torch; afterwards its random state is as it was before."""
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        yield


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event to look at between two steps; a second one stops at once.

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
    before = signal.getsignal(signal.SIGINT)

    def note(_number: int, _frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
