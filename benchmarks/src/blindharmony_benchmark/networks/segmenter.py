"""A U-Net that finds tissues, taught by the target's own scans with manual labels.

It sees intensities as they are and no other contrast, as a network does that one site trained for itself: how well it
works on scans of another scanner says how well these were harmonized.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.training.loop import Row, Task, Update
from blindharmony_benchmark.networks.learning import (
    AXES,
    OPTIMIZER,
    REACH,
    Limits,
    Mask,
    Volume,
    centred,
    cropped,
    cut,
    digest,
    draw,
    orientation,
    overlap_and_entropy,
    patch_side,
    through,
    train,
    unet,
)
from blindharmony_benchmark.system import Picture, Say

_TISSUES = 4
_SEEN = 2 * REACH + 1
_BATCH = 6
_JUDGED = 48
_OPTIMIZER = OPTIMIZER.model_copy(update={"rate": 2e-3, "lowest_rate": 4e-5, "weight_decay": 1e-4, "clip": 1.0})


class Segmenter:
    """Tissues of a scan on the template grid: 0 none, 1 CSF, 2 grey, 3 white matter.

    Args:
        steps: Steps instead of minutes.
        device: Where it runs; a GPU if there is one.
    """

    def __init__(self, steps: int | None = None, device: str | None = None) -> None:
        self.steps = steps
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._net: nn.Module | None = None

    def fit(
        self,
        training: Sequence[Picture],
        held_out: Sequence[Picture],
        folder: Path,
        minutes: float,
        seed: int,
        say: Say,
    ) -> None:
        """Learn from labelled scans, or take what was learnt from them already.

        Args:
            training: Scans with labels.
            held_out: Scans with labels that choose the weights.
            folder: Where it is kept.
            minutes: Time to train.
            seed: Of everything random.
            say: Told how far it is.

        Raises:
            UsageError: If there are no labels, or MONAI is not installed.
        """
        torch.manual_seed(seed)
        taught, held = (tuple(p for p in part if p.labels is not None) for part in (training, held_out))
        if not taught:
            raise UsageError("no training scan has labels", remedy="leave the segmentation out")
        task = _Tissues(taught, held, self.device)
        plan = {"system": "segmenter", "version": 1, "scans": digest((*taught, *held))}
        train(task, _OPTIMIZER, folder, plan, Limits(minutes, self.steps, seed), say, "training the segmenter")
        self._net = task.net

    def labels(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_], *, thorough: bool = True
    ) -> NDArray[np.uint8]:
        """The most likely tissue of every voxel of the brain, mean probability over three orientations.

        Args:
            image: Flow units, template grid.
            mask: Brain.
            thorough: All three orientations; else axial slices alone, in a third of the time.

        Raises:
            ValueError: If it has not learnt anything yet.
        """
        net = self._net
        if net is None:
            raise ValueError("fit first")

        def run(x: Tensor, axis: int) -> Tensor:
            return _logits(net, x, torch.full((len(x),), axis, device=x.device)).softmax(1)

        shares = through(
            [np.where(mask, image, 0).astype(np.float32)], mask, run, AXES if thorough else AXES[-1:], self.device
        )
        return np.where(mask, shares.argmax(0), 0).astype(np.uint8)


class _Tissues(Task):
    def __init__(self, training: Sequence[Picture], held_out: Sequence[Picture], device: str) -> None:
        self.device = device
        net = unet(_SEEN + 1 + len(AXES), _TISSUES, silent=False)
        self.net = net.to(device)
        self.networks = nn.ModuleDict({"net": self.net})
        self._loss = overlap_and_entropy()
        self._scans, judged = ([_cropped(p) for p in part] for part in (training, held_out))
        self._masks = [s[1] for s in self._scans]
        self._side = patch_side([s[1] for s in (*self._scans, *judged)])
        chosen = ((judged[k % len(judged)], np.random.default_rng((98, k))) for k in range(_JUDGED if judged else 0))
        self._judged = [self._patch([scan], rng) for scan, rng in chosen]

    def _patch(
        self, scans: Sequence[tuple[Volume, Mask, Volume]], rng: np.random.Generator
    ) -> tuple[Volume, Volume, int]:
        spot = draw([s[1] for s in scans], self._side, rng)
        image, mask, labels = scans[spot.scan]
        x = np.concatenate([cut(image, spot, self._side, REACH), cut(mask, spot, self._side)])
        return x, cut(labels, spot, self._side), spot.axis

    def step(self, number: int, update: Update) -> Row:
        rng = self.generator(number)
        loss: Tensor = self._loss(*self._run([self._patch(self._scans, rng) for _ in range(_BATCH)]))
        return {"train": update.descend([loss])}

    def score(self) -> float | None:
        """One minus the Dice of white matter in all held-out patches together."""
        if not self._judged:
            return None
        hits = total = 0.0
        for x, labels, axis in self._judged:
            found = self._run([(x, labels, axis)])[0].argmax(1).cpu().numpy()[0] == 3
            true = labels[0] == 3
            hits, total = hits + 2 * float((found & true).sum()), total + float(found.sum() + true.sum())
        return 1 - hits / max(total, 1.0)

    def _run(self, drawn: Sequence[tuple[Volume, Volume, int]]) -> tuple[Tensor, Tensor]:
        stacks, labels, axes = zip(*drawn, strict=True)
        x, y = (torch.from_numpy(np.stack(part)).to(self.device) for part in (stacks, labels))
        x = x.contiguous(memory_format=torch.channels_last)
        return _logits(self.net, x, torch.tensor(axes, device=self.device)), y


def _logits(net: nn.Module, x: Tensor, axes: Tensor) -> Tensor:
    made: Tensor = net(torch.cat([centred(x[:, :-1]), x[:, -1:], orientation(axes, x)], 1))
    return made


def _cropped(picture: Picture) -> tuple[Volume, Mask, Volume]:
    labels = picture.labels if picture.labels is not None else np.zeros(picture.mask.shape, np.uint8)
    mask, image, tissues = cropped(picture.mask, np.where(picture.mask, picture.image, 0), labels)
    return image.astype(np.float32), mask.astype(np.bool_), tissues.astype(np.float32)
