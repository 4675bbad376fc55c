r"""U-Nets that learn to turn one image into another of the same head: DeepHarmony, and one of target scans alone.

.. math:: \hat x = y + m \cdot U(y, m, o), \qquad
          \min_U\; \mathbb E\; \frac{\overline{(\hat x - x)^2}}{\overline{(y - x)^2} + \epsilon}

:math:`y` are slices with their neighbours, :math:`m` the mask, :math:`o` the orientation of the slice. The network
starts as the identity. Errors are relative, so that a slightly changed scan counts as much as a badly changed one.

**DeepHarmony** is taught by heads that were scanned on both scanners. As in the paper: a 2D U-Net whose input comes
back at its end, slices in three orientations, and their mean. Here one network serves the three orientations, told
which one it sees, so that a short training goes three times as far; and neighbouring slices are seen with a slice.

**The U-Net of target scans** is the strongest simple blind rival we could think of. It sees target scans as random
other scanners might show them,

.. math:: y = \bigl|\,k * \bigl(e^{b}\,[(1 - w)\, c_1(x) + w\, c_2(x)]\bigr) + n\,\bigr|

with increasing curves :math:`c_1, c_2`, a smooth weight :math:`w` between them, so that contrast differs from place to
place and order is not kept, a smooth log bias field :math:`b`, and blur, thick slices and noise :math:`k, n`. All are
drawn, wider than real scanners differ, and none is taken from a scanner that a system will be judged on. Histogram
matching takes out every increasing curve before the network sees the scan; what is left to it are bias, noise, blur,
and contrast that is not a curve.

Source: Dewey et al. 2019, "DeepHarmony: A deep learning approach to contrast harmonization across scanner changes";
learning from random simulations, Billot et al. 2023 (SynthSeg); residual correction, Zhang et al. 2017
(arXiv 1608.03981).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.harmonization.summary import harmonize_match
from blindharmony.models.target import Target
from blindharmony.training.augmentation import Image, spoil
from blindharmony.training.loop import Row, Task, Update
from blindharmony_benchmark.networks.learning import (
    AXES,
    OPTIMIZER,
    REACH,
    Mask,
    Spot,
    Trained,
    Volume,
    centred,
    cropped,
    cut,
    draw,
    orientation,
    patch_side,
    through,
    unet,
)
from blindharmony_benchmark.system import Material, Picture, Sees

_TOP = 2.0  # what the curves call 1, flow units: above every tissue
_GAMMA, _BUMP, _APART, _FIELD = (0.6, 1.7), 0.3, 0.25, 0.3
_OFTEN = 0.5


def random_scan(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """The scan on a random scanner, rms 1 in the mask, zero outside.

    Args:
        image: Target scan, flow units.
        mask: Brain.
        rng: Source of randomness.
    """
    power, bump = np.exp(rng.uniform(*np.log(_GAMMA))), rng.uniform(-_BUMP, _BUMP)
    seen = _curve(image, power, bump)
    if rng.random() < _OFTEN:
        other = _curve(image, power * np.exp(rng.uniform(-_APART, _APART)), bump + rng.uniform(-_BUMP, _BUMP) / 2)
        seen += (0.5 + 0.5 * smooth_field(image.shape, rng)) * (other - seen)
    if rng.random() < _OFTEN:
        seen *= np.exp(rng.uniform(0, _FIELD) * smooth_field(image.shape, rng))
    seen = _unit(np.where(mask, seen, 0).astype(np.float32), mask)
    return _unit(spoil(seen, mask, rng), mask)


def smooth_field(shape: tuple[int, ...], rng: np.random.Generator, waves: int = 3) -> NDArray[np.float32]:
    """A random smooth field with values in [-1, 1]: products of the first cosines along each axis.

    Example:
        >>> field = smooth_field((8, 9, 10), np.random.default_rng(0))
        >>> field.shape, float(np.abs(field).max())
        ((8, 9, 10), 1.0)
    """
    k = np.arange(waves)
    weights = rng.normal(size=(waves,) * 3) / (1.0 + k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    weights[0, 0, 0] = 0
    x, y, z = (np.cos(np.pi * k[:, None] * (np.arange(n) + 0.5) / n) for n in shape)
    field = np.einsum("abc,ax,by,cz->xyz", weights, x, y, z, optimize=True)
    return np.asarray(field / max(float(np.abs(field).max()), 1e-12), np.float32)


def _curve(image: Image, power: float, bump: float) -> Image:
    share = np.clip(image / _TOP, 0, 1)
    # The sine bends the middle without leaving [0, 1] or turning back: its slope is at least 1 - bump.
    bent = share + bump * np.sin(2 * np.pi * share) / (2 * np.pi)
    return np.asarray(_TOP * bent**power, np.float32)


def _unit(image: Image, mask: Mask) -> Image:
    level = float(np.sqrt(np.mean(np.square(image[mask], dtype=np.float64))))
    return image / np.float32(max(level, 1e-6))


#: Slices from below to above.
SEEN = 2 * REACH + 1
_SMALL = 2e-4  # mean square error of a matched clean scan, flow units
_JUDGED = 48
_BATCH = 6
_OPTIMIZER = OPTIMIZER.model_copy(
    update={"rate": 2e-3, "lowest_rate": 4e-5, "betas": (0.9, 0.98), "weight_decay": 1e-4, "clip": 1.0}
)

#: From a scan's number and the step's to what is seen and what is to be made of it.
Pairs = Callable[[int, int], tuple[Volume, Volume]]


class SliceRegression(nn.Module):
    """Slices with neighbours and mask ``(B, 2 reach + 2, H, W)`` to the middle slice, ``(B, 1, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.correction = unet(SEEN + 1 + len(AXES), 1)

    def forward(self, x: Tensor, axes: Tensor) -> Tensor:
        """Corrected slices, zero outside the mask."""
        inside = x[:, -1:]
        change: Tensor = self.correction(torch.cat([centred(x[:, :-1]), inside, orientation(axes, x)], 1))
        return inside * (x[:, REACH : REACH + 1] + change)


class Regression(Task):
    """Learns from patches of slices that somebody else provides.

    Args:
        pairs: Provides seen and wanted volume of a scan.
        masks: Of the scans, cropped.
        held_out: Scans that only judge: seen, wanted and mask.
        device: Where it learns.
    """

    def __init__(
        self,
        pairs: Pairs,
        masks: Sequence[Mask],
        held_out: Sequence[tuple[Volume, Volume, Mask]],
        device: str,
    ) -> None:
        self.net, self.device = SliceRegression(), device
        self.networks = nn.ModuleDict({"net": self.net}).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pairs, self._masks = pairs, masks
        self._side = patch_side(masks)
        self._judged = [self._fixed(held_out, k) for k in range(_JUDGED if held_out else 0)]

    def _fixed(self, held_out: Sequence[tuple[Volume, Volume, Mask]], k: int) -> tuple[Volume, Volume, int]:
        seen, wanted, mask = held_out[k % len(held_out)]
        side = patch_side([mask])
        spot = draw([mask], side, np.random.default_rng((99, k)))
        return _stack(seen, mask, spot, side), cut(wanted, spot, side), spot.axis

    def step(self, number: int, update: Update) -> Row:
        """A batch of patches of any orientation."""
        rng = self.generator(number)
        drawn = []
        for _ in range(_BATCH):
            spot = draw(self._masks, self._side, rng)
            seen, wanted = self._pairs(spot.scan, number)
            drawn.append(
                (_stack(seen, self._masks[spot.scan], spot, self._side), cut(wanted, spot, self._side), spot.axis)
            )
        return {"train": update.descend([self._loss(drawn)])}

    def score(self) -> float | None:
        """The same loss on held-out scans."""
        if not self._judged:
            return None
        return float(np.mean([self._loss([one]).item() for one in self._judged]))

    def _loss(self, drawn: Sequence[tuple[Volume, Volume, int]]) -> Tensor:
        stacks, wanted, axes = zip(*drawn, strict=True)
        x = torch.from_numpy(np.stack(stacks)).to(self.device, memory_format=torch.channels_last)
        truth = torch.from_numpy(np.stack(wanted)).to(self.device)
        inside = x[:, -1:]
        count = inside.sum((1, 2, 3)).clamp_min(1)
        made = self.net(x, torch.tensor(axes, device=self.device))
        after, before = (
            ((part - truth).square() * inside).sum((1, 2, 3)) / count for part in (made, x[:, REACH : REACH + 1])
        )
        return (after / (before + _SMALL)).mean()

    def whole(self, image: Volume, mask: Mask, axes: Sequence[int] = AXES) -> Volume:
        """A scan through the network, the mean over orientations."""

        def run(x: Tensor, axis: int) -> Tensor:
            made: Tensor = self.net(x, torch.full((len(x),), axis, device=x.device))
            return made

        made = through([image], mask, run, axes, self.device)
        return np.asarray(made[0])


def _stack(seen: Volume, mask: Mask, spot: Spot, side: int) -> Volume:
    return np.concatenate([cut(seen, spot, side, REACH), cut(mask, spot, side)])


_HELD_OUT, _ENOUGH = 6, 4


class DeepHarmony(Trained):
    """Every sixth pair is held out for choosing the weights, where there are four or more."""

    name: ClassVar[str] = "deepharmony"
    sees: ClassVar[Sees] = "target and source scans, paired"
    optimizer = _OPTIMIZER

    def task(self, material: Material) -> Regression:
        """The network and the pairs.

        Raises:
            UsageError: If there are no pairs.
        """
        pairs = [_cropped(*p) for p in material.pairs]
        if not pairs:
            raise UsageError("there are no paired scans to learn from", remedy="leave deepharmony out for this source")
        held = pairs[1::_HELD_OUT] if len(pairs) >= _ENOUGH else []
        taught = [p for i, p in enumerate(pairs) if not held or i % _HELD_OUT != 1]
        return Regression(lambda scan, step: taught[scan][:2], [p[2] for p in taught], held, self.device)

    def apply(self, task: Regression, scan: Picture, material: Material) -> NDArray[np.float32]:
        """The mean over three orientations."""
        return task.whole(scan.image, scan.mask)


def _cropped(source: Picture, target: Picture) -> tuple[Volume, Volume, Mask]:
    both = source.mask & target.mask
    mask, seen, wanted = cropped(both, *(np.where(both, p.image, 0) for p in (source, target)))
    return seen.astype(np.float32), wanted.astype(np.float32), mask.astype(np.bool_)


_MOST, _EVERY, _VIEWS = 40, 16, 2


class _Pool:
    """Every training scan through one random scanner, which is another one from time to time.

    What a scan looks like follows from its number and the step's alone, so that a resumed training sees the same.
    """

    def __init__(self, material: Material) -> None:
        self._pictures, self._target, self._seed = material.training[:_MOST], material.target, material.seed
        found = [cropped(p.mask, np.where(p.mask, p.image, 0)) for p in self._pictures]
        self.masks = [mask.astype(np.bool_) for mask, _ in found]
        self._truths = [truth.astype(np.float32) for _, truth in found]
        self._seen: dict[int, tuple[int, Volume]] = {}

    def pair(self, scan: int, step: int) -> tuple[Volume, Volume]:
        """What is seen of a scan at a step, and the scan."""
        count = len(self._pictures)
        version = (step // _EVERY + count - scan) // count
        if scan not in self._seen or self._seen[scan][0] != version:
            rng = np.random.default_rng((self._seed, 6, scan, version))
            self._seen[scan] = version, _seen(self._pictures[scan], self._target, rng)[0]
        return self._seen[scan][1], self._truths[scan]


def _seen(picture: Picture, target: Target, rng: np.random.Generator) -> tuple[Volume, Volume, Mask]:
    """Seen through a random scanner and matched, as it was, and the mask, cropped."""
    image = np.where(picture.mask, picture.image, 0).astype(np.float32)
    spoiled = harmonize_match(random_scan(image, picture.mask, rng), picture.mask, target).image
    mask, seen, truth = cropped(picture.mask, spoiled, image)
    return seen.astype(np.float32), truth.astype(np.float32), mask.astype(np.bool_)


class TargetUNet(Trained):
    """Judged on held-out target scans through other random scanners."""

    name: ClassVar[str] = "target-unet"
    sees: ClassVar[Sees] = "target scans"
    optimizer = _OPTIMIZER

    def task(self, material: Material) -> Regression:
        """The network and the scans through random scanners.

        Raises:
            UsageError: If there are no training scans.
        """
        if not material.training:
            raise UsageError("there are no target scans to learn from", remedy="leave target-unet out")
        pool = _Pool(material)
        held = [
            _seen(p, material.target, np.random.default_rng((material.seed, 5, i, k)))
            for i, p in enumerate(material.held_out)
            for k in range(_VIEWS)
        ]
        return Regression(pool.pair, pool.masks, held, self.device)

    def apply(self, task: Regression, scan: Picture, material: Material) -> NDArray[np.float32]:
        """Matched, then the mean over three orientations."""
        return task.whole(harmonize_match(scan.image, scan.mask, material.target).image, scan.mask)
