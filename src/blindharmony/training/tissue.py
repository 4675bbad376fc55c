r"""The tissue network is trained: labelled heads, deformed and seen by random scanners, back to their labels.

.. math::
    y = \bigl|\, e^{b} \cdot k * \sum_s q_s(v)\, \bigl(m_s + \tau\, a\, (x(v) - \mu_s)\bigr) + n \,\bigr|^\gamma
    \qquad \text{or}\quad T(x) \text{ in place of the sum}

:math:`x` is a prepared head, :math:`q_s` the labels that :mod:`blindharmony.training.labels` made, :math:`\mu_s` a
structure's mean in the head and :math:`m_s` the one it gets; :math:`\tau` says how much stays of a voxel's difference
from its structures (:math:`a` is the ratio of the gray/white contrasts), so that the same head is shown as itself, in
another contrast, or as nothing but its labels. :math:`T` is an increasing curve through the means, :math:`k` blur or
thick slices, :math:`n` noise, white or smooth along some axes, :math:`b` what is left of a bias field,
:math:`\gamma` near one. Masks lose the fluid of the sulci or their rim. Contrasts are drawn as wide as real sites have
them and somewhat wider; nothing is known about any source scanner.

``python -m blindharmony.training.tissue DATA --out FILE`` is the whole recipe: preparation, labels, training, file.

Source: random contrasts from labels, Billot et al. 2023 (SynthSeg, arXiv 2107.09559); soft Dice, Milletari et al. 2016.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy import ndimage
from torch import Tensor

from blindharmony.errors import BlindHarmonyError, OutputError, UsageError
from blindharmony.files import file_sha256, write_bytes
from blindharmony.io.bids import find_scans
from blindharmony.io.volume import read_volume
from blindharmony.models.tissue import (
    CLASSES,
    TissueInfo,
    TissueNet,
    TissueSpec,
    anatomy,
    rank_knots,
    ranks_of,
    save_tissue,
)
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.settings import DeformationSettings, TissueFitSettings
from blindharmony.training.augmentation import deformed_points, scanner_noise, softened, template_points
from blindharmony.training.data import Report, hold_out, named_scans, work_folder
from blindharmony.training.labels import DEEP, FLUID, GRAY, STEM, WHITE, label_head, template_atlas
from blindharmony.training.loop import Budget, Checkpoint, Progress, Row, Task, Update, fit, read_tensors
from blindharmony.version import VERSION

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: How heads are prepared before they are labelled.
RECIPE = PrepRecipe(bias="entropy")
#: In the work folder.
CHECKPOINT = "checkpoint-tissue.safetensors"
# The network's class of each structure.
_CLASS = (0, 1, 2, 3, 3)
_STREAM = 91  # tells the random numbers of this training from those of others
_MARGIN = 4  # voxels around a crop that blur reaches
_PEOPLE = 20_000  # voxels that stand for a head's distribution of intensities


@dataclass(frozen=True, eq=False)
class LabelledHead:
    """A prepared head and the labels that it was given, on the template's grid.

    Attributes:
        image: Prepared intensities, zero outside the mask, ``(X, Y, Z)``.
        mask: Brain.
        shares: Share of every structure in a voxel, and 1 where fluid lies outside the ventricles, 0 to 255,
            ``(6, X, Y, Z)``.
        levels: Mean intensity of every structure, shape ``(5,)``.
    """

    image: Image
    mask: Mask
    shares: NDArray[np.uint8]
    levels: NDArray[np.float32]

    def cut(self, points: Tensor) -> tuple[Image, Image, Mask]:
        """Image, shares ``(6, x, y, z)`` and mask at points ``(3, x, y, z)`` of the template's grid."""
        low = [max(0, int(p.min())) for p in points]
        box = tuple(slice(a, min(n, int(p.max()) + 2)) for a, p, n in zip(low, points, self.mask.shape, strict=True))
        inside = self.mask[box]
        parts = np.concatenate([self.image[box][None], inside[None], self.shares[(slice(None), *box)]], 0)
        size = torch.tensor(inside.shape, dtype=torch.float32).view(3, 1, 1, 1)
        unit = 2 * (points - torch.tensor(low).view(3, 1, 1, 1)) / (size - 1).clamp_min(1) - 1
        at = unit.flip(0).permute(1, 2, 3, 0)[None]
        cut = F.grid_sample(torch.from_numpy(parts.astype(np.float32))[None], at, align_corners=True)[0].numpy()
        mask = cut[1] > 0.5
        weight = np.maximum(cut[1], 0.5)
        shares = cut[2:] / np.maximum(cut[2:7].sum(0), 1.0)
        return np.where(mask, cut[0] / weight, 0).astype(np.float32), shares.astype(np.float32), mask

    @cached_property
    def _inside(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.mask)

    def some_voxels(self, rng: np.random.Generator, count: int = _PEOPLE) -> tuple[Image, Image]:
        """Intensities and shares of voxels drawn from the whole brain, ``(count,)`` and ``(6, count)``."""
        index = rng.choice(self._inside, count)
        shares = self.shares.reshape(len(self.shares), -1)[:, index] / np.float32(255)
        return self.image.ravel()[index], shares.astype(np.float32)


@dataclass(frozen=True, eq=False)
class RandomContrast:
    """What another scanner makes of the structures of a head.

    Attributes:
        before: Mean intensity of the structures in the head, ``(5,)``.
        after: The same as the other scanner shows it.
        texture: What remains of a voxel's difference from its structures; None: one increasing curve is used.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    texture: float | None

    @classmethod
    def draw(cls, levels: NDArray[np.float32], rng: np.random.Generator, s: TissueFitSettings) -> RandomContrast:
        """Contrasts as real sites have them, and somewhat beyond."""
        gray = rng.uniform(*s.gray_white)
        fluid = np.clip(
            s.fluid_white[0]
            + (s.fluid_white[1] - s.fluid_white[0]) * (gray - s.gray_white[0]) / (s.gray_white[1] - s.gray_white[0])
            + rng.normal(0, s.fluid_sd),
            0.08,
            gray - 0.12,
        )
        deep = gray + rng.uniform(*s.deep) * (1 - gray)
        stem = 1 - rng.uniform(*s.stem) * (1 - gray)
        after = np.zeros(len(_CLASS), np.float32)
        after[[FLUID, GRAY, DEEP, WHITE, STEM]] = fluid, gray, deep, 1, stem
        texture = None if rng.random() < s.curves else float(rng.uniform(*s.texture))
        return cls(levels, after, texture)

    def __call__(self, image: Image, shares: Image, bend: Image | float = 0.0) -> Image:
        """The image in the other contrast, white matter 1; ``bend`` moves gray matter from place to place."""
        before, after = self.before, self.after
        if self.texture is None:
            knots = np.array([0, before[FLUID], before[GRAY], before[WHITE], 2 * before[WHITE]])
            values = np.array(
                [
                    0,
                    after[FLUID],
                    after[GRAY],
                    1,
                    1 + (1 - after[GRAY]) * before[WHITE] / (before[WHITE] - before[GRAY]),
                ]
            )
            made = np.interp(image, knots, values)
            # A curve does not know anatomy: deep gray and brainstem go where it takes them.
            return np.asarray(made + bend * shares[GRAY] * (1 - after[GRAY]), np.float32)
        slope = (1 - after[GRAY]) / (before[WHITE] - before[GRAY])
        expected = np.tensordot(before, shares[:5], 1)
        remains = self.texture * slope * (image - expected)
        made = np.tensordot(after, shares[:5], 1) + remains + bend * shares[GRAY] * (1 - after[GRAY])
        return np.asarray(made, np.float32)


def smooth_noise(shape: tuple[int, ...], knots: int, rng: np.random.Generator) -> Image:
    """A smooth random field of spread about 1 through a few knots a side."""
    field = torch.from_numpy(rng.standard_normal((1, 1, knots, knots, knots)).astype(np.float32))
    return F.interpolate(field, shape, mode="trilinear", align_corners=True)[0, 0].numpy() * np.float32(1.5)


@dataclass(frozen=True, eq=False)
class Sample:
    """A crop as the network sees it: image, ranks, brain ``(x, y, z)``, its corner on the 2 mm grid, and the truth."""

    image: Image
    ranks: Image
    mask: Mask
    corner: tuple[int, ...]
    truth: Image


class RandomScans:
    """Crops of heads, deformed and seen by random scanners.

    Args:
        heads: Where they come from.
        settings: Size of a crop, how far contrasts and scanners lie apart.
    """

    def __init__(self, heads: Sequence[LabelledHead], settings: TissueFitSettings) -> None:
        self.heads, self.settings = heads, settings
        self.deformation = DeformationSettings(
            linear_sd=settings.linear_sd,
            shift_mm=settings.shift_mm,
            bend_mm=settings.bend_mm,
            bend_scale_mm=settings.bend_scale_mm,
            flip=False,
        )

    def draw(self, rng: np.random.Generator) -> Sample:
        """One crop."""
        s = self.settings
        head = self.heads[int(rng.integers(len(self.heads)))]
        corner, points = self._where(head, rng)
        image, shares, mask = head.cut(points)
        people, their = head.some_voxels(rng)
        contrast = RandomContrast.draw(head.levels, rng, s)
        bend = rng.uniform(0, s.bend_gray) * smooth_noise(image.shape, 6, rng)
        image, people = contrast(image, shares, bend), contrast(people, their)
        image = softened(
            np.where(mask, image, 0),
            mask,
            rng,
            often=s.often,
            blur_mm=(0.0, s.blur_mm),
            thick=s.thick,
            slice_mm=s.slice_mm,
        )
        noise = float(np.exp(rng.uniform(*np.log(s.noise)))) if rng.random() < s.often else 0.0
        if noise:
            image = image + scanner_noise(image.shape, noise, rng)
            people = (people + rng.normal(0, noise, people.shape)).astype(np.float32)
        field = rng.uniform(0, s.field) * smooth_noise(image.shape, 3, rng)
        image = image * np.exp(field)
        if rng.random() < s.no_sulci:
            mask = mask & (shares[5] < 0.5)
            people = people[their[5] < 0.5]
        if rng.random() < s.eroded:
            mask = ndimage.binary_erosion(mask)
        people = np.maximum(people, 0).astype(np.float32)
        image = np.where(mask, np.maximum(image, 0), 0).astype(np.float32)
        power = float(np.exp(rng.normal(0, s.power_sd)))
        image, people = image**power, people**power
        gain = np.sqrt(np.mean(people**2)) * np.exp(rng.normal(0, s.gain_sd))
        image, people = image / gain, people / gain
        ranks = ranks_of(image, rank_knots(people))
        inner = (slice(_MARGIN, -_MARGIN),) * 3
        truth = np.zeros((len(CLASSES), *image.shape), np.float32)
        for structure, kind in enumerate(_CLASS):
            truth[kind] += shares[structure]
        x, r, m = (np.ascontiguousarray(a[inner]) for a in (image, ranks, mask))
        return Sample(x.astype(np.float32), r, m, corner, np.ascontiguousarray(truth[(slice(None), *inner)]))

    def _where(self, head: LabelledHead, rng: np.random.Generator) -> tuple[tuple[int, ...], Tensor]:
        """A random corner on the 2 mm grid, and where each of the crop's voxels lies in the head."""
        side = self.settings.side
        shape = head.mask.shape
        for _ in range(50):
            corner = tuple(2 * int(rng.integers(0, (n - side) // 2 + 1)) for n in shape)
            if head.mask[tuple(slice(c, c + side) for c in corner)][::4, ::4, ::4].mean() > self.settings.brain:
                break
        local = template_points((side + 2 * _MARGIN,) * 3)
        points = deformed_points(local, self.deformation, rng)
        points = points + torch.tensor([c - _MARGIN for c in corner]).view(3, 1, 1, 1)
        if rng.random() < 0.5:
            points[0] = 2 * (shape[0] // 2) - points[0]  # about the template's middle plane
        return tuple(c // 2 for c in corner), points


def tissue_loss(logits: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy plus one minus soft Dice, inside the mask."""
    inside = mask.to(logits.dtype)
    logs = torch.log_softmax(logits, 1)
    count = inside.sum().clamp_min(1)
    entropy = -(truth * logs * inside).sum() / count
    p, t = logs.exp() * inside, truth * inside
    overlap = (2 * (p * t).sum((0, 2, 3, 4)) + 100) / ((p + t).sum((0, 2, 3, 4)) + 100)
    return entropy + 1 - overlap.mean()


class TissueTask(Task):
    """A tissue network that learns from random scans.

    Args:
        net: Trained in place.
        scans: What it learns from.
        held_out: Scans of other heads; a few fixed ones judge the weights.
        seed: Of draws.
        looks: How many.
    """

    def __init__(
        self, net: TissueNet, scans: RandomScans, held_out: RandomScans | None, seed: int, looks: int = 8
    ) -> None:
        self.networks, self.seed = net, (seed, _STREAM)
        self._net, self._scans = net, scans
        generators = (np.random.default_rng((seed, _STREAM, 0, i)) for i in range(looks if held_out else 0))
        self._judged = [held_out.draw(rng) for rng in generators] if held_out else []

    def _loss(self, sample: Sample) -> Tensor:
        image, ranks, mask = (torch.from_numpy(a)[None, None] for a in (sample.image, sample.ranks, sample.mask))
        at = tuple(slice(c, c + n // 2) for c, n in zip(sample.corner, sample.mask.shape, strict=True))
        logits = self._net(image, ranks, mask, anatomy()[(slice(None), *at)][None])
        return tissue_loss(logits, torch.from_numpy(sample.truth)[None], mask)

    def step(self, number: int, update: Update) -> Row:
        """The loss of a few crops."""
        rng, count = self.generator(number), self._scans.settings.batch
        return {"train": update.descend(self._loss(self._scans.draw(rng)) / count for _ in range(count))}

    def score(self) -> float | None:
        """The mean loss of the held-out crops."""
        if not self._judged:
            return None
        with torch.inference_mode():
            return float(np.mean([self._loss(sample).item() for sample in self._judged]))


def labelled_head(scan: Path, folder: Path) -> LabelledHead:
    """Prepare and label a scan, or take it from the folder if that was done before.

    Raises:
        BlindHarmonyError: If the scan cannot be prepared; the message names it.
    """
    kept = folder / f"{scan.name.split('.')[0]}-{file_sha256(scan)[:12]}.safetensors"
    if not kept.exists():
        try:
            prepared = prepare(read_volume(scan), RECIPE).scan
        except BlindHarmonyError as error:
            raise type(error)(error.what, remedy=error.remedy, path=error.path or scan) from None
        mask = prepared.inside()
        image = np.where(mask, prepared.data, 0).astype(np.float32)
        shares, mixture = label_head(image, mask)
        sulci = (shares[FLUID] > 0.5) & ~template_atlas().ventricles
        whole = np.rint(255 * np.concatenate([shares, sulci[None]])).astype(np.uint8)
        parts = {"image": image.astype(np.float16), "mask": mask, "shares": whole, "levels": mixture.means}
        write_bytes(kept, save({k: np.ascontiguousarray(v) for k, v in parts.items()}), overwrite=True)
    parts = load_file(kept)
    return LabelledHead(parts["image"].astype(np.float32), parts["mask"], parts["shares"], parts["levels"])


def train_tissue(
    inputs: Sequence[Path],
    out: Path,
    *,
    participant_labels: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    steps: int,
    seed: int = 0,
    settings: TissueFitSettings | None = None,
    spec: TissueSpec | None = None,
    data: str = "",
    licence: str = "",
    resume: bool = False,
    overwrite: bool = False,
    report: Report = lambda stage, share, numbers: None,
) -> TissueInfo:
    """Prepare and label scans, train a network on them, and write it.

    Args:
        inputs: Files, folders or a BIDS study of T1w scans; their own contrast is used for labels only.
        out: File of the network; prepared heads and the checkpoint live in a folder beside it until it is done.
        participant_labels: Subjects of a BIDS study; all if None.
        held_out: Subjects or files that only judge; every fifth person (four at most) if empty.
        steps: Steps of the training; equal seeds give equal files.
        seed: Of weights and draws.
        settings: Rates, and the random scanners.
        spec: Shape of the network.
        data: Where the scans come from, for whoever reads the file.
        licence: Of the weights.
        resume: Go on where an interrupted run stopped.
        overwrite: Replace an existing file.
        report: Called with stage, share done and numbers.

    Raises:
        UsageError: If there are too few scans, or ``resume`` does not fit the interrupted run.
        OutputError: If the file exists already, or another run is making it.
        BlindHarmonyError: If a scan cannot be prepared.
    """
    if out.exists() and not overwrite:
        raise OutputError("exists already", remedy="pass --overwrite or choose another name", path=out)
    settings = settings or TissueFitSettings()
    scans = find_scans(inputs, participant_labels=participant_labels)
    training, unseen = hold_out(scans, named_scans(scans, held_out))
    with work_folder(out, resume=resume) as work:
        heads = []
        for index, scan in enumerate([*training, *unseen]):
            report(f"labeling {scan.name}", index / len(training + unseen), {})
            heads.append(labelled_head(scan, work))
        torch.manual_seed(seed)
        net = TissueNet(spec or TissueSpec())
        teachers, judges = heads[: len(training)], heads[len(training) :]
        task = TissueTask(net, RandomScans(teachers, settings), RandomScans(judges, settings), seed)
        plan = {"spec": net.spec.model_dump(), "settings": settings.model_dump(), "seed": seed}
        plan |= {"scans": [scan.name for scan in [*training, *unseen]]}
        progress = fit(
            task,
            settings,
            Budget(steps=steps),
            checkpoint=Checkpoint(work / CHECKPOINT, plan),
            on_step=lambda share, numbers: report("learning", share, numbers),
        )
        info = TissueInfo(steps=progress.step, held_out=progress.best, data=data, licence=licence, made_with=VERSION)
        save_tissue(net, info, out, overwrite=overwrite)
    return info


def export_unfinished(checkpoint: Path, out: Path, *, data: str = "", licence: str = "") -> TissueInfo:
    """Write the best weights so far of a training that goes on or was interrupted.

    Raises:
        UsageError: If there is no such checkpoint, or it is damaged.
    """
    try:
        parts, about = read_tensors(checkpoint)
        net = TissueNet(TissueSpec.model_validate(about["plan"]["spec"]))
        net.load_state_dict(parts["best"])
        progress = Progress(**about["progress"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"this is no checkpoint ({error})", remedy="train first", path=checkpoint) from None
    info = TissueInfo(steps=progress.step, held_out=progress.best, data=data, licence=licence, made_with=VERSION)
    save_tissue(net, info, out, overwrite=True)
    return info


def main() -> None:
    """The recipe as a command."""
    parser = argparse.ArgumentParser(prog="python -m blindharmony.training.tissue", description=main.__doc__)
    parser.add_argument("inputs", nargs="+", type=Path, help="files, folders or a BIDS study of T1w scans")
    parser.add_argument("--out", type=Path, required=True, help="file of the network")
    parser.add_argument("--participant-label", nargs="+", help="subjects of a BIDS study")
    parser.add_argument("--held-out", nargs="+", default=[], help="subjects that only judge")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="", help="where the scans come from")
    parser.add_argument("--licence", default="", help="of the weights")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted training")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--export", action="store_true", help="write the best weights so far, train no further")
    o = parser.parse_args()

    def report(stage: str, share: float, numbers: Row) -> None:
        if "held_out" in numbers or stage != "learning":
            print(f"{100 * share:5.1f} %  {stage}", json.dumps(numbers), flush=True)

    try:
        if o.export:
            checkpoint = o.out.with_name(f"{o.out.name}.work") / CHECKPOINT
            info = export_unfinished(checkpoint, o.out, data=o.data, licence=o.licence)
        else:
            choices = {"steps": o.steps, "seed": o.seed, "resume": o.resume, "overwrite": o.overwrite}
            people = {"participant_labels": o.participant_label, "held_out": o.held_out}
            info = train_tissue(o.inputs, o.out, **choices, **people, data=o.data, licence=o.licence, report=report)
    except BlindHarmonyError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; go on with --resume")
    print(info.model_dump_json())


if __name__ == "__main__":
    main()
