r"""The restorer of a target is trained: from its heads through random scanners back to the heads.

.. math:: \min_R\; \mathbb E\; \frac{\overline{(R(y) - x)^2}}{\overline{(y - x)^2} + \epsilon}

:math:`x` is a cube of a head, :math:`y` the same cube seen by a random scanner and matched to the target's intensities.
In half of the cubes the scanner has another contrast of the tissues too (:class:`~.tissue.RandomContrast`); the curve
that matches it is that of the whole head, so what it leaves, tissue by tissue, is to be taken out. Errors are relative:
a slightly spoiled scan counts as much as a badly spoiled one, and :math:`\epsilon` keeps scans that were hardly changed
from asking for perfection. Half of the cubes lie on the template grid, half on the scan's own, where texture is
sharper: the restorer will work on both. Cubes of held-out heads choose the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from scipy import ndimage

from blindharmony.files import read_text, write_bytes, write_text
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.refine import refine
from blindharmony.harmonization.summary import by_rank, inside_only
from blindharmony.models.restorer import Restorer, RestorerSpec
from blindharmony.models.target import RefinedError, Target
from blindharmony.models.tissue import class_posterior
from blindharmony.preprocessing.grid import mask_box
from blindharmony.settings import RandomScannerSettings, RestorerFitSettings, TissueFitSettings
from blindharmony.training.augmentation import spoil
from blindharmony.training.data import Head, Report
from blindharmony.training.labels import FLUID, GRAY, WHITE
from blindharmony.training.loop import Budget, Checkpoint, Compute, Row, Task, Update, fit
from blindharmony.training.person import Tissue, structure_levels, versions_of, with_stem
from blindharmony.training.tissue import RandomContrast, smooth_noise

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Ranks through which a cube's histogram is matched: dense at the ends, where few voxels are.
_RANKS = np.concatenate([[0.0005, 0.002, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.998, 0.9995]])
_VOXELS, _BEND_KNOTS = 20_000, 3
_CONTRASTS = TissueFitSettings()
_SIDE = 4  # what the restorer's two halvings ask for
_JUDGED = 2**40  # no step has this number: tells the cubes that judge from those of steps
_STREAM = 77  # tells the random numbers of this training from those of the flow


@dataclass(frozen=True, eq=False)
class Cubes:
    """Files of heads, on the template grid and on their own in turn, and how the target's curves may be off.

    Attributes:
        files: Image, mask and tissues of each head and grid.
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
            contrasted = truth
            if "tissues" in file.keys() and rng.random() < self.scanner.other_contrast:  # noqa: SIM118 - not a dict
                tissues = file.get_slice("tissues")[(slice(None), *cut)]
                contrasted = self._in_other_contrast(truth, mask, tissues, file.get_tensor("voxels"), rng)
        seen = _matched(spoil(contrasted, mask, rng, self.scanner), contrasted, mask)
        error = self.errors[int(rng.integers(len(self.errors)))] * rng.uniform(-1, 1)
        seen = np.where(mask, np.maximum(seen + np.interp(seen, self.knots, error), 0), 0).astype(np.float32)
        inner, turn = (slice(rim, size - rim),) * 3, -1 if rng.random() < 0.5 else 1
        x, y, m = (np.ascontiguousarray(p[inner][::turn]) for p in (seen, truth, mask))
        return x, y, m, np.full((1, 1, 1), index % 2, np.float32)

    def _in_other_contrast(
        self, truth: Image, mask: Mask, tissues: NDArray[np.uint8], voxels: Image, rng: np.random.Generator
    ) -> Image:
        """The cube in the contrast of a random scanner, matched as the whole head would be.

        A curve takes what the brain as a whole has; what tissue by tissue or from place to place is left stays.
        """
        values, shares = voxels[0], with_stem(voxels[1:])
        levels = structure_levels(values, np.ones(values.shape, bool), voxels[1:])
        if not levels[WHITE] > levels[GRAY] > levels[FLUID] > 0:
            return truth  # the network sees no contrast that could be another
        texture = float(rng.uniform(*self.scanner.texture))
        drawn = replace(RandomContrast.draw(levels, rng, _CONTRASTS), texture=texture)
        bend = rng.uniform(0, self.scanner.bend_gray) * smooth_noise(truth.shape, _BEND_KNOTS, rng)
        cube = drawn(truth, with_stem(np.divide(tissues, 255, dtype=np.float32)), bend)
        ranks = (np.quantile(np.maximum(x, 0), _RANKS) for x in (drawn(values, shares), values))
        return np.where(mask, CurveMap.through(*ranks)(np.maximum(cube, 0)), 0).astype(np.float32)


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
    tissue: Tissue | None = None,
    on_head: Callable[[int, int], None] | None = None,
) -> Cubes:
    """Write the heads on both grids, where they are not written yet.

    Args:
        heads: Training heads.
        target: With its person model.
        folder: Where they are kept.
        settings: Size of a cube.
        scanner: How far random scanners lie apart.
        tissue: Finds the tissues of a head; without it, the scanners have the target's contrast.
        on_head: Called with heads done and their number.
    """
    if target.person is None:
        raise ValueError("the restorer needs the target's person model")
    settings = settings or RestorerFitSettings()
    side = settings.patch + 2 * settings.rim
    files = []
    for index, head in enumerate(heads):
        kind = f"{side}{'-tissues' if tissue else ''}"
        pair = [folder / f"{head.key}-{kind}-{grid}.safetensors" for grid in ("template", "own")]
        if not all(file.exists() for file in pair):
            for file, (image, mask, classes) in zip(pair, _on_both_grids(head, side, tissue), strict=True):
                content: dict[str, NDArray[Any]] = {"image": image.astype(np.float16), "mask": mask}
                if classes is not None:
                    some = np.random.default_rng(index).choice(np.flatnonzero(mask), _VOXELS)
                    content["tissues"] = np.round(255 * classes).astype(np.uint8)
                    content["voxels"] = np.stack([p.ravel()[some] for p in (image, *classes)]).astype(np.float32)
                write_bytes(file, save(content), overwrite=True)
        files += pair
        if on_head:
            on_head(index + 1, len(heads))
    errors = target.person.left_out() - target.quantiles
    return Cubes(tuple(files), target.mean_curve, errors, settings, scanner or RandomScannerSettings())


def _on_both_grids(head: Head, side: int, tissue: Tissue | None) -> Iterator[tuple[Image, Mask, Image | None]]:
    """Image, mask and tissues on the template's grid and on the head's own, as cubes are cut from them."""
    image, mask = (part.numpy() for part in head.image())
    classes = tissue(image, mask) if tissue else None
    yield _cut(image, mask, classes, side)
    image, mask = head.data.float().numpy(), head.mask.numpy()
    if classes is not None:
        to_template = np.linalg.inv(head.to_scan)
        moved = [ndimage.affine_transform(c, to_template, output_shape=mask.shape, order=1) for c in classes]
        classes = np.stack(moved)
    yield _cut(image, mask, classes, side)


def _cut(image: Image, mask: Mask, classes: Image | None, side: int) -> tuple[Image, Mask, Image | None]:
    """Cut to the brain, sides multiples of four and no smaller than a cube."""
    box, _ = mask_box(mask, margin=1)
    image, mask = np.where(mask, image, 0)[box].astype(np.float32), mask[box]
    pad = [(0, max(side, n + -n % _SIDE) - n) for n in mask.shape]
    if classes is not None:
        classes = np.pad(classes[(slice(None), *box)], [(0, 0), *pad])
    return np.pad(image, pad), np.pad(mask, pad), classes


class RestorerTask(Task):
    """A restorer that learns from random cubes.

    Args:
        net: Trained in place.
        cubes: What it learns from.
        seed: Of draws.
        compute: Where to train, and how precisely.
        held_out: Cubes of heads that it does not learn from; the same ones judge it again and again.
    """

    def __init__(
        self, net: Restorer, cubes: Cubes, seed: int, compute: Compute | None = None, held_out: Cubes | None = None
    ) -> None:
        self.networks, self.seed = net, (seed, _STREAM)
        self._net, self._cubes, self._compute, self._held_out = net, cubes, compute or Compute(), held_out

    def step(self, number: int, update: Update) -> Row:
        """The mean relative error of a few cubes."""
        errors = self._errors(self._cubes, self.generator(number), self._settings.batch)
        return {"train": update.descend([errors.mean()])}

    def score(self) -> float | None:
        """The same of cubes of held-out heads."""
        if self._held_out is None:
            return None
        batch, number = self._settings.batch, self._settings.judged
        rng = np.random.default_rng((*self.seed, _JUDGED))
        parts = [self._errors(self._held_out, rng, min(batch, number - i)) for i in range(0, number, batch)]
        return torch.cat(parts).mean().item()

    @property
    def _settings(self) -> RestorerFitSettings:
        return self._cubes.settings

    def _errors(self, cubes: Cubes, rng: np.random.Generator, number: int) -> torch.Tensor:
        """Relative errors of random cubes, shape ``(number,)``."""
        drawn = [cubes.draw(rng) for _ in range(number)]
        seen, truth, mask, own = (
            torch.from_numpy(np.stack(p))[:, None].to(self._compute.device) for p in zip(*drawn, strict=True)
        )
        inside = mask.float()
        count = inside.sum((1, 2, 3, 4))
        with self._compute.precision() if self._net.training else nullcontext():
            restored = self._net(seen, mask, own).float()
        after, before = (((x - truth) ** 2 * inside).sum((1, 2, 3, 4)) / count for x in (restored, seen))
        return after / (before + self._settings.epsilon)


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
    compute: Compute | None = None,
    start: Restorer | None = None,
    log: Path | None = None,
    report: Report,
) -> Target:
    """The target with a restorer trained on the same heads: the running mean of its weights.

    Args:
        target: With its person model, whose rows are ``heads`` and then ``held_out``.
        heads: Training heads.
        held_out: Heads that judge the weights, and tell how much a scan of the target itself is changed.
        budget: How long.
        seed: Of weights and draws.
        settings: Rates, size and number of cubes.
        scanner: How far random scanners lie apart.
        checkpoint: Where an interrupted training goes on; the cubes lie beside it.
        compute: Where to train, and how precisely.
        start: A trained restorer whose weights it begins with, and whose shape it has.
        log: Training log, to which the learning curve is added.
        report: Called with stage, share done and numbers.

    Raises:
        UsageError: If the checkpoint is of another run.
    """
    spec, compute = start.spec if start else RestorerSpec(), compute or Compute()
    # The network that finds tissues knows T1w scans.
    tissue = class_posterior if target.info.suffix == "T1w" else None
    cubes, unseen = (
        make_cubes(
            chosen,
            target,
            checkpoint.path.parent,
            settings=settings,
            scanner=scanner,
            tissue=tissue,
            on_head=lambda i, n: report("cutting heads", i / n, {}),
        )
        for chosen in (heads[: settings.heads], held_out)
    )
    torch.manual_seed(seed)
    net = Restorer(spec)
    if start:
        net.load_state_dict(start.state_dict())
    net = net.to(compute.device)
    progress = fit(
        RestorerTask(net, cubes, seed, compute, unseen),
        settings,
        budget,
        checkpoint=checkpoint,
        compute=compute,
        on_step=lambda share, numbers: report("restorer", share, numbers),
    )
    if log:
        rows = (json.dumps({"network": "restorer", **row}) + "\n" for row in progress.rows)
        write_text(log, read_text(log) + "".join(rows), overwrite=True)
    restored = replace(target, restorer=net.cpu().requires_grad_(False))
    changes = tuple(_own_change(restored, head, len(heads) + i) for i, head in enumerate(held_out))
    judges = [*((h, len(heads) + i) for i, h in enumerate(held_out)), *((h, i) for i, h in enumerate(heads))]
    error = refined_error(restored, judges[: settings.error_heads], tissue, seed=seed, report=report)
    measured = target.info.held_out.model_copy(update={"restorer_change": changes, "refined_error": error})
    return replace(restored, info=target.info.model_copy(update={"restorer": spec, "held_out": measured}))


def _own_change(target: Target, head: Head, row: int) -> float:
    """The change made to a head of the target whose curve was told as well as the person model tells it."""
    if target.person is None:
        raise ValueError("the target has no person model")
    image, mask = (part.numpy() for part in head.image())
    curve = CurveMap.through(target.quantiles[row], np.maximum.accumulate(target.person.left_out()[row]))
    return refine(np.where(mask, curve(image), 0).astype(np.float32), mask, target, strength=1.0).change


_RANK_BINS = 32
_POWER, _GAUSSIAN = 0.5, 0.822  # of errors, and the mean of this power of a standard normal number's size
_LEAST_CHANGE = 1e-4  # flow units, so that no change has a logarithm


def refined_error(
    target: Target, heads: Sequence[tuple[Head, int]], tissue: Tissue | None, *, seed: int, report: Report
) -> RefinedError:
    """How far single voxels of heads lie from the truth after random scanners, the best curve, and the restorer.

    What the curve is off comes on top of it, where it is used.

    Args:
        target: With its restorer.
        heads: Heads with their rows among the target's quantile curves; held-out ones first.
        tissue: Finds the tissues of a head; without it, the scanners have the target's contrast.
        seed: Of the random scanners.
        report: Called with stage, share done and numbers.
    """
    errors, wanted = [], []
    for count, (head, row) in enumerate(heads):
        image, mask = (part.numpy() for part in head.image())
        image, inside = np.where(mask, image, 0).astype(np.float32), mask & target.fit_region
        own = np.maximum.accumulate(target.quantiles[row])
        rng = np.random.default_rng((seed, _STREAM, _JUDGED, count))
        for version in versions_of(image, mask, rng, classes=tissue(image, mask) if tissue else None):
            curve = CurveMap.through(np.quantile(version.seen[inside], target.levels), own)
            result = refine(inside_only(version.seen, mask, curve), mask, target, strength=1.0)
            away = np.abs(result.image - image)[inside] ** _POWER
            errors.append([part.mean() for part in by_rank(result.image[inside], away, _RANK_BINS)])
            wanted.append(result.wanted)
        report("measuring errors of voxels", (count + 1) / len(heads), {})
    sizes = (np.mean(errors, 1) / _GAUSSIAN) ** (1 / _POWER)
    change = np.maximum(wanted, _LEAST_CHANGE)
    x, y = np.log(change), np.log(np.maximum(sizes, _LEAST_CHANGE))
    # A restorer that has hardly learned wants the same, nothing, of every scan.
    slope = np.polyfit(x, y, 1)[0] if np.ptp(x) > 0 else 0.0
    intercept = y.mean() - slope * x.mean()
    expected = np.exp(intercept + slope * np.log(change))
    # The heads as they are say little about what scanners do to which tissue.
    through = np.array([version % (len(errors) // len(heads)) > 0 for version in range(len(errors))])
    relative = (np.array(errors)[through] / expected[through, None] ** _POWER).mean(0)
    profile = (relative / _GAUSSIAN) ** (1 / _POWER)
    return RefinedError(
        intercept=float(intercept),
        slope=float(slope),
        changes=(float(change.min()), float(change.max())),
        profile=tuple(np.round(profile, 5).tolist()),
    )
