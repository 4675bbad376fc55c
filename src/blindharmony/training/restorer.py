r"""The restorer of a target is trained: from its heads through random scanners back to the heads.

.. math:: \min_R\; \mathbb E\; \frac{\overline{(R(y) - x)^2}}{\overline{(y - x)^2} + \epsilon}

:math:`x` is a cube of a head, :math:`y` the same cube seen by a random scanner and matched to the target's intensities.
Errors are relative: a slightly spoiled scan counts as much as a badly spoiled one, and :math:`\epsilon` keeps scans
that were hardly changed from asking for perfection. Half of the cubes lie on the template grid, half on the scan's
own, where texture is sharper: the restorer will work on both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from blindharmony.files import write_bytes
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.refine import refine
from blindharmony.models.restorer import Restorer, RestorerSpec
from blindharmony.models.target import Target
from blindharmony.preprocessing.grid import mask_box
from blindharmony.settings import RandomScannerSettings, RestorerFitSettings
from blindharmony.training.augmentation import spoil
from blindharmony.training.data import Head, Report
from blindharmony.training.loop import Budget, Checkpoint, Compute, Row, Task, Update, fit

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Ranks through which a cube's histogram is matched: dense at the ends, where few voxels are.
_RANKS = np.concatenate([[0.0005, 0.002, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.998, 0.9995]])
_SIDE = 4  # what the restorer's two halvings ask for
_STREAM = 77  # tells the random numbers of this training from those of the flow


@dataclass(frozen=True, eq=False)
class Cubes:
    """Files of heads, on the template grid and on their own in turn, and how the target's curves may be off.

    Attributes:
        files: Image and mask of each head and grid.
        knots: Intensities of the target's ranks, flow units, shape ``(Q,)``.
        errors: What the person model got wrong about each head, there, shape ``(heads, Q)``.
        settings: Size of a cube.
        scanner: How far random scanners lie apart.
    """

    files: tuple[Path, ...]
    knots: NDArray[np.float64]
    errors: NDArray[np.float64]
    settings: RestorerFitSettings
    scanner: RandomScannerSettings

    def draw(self, rng: np.random.Generator) -> tuple[Image, Image, Mask, Image]:
        """A random cube: what another scanner saw, the truth, the mask, and 1 if on the scan's own grid.

        What was seen has the histogram of the truth, as after a person's curve, bent as the person model errs: by the
        error that it made about a random head, either way. Left and right may be swapped.
        """
        rim = self.settings.rim
        index = int(rng.integers(len(self.files)))
        size = self.settings.patch + 2 * rim
        with safe_open(self.files[index], "np") as file:
            whole = file.get_slice("mask")
            for _ in range(50):
                low = [int(rng.integers(0, n - size + 1)) for n in whole.get_shape()]
                cut = tuple(slice(a, a + size) for a in low)
                if whole[cut].mean() > self.settings.patch_brain:
                    break
            truth, mask = file.get_slice("image")[cut].astype(np.float32), whole[cut].astype(bool)
        seen = _matched(spoil(truth, mask, rng, self.scanner), truth, mask)
        error = self.errors[int(rng.integers(len(self.errors)))] * rng.uniform(-1, 1)
        seen = np.where(mask, np.maximum(seen + np.interp(seen, self.knots, error), 0), 0).astype(np.float32)
        inner, turn = (slice(rim, size - rim),) * 3, -1 if rng.random() < 0.5 else 1
        x, y, m = (np.ascontiguousarray(p[inner][::turn]) for p in (seen, truth, mask))
        return x, y, m, np.full((1, 1, 1), index % 2, np.float32)


def _matched(seen: Image, truth: Image, mask: Mask) -> Image:
    """A spoiled cube with the histogram of the truth: blur narrows peaks, noise widens them, a curve undoes both."""
    if np.array_equal(seen, truth):
        return seen
    return CurveMap.through(np.quantile(seen[mask], _RANKS), np.quantile(truth[mask], _RANKS))(seen)


def make_cubes(
    heads: Sequence[Head],
    target: Target,
    folder: Path,
    *,
    settings: RestorerFitSettings | None = None,
    scanner: RandomScannerSettings | None = None,
    on_head: Callable[[int, int], None] | None = None,
) -> Cubes:
    """Write the heads on both grids, where they are not written yet.

    Args:
        heads: Training heads.
        target: With its person model.
        folder: Where they are kept.
        settings: Size of a cube.
        scanner: How far random scanners lie apart.
        on_head: Called with heads done and their number.
    """
    if target.person is None:
        raise ValueError("the restorer needs the target's person model")
    settings = settings or RestorerFitSettings()
    side = settings.patch + 2 * settings.rim
    files = []
    for index, head in enumerate(heads):
        key = head.key
        for grid in ("template", "own"):
            files.append(folder / f"{key}-{grid}.safetensors")
            if not files[-1].exists():
                image, mask = _on(grid, head, side)
                write_bytes(files[-1], save({"image": image.astype(np.float16), "mask": mask}), overwrite=True)
        if on_head:
            on_head(index + 1, len(heads))
    errors = target.person.left_out() - target.quantiles
    return Cubes(tuple(files), target.mean_curve, errors, settings, scanner or RandomScannerSettings())


def _on(grid: str, head: Head, side: int) -> tuple[Image, Mask]:
    """The head on one of its grids, cut to the brain, sides multiples of four and no smaller than a cube."""
    pair: tuple[torch.Tensor, torch.Tensor] = (head.data.float(), head.mask) if grid == "own" else head.image()
    image, mask = pair[0].numpy(), pair[1].numpy()
    box, _ = mask_box(mask, margin=1)
    image, mask = np.where(mask, image, 0)[box].astype(np.float32), mask[box]
    pad = [(0, max(side, n + -n % _SIDE) - n) for n in mask.shape]
    return np.pad(image, pad), np.pad(mask, pad)


class RestorerTask(Task):
    """A restorer that learns from random cubes.

    Args:
        net: Trained in place.
        cubes: What it learns from.
        seed: Of draws.
        device: Where to train.
    """

    def __init__(self, net: Restorer, cubes: Cubes, seed: int, device: str = "cpu") -> None:
        self.networks, self.seed = net, (seed, _STREAM)
        self._net, self._cubes, self._device = net, cubes, device

    def step(self, number: int, update: Update) -> Row:
        """The mean relative error of a few cubes."""
        settings, rng = self._cubes.settings, self.generator(number)
        drawn = [self._cubes.draw(rng) for _ in range(settings.batch)]
        seen, truth, mask, own = (
            torch.from_numpy(np.stack(p))[:, None].to(self._device) for p in zip(*drawn, strict=True)
        )
        inside = mask.float()
        count = inside.sum((1, 2, 3, 4))
        restored = self._net(seen, mask, own)
        after, before = (((x - truth) ** 2 * inside).sum((1, 2, 3, 4)) / count for x in (restored, seen))
        return {"train": update.descend([(after / (before + settings.epsilon)).mean()])}


def with_restorer(
    target: Target,
    heads: Sequence[Head],
    held_out: Sequence[Head],
    *,
    budget: Budget,
    seed: int,
    settings: RestorerFitSettings,
    scanner: RandomScannerSettings,
    checkpoint: Checkpoint,
    device: str = "cpu",
    spec: RestorerSpec | None = None,
    report: Report,
) -> Target:
    """The target with a restorer trained on the same heads: the running mean of its weights.

    Args:
        target: With its person model, whose rows are ``heads`` and then ``held_out``.
        heads: Training heads.
        held_out: Heads that only tell how much a scan of the target itself is changed.
        budget: How long.
        seed: Of weights and draws.
        settings: Rates, size and number of cubes.
        scanner: How far random scanners lie apart.
        checkpoint: Where an interrupted training goes on; the cubes lie beside it.
        device: Where to train.
        spec: Its shape.
        report: Called with stage, share done and numbers.

    Raises:
        UsageError: If the checkpoint is of another run.
    """
    spec = spec or RestorerSpec()
    cubes = make_cubes(
        heads[: settings.heads],
        target,
        checkpoint.path.parent,
        settings=settings,
        scanner=scanner,
        on_head=lambda i, n: report("cutting heads", i / n, {}),
    )
    torch.manual_seed(seed)
    net = Restorer(spec).to(device)
    fit(
        RestorerTask(net, cubes, seed, device),
        settings,
        budget,
        checkpoint=checkpoint,
        compute=Compute(device),
        on_step=lambda share, numbers: report("restorer", share, numbers),
    )
    restored = replace(target, restorer=net.cpu().requires_grad_(False))
    changes = tuple(_own_change(restored, head, len(heads) + i) for i, head in enumerate(held_out))
    measured = target.info.held_out.model_copy(update={"restorer_change": changes})
    return replace(restored, info=target.info.model_copy(update={"restorer": spec, "held_out": measured}))


def _own_change(target: Target, head: Head, row: int) -> float:
    """The change made to a head of the target whose curve was told as well as the person model tells it."""
    if target.person is None:
        raise ValueError("the target has no person model")
    image, mask = (part.numpy() for part in head.image())
    curve = CurveMap.through(target.quantiles[row], np.maximum.accumulate(target.person.left_out()[row]))
    return refine(np.where(mask, curve(image), 0).astype(np.float32), mask, target, strength=1.0).change
