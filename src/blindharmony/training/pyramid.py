r"""The default flow is trained level by level, coarsest first, and made right about scans that it never saw.

Each level learns by maximum likelihood, :math:`\min_\theta -\frac1n \log p_\theta(d \mid c)`, from details
:math:`d` given what is coarser, :math:`c`. Held-out scans choose the weights. Then they calibrate them, with two
corrections that the training scans cannot give. The first is a gain :math:`s` in front of the flow,

.. math:: p'(d \mid c) = s^{n}\, p(s\,d \mid s\,c), \qquad
          \log s = \bar g \max\Bigl(0,\; 1 - \frac{e^2}{\bar g^2}\Bigr), \qquad
          g_i = \arg\max_g \log p(e^g d_i \mid e^g c_i) + n g,

:math:`\bar g` the mean over held-out scans and :math:`e` its standard error (the shrinkage of James and Stein), which
makes held-out scans most probable as they are, as far as they agree. The second is a shift and a scale of every latent
channel. Both are absorbed in what a level has anyway.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blindharmony.files import write_text
from blindharmony.flows.bijection import Condition
from blindharmony.flows.pyramid import LevelFlow, Pyramid, optimum
from blindharmony.flows.transforms import HaarLevel
from blindharmony.settings import FlowFitSettings
from blindharmony.training.data import ImagePool, Report
from blindharmony.training.loop import Budget, Checkpoint, Compute, Progress, Row, Task, Update, fit


class LevelData(NamedTuple):
    """What one level is trained on.

    Attributes:
        values: Details, or the coarsest image, shape ``(1, C, X, Y, Z)``.
        context: What they may depend on: the coarser image in channel 0, and the place in the head.
        mask: Where the values exist, shape of ``values``.
    """

    values: Tensor
    context: Tensor
    mask: Tensor

    def to(self, device: str) -> LevelData:
        """The same on another device."""
        return LevelData(*(t.to(device) for t in self))

    def patch(self, size: int | None, rng: np.random.Generator, *, least_brain: float = 0.2) -> LevelData:
        """A random cube of ``size`` places with that share of brain, or everything if ``size`` is None."""
        if size is None or max(self.values.shape[2:]) <= size:
            return self
        while True:
            low = [int(rng.integers(0, max(1, n - size + 1))) for n in self.values.shape[2:]]
            cut = (slice(None), slice(None), *[slice(a, a + size) for a in low])
            if self.mask[cut].float().mean() > least_brain:
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
    z, logdet = flow.to_latent(data.values, Condition(data.context, data.mask))
    energy = 0.5 * (z.square() + math.log(2 * math.pi)).where(data.mask, 0.0).sum()
    return (energy - logdet.sum()) / data.mask.sum().clamp_min(1), z


class LevelTask(Task):
    """One level of the pyramid, trained by maximum likelihood on random heads.

    Args:
        flow: Trained in place.
        draw: Gives the training data of one patch.
        held_out: Data that choose the weights.
        seed: Everything random in patch ``j`` of step ``i`` follows from ``(*seed, i, j)``.
        patch: Side of the random cubes used in place of whole heads.
        patch_brain: Least share of brain in them.
        compute: Where and how, and which processes share the patches of a step.
    """

    networks: LevelFlow

    def __init__(
        self,
        flow: LevelFlow,
        draw: Callable[[np.random.Generator], LevelData],
        held_out: Sequence[LevelData],
        *,
        seed: tuple[int, ...],
        patch: int | None = None,
        patch_brain: float = 0.2,
        compute: Compute | None = None,
    ) -> None:
        self.networks, self.seed = flow, seed
        self._draw, self._held_out, self._compute = draw, held_out, compute or Compute()
        self._patch, self._patch_brain = patch, patch_brain

    def step(self, number: int, update: Update) -> Row:
        """The mean over the patches of the step, nats a number."""
        return {"train": update.descend(self._losses(number))}

    def _losses(self, number: int) -> Iterator[Tensor]:
        compute = self._compute
        for piece in compute.group.share(compute.batch):
            rng = np.random.default_rng((*self.seed, number, piece) if piece else (*self.seed, number))
            torch.manual_seed(int(rng.integers(2**62)))  # dropout
            data = self._draw(rng).patch(self._patch, rng, least_brain=self._patch_brain).to(compute.device)
            with compute.precision():
                loss = nats_per_number(self.networks, data)[0] / compute.batch
            yield loss

    def score(self) -> float | None:
        """Mean held-out nats a number."""
        if not self._held_out:
            return None
        held_out = (data.to(self._compute.device) for data in self._held_out)
        return float(np.mean([float(nats_per_number(self.networks, data)[0]) for data in held_out]))


class _Levels:
    """Level data by level, cached where small: coarse levels of all images fit in memory, the finest does not."""

    def __init__(self, flow: Pyramid, pool: ImagePool) -> None:
        self.flow, self.pool = flow, pool
        self.cache: dict[tuple[int, int], list[HaarLevel]] = {}

    def get(self, k: int, head: int, copy: int) -> LevelData:
        levels = self.cache.get((head, copy))
        if k == 0 or levels is None:
            levels = self.flow.split(*self.pool.load(head, copy))
            # Without level 0: it holds seven eighths of the bytes.
            self.cache[head, copy] = [levels[min(1, len(levels) - 1)], *levels[1:]]
        last = k == len(self.flow.levels)
        level = levels[-1] if last else levels[k]
        return level_data(level, self.flow.base_context(level) if last else self.flow.context(k, level), base=last)

    def draw(self, k: int) -> Callable[[np.random.Generator], LevelData]:
        return lambda rng: self.get(k, *self.pool.pick(rng))

    def each(self, k: int) -> Iterator[LevelData]:
        """Of every head as it is, one by one."""
        return (self.get(k, head, 0) for head in range(len(self.pool.files)))


def fit_pyramid(
    flow: Pyramid,
    training: ImagePool,
    held_out: ImagePool,
    folder: Path,
    *,
    judged: ImagePool | None = None,
    plan: Mapping[str, Any],
    minutes: float = 0.0,
    steps: int | None = None,
    seed: int = 0,
    settings: FlowFitSettings | None = None,
    compute: Compute | None = None,
    report: Report | None = None,
) -> tuple[Calibration, ...]:
    """Train, calibrate on held-out scans, and return what the latents of each level were like before.

    Args:
        flow: Trained in place.
        training: Images to learn from.
        held_out: Images that choose the weights.
        folder: For a checkpoint of each level, gone on with if it is there, and the log (``log.jsonl``).
        judged: The same inside the region where scans are judged, to calibrate on; ``held_out`` if None.
        plan: What is learnt from what, to recognise an interrupted run.
        minutes: Time to spend if ``steps`` is None.
        steps: Steps of every level.
        seed: Of patches and dropout.
        settings: Rates, shares of the time, calibration.
        compute: Where and how, and who shares the work.
        report: Called with a stage's name, the share of all work done, and numbers.

    Raises:
        UsageError: If a checkpoint is of another run.
    """
    compute, settings = compute or Compute(), settings or FlowFitSettings()
    order = list(range(len(flow.levels), -1, -1))
    shares = np.array(settings.level_shares[: len(order)]) / sum(settings.level_shares[: len(order)])
    data, unseen = _Levels(flow, training), _Levels(flow, held_out)
    log = _Log(folder / "log.jsonl", first=compute.group.first)
    for position, k in enumerate(order):
        set_scale(flow, k, data)
        task = LevelTask(
            level_flow(flow, k),
            data.draw(k),
            list(unseen.each(k)),
            seed=(seed, k),
            patch=None if k else settings.patch,
            patch_brain=settings.patch_brain,
            compute=compute,
        )

        def on_step(share: float, numbers: Row, position: int = position) -> None:
            if report:
                done = float(shares[:position].sum() + shares[position] * share)
                report(_stage(flow, order[position]), done, numbers)

        progress = fit(
            task,
            settings,
            Budget(steps, float(shares[position] * minutes)),
            checkpoint=Checkpoint(folder / f"checkpoint-flow-{k}.safetensors", {**plan, "level": k}),
            compute=compute,
            on_step=on_step,
            on_look=lambda progress, k=k: log.show(k, progress),  # type: ignore[misc]
        )
        log.keep(k, progress)
    flow.to("cpu")
    before, calibrating = [], _Levels(flow, judged) if judged else unseen
    for k in reversed(order):
        part, seen = level_flow(flow, k), list(calibrating.each(k))
        before.append(calibrate(part, seen, settings=settings))
        after = latent_moments(part, seen)
        log.add({"level": k, "calibration": {"before": before[-1]._asdict(), "after": after._asdict()}})
    return tuple(before)


class _Log:
    """The learning curves of all levels, one JSON object a line, rewritten at every look."""

    def __init__(self, path: Path, *, first: bool) -> None:
        self.path, self.first = path, first
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0

    def _of(self, level: int, progress: Progress) -> list[dict[str, Any]]:
        return [{"level": level, **row, "seconds": round(self.seconds + row["seconds"], 2)} for row in progress.rows]

    def show(self, level: int, progress: Progress) -> None:
        """The file with the rows of a level that is being trained."""
        self._write([*self.rows, *self._of(level, progress)])

    def keep(self, level: int, progress: Progress) -> None:
        """The rows of a level that is done."""
        self.rows += self._of(level, progress)
        self.seconds += progress.seconds

    def add(self, row: dict[str, Any]) -> None:
        """One more row."""
        self.rows.append(row)
        self._write(self.rows)

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.first:
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows), overwrite=True)


def level_flow(flow: Pyramid, k: int) -> LevelFlow:
    """Level ``k`` of a pyramid, the coarsest image's flow for the last."""
    return flow.base if k == len(flow.levels) else flow.levels[k]  # type: ignore[return-value]


def set_scale(flow: Pyramid, k: int, data: _Levels) -> None:
    """Typical size of each channel of a level, from the unchanged training heads."""
    sizes = []
    for part in data.each(k):
        inside = part.mask.double()
        values = part.values.double() - (1.0 if k == len(flow.levels) else 0.0)
        sizes.append((values.square() * inside).sum((0, 2, 3, 4)) / inside.sum((0, 2, 3, 4)).clamp_min(1))
    mean = sum(sizes) / len(sizes)
    level_flow(flow, k).input_sd.copy_(mean.sqrt().clamp_min(1e-3))  # type: ignore[union-attr]


def _stage(flow: Pyramid, k: int) -> str:
    if k == len(flow.levels):
        return f"{flow.spec.finest_mm * 2**k:g} mm image"
    return f"{flow.spec.finest_mm * 2**k:g} mm details"


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
        moved = data.to(device)
        z = nats_per_number(flow, moved)[1].double().where(moved.mask, 0.0).cpu()
        first += z.sum((0, 2, 3, 4))
        second += z.square().sum((0, 2, 3, 4))
        count += data.mask.sum((0, 2, 3, 4)).double().cpu()
    mean = first / count.clamp_min(1)
    spread = (second / count.clamp_min(1) - mean.square()).clamp_min(1e-4).sqrt()
    whole = float((second.sum() / count.sum().clamp_min(1)).sqrt())
    return Calibration(whole, tuple(mean.tolist()), tuple(spread.tolist()))


@torch.no_grad()
def common_gain(
    flow: LevelFlow, held_out: Sequence[LevelData], device: str = "cpu", settings: FlowFitSettings | None = None
) -> float:
    """The logarithm of the gain that held-out scans agree on; 0 as far as they differ, and for a single one.

    Each scan's most probable gain (Jacobian included), averaged, and shrunk by what the mean's own error explains:
    four people say little about a gain in which people differ.
    """
    flow.eval()
    s = settings or FlowFitSettings()
    gains = np.linspace(-s.calibration_gain, s.calibration_gain, s.calibration_gains)
    best = []
    for data in held_out:
        scan = data.to(device)
        nats = [gain - float(nats_per_number(flow, scan.brighter(math.exp(gain)))[0]) for gain in gains]
        best.append(optimum(gains, nats))
    if len(best) < 2:
        return 0.0
    mean, error = float(np.mean(best)), float(np.std(best, ddof=1)) / math.sqrt(len(best))
    return mean * max(0.0, 1 - (error / mean) ** 2) if mean else 0.0


@torch.no_grad()
def calibrate(
    flow: LevelFlow, held_out: Sequence[LevelData], device: str = "cpu", settings: FlowFitSettings | None = None
) -> Calibration:
    """Give held-out data gain 1, and their latents mean 0 and spread 1 in every channel.

    Returns:
        What they were like before.
    """
    settings = settings or FlowFitSettings()
    before = latent_moments(flow, held_out, device)
    for _ in range(settings.calibration_rounds):
        flow.absorb_gain(common_gain(flow, held_out, device, settings))
        now = latent_moments(flow, held_out, device)
        mean, spread = (torch.tensor(v, dtype=torch.float64) for v in (now.means, now.spreads))
        flow.latent_mean.add_((mean * flow.latent_log_sd.exp().double().cpu()).to(flow.latent_mean))
        flow.latent_log_sd.add_(spread.log().to(flow.latent_log_sd))
    return before
