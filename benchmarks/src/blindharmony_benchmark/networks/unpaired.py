"""What unpaired systems learn from: patches of axial slices of either scanner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony_benchmark.networks.learning import (
    REACH,
    Mask,
    Volume,
    centred,
    cropped,
    cut,
    draw,
    patch_side,
    through,
)
from blindharmony_benchmark.system import Material, Picture

AXIAL = (2,)
_ROUND = 0.2


class Patches(NamedTuple):
    """Images and masks, both ``(B, 1, H, W)``."""

    image: Tensor
    mask: Tensor


class Domain:
    """Scans of one scanner.

    Args:
        pictures: They.
        device: Where patches go.
    """

    def __init__(self, pictures: Sequence[Picture], device: str) -> None:
        found = [cropped(p.mask, np.where(p.mask, p.image, 0)) for p in pictures]
        self.masks: list[Mask] = [mask.astype(np.bool_, copy=False) for mask, _ in found]
        self._images: list[Volume] = [image.astype(np.float32, copy=False) for _, image in found]
        self._device = device

    def __len__(self) -> int:
        return len(self.masks)

    def patches(self, rng: np.random.Generator, count: int, side: int, scan: int | None = None) -> Patches:
        """Random ones, of one scan or of any."""
        if scan is None:
            spots = [draw(self.masks, side, rng, AXIAL) for _ in range(count)]
        else:
            spots = [draw([self.masks[scan]], side, rng, AXIAL)._replace(scan=scan) for _ in range(count)]
        stacks = (np.stack([cut(part[s.scan], s, side) for s in spots]) for part in (self._images, self.masks))
        image, mask = (torch.from_numpy(s).to(self._device) for s in stacks)
        return Patches(image, mask)


def both_domains(material: Material, device: str, name: str) -> tuple[Domain, Domain, int]:
    """Source, target, and the side of a patch that fits into all scans.

    Raises:
        UsageError: If there are no scans of one of them.
    """
    if not material.source or not material.training:
        raise UsageError("there are no scans of both scanners", remedy=f"leave {name} out for this source")
    source, target = Domain(material.source, device), Domain(material.training, device)
    return source, target, patch_side([*source.masks, *target.masks])


class Buffer:
    """The last images that a generator made, half of which a discriminator sees again.

    Args:
        size: How many are kept.

    Source: Shrivastava et al. 2017 (arXiv 1612.07828).
    """

    def __init__(self, size: int = 50) -> None:
        self._size, self.kept = size, list[Tensor]()

    def mixed(self, made: Tensor, rng: np.random.Generator) -> Tensor:
        """Every image, or an older one in its place."""
        out = []
        for one in made.detach():
            if len(self.kept) < self._size:
                self.kept.append(one)
            elif rng.random() < 0.5:
                place = int(rng.integers(self._size))
                self.kept[place], one = one, self.kept[place]
            out.append(one)
        return torch.stack(out)


def judged(critic: nn.Module, image: Tensor, mask: Tensor) -> Tensor:
    """What a discriminator says of patches: image and mask in, one number for each place out."""
    found: Tensor = critic(torch.cat([centred(image), mask], 1))[-1]
    return found


def away(made: Tensor, wanted: Patches) -> Tensor:
    """Mean absolute difference inside the mask, rounded off where it is small.

    Networks that start as the identity would never leave it otherwise: there the cycle is perfect, and an absolute
    value has a kink that the discriminators' gradient does not overcome.
    """
    lost = nn.functional.smooth_l1_loss(made, wanted.image, beta=_ROUND, reduction="none")
    return (lost * wanted.mask).sum() / wanted.mask.sum().clamp_min(1)


def axial(image: Volume, mask: Mask, run: nn.Module, device: str, *more: Tensor) -> Volume:
    """A scan through a network of images, masks and ``more``, slice by slice."""

    def one(x: Tensor, axis: int) -> Tensor:
        made: Tensor = run(x[:, REACH : REACH + 1], x[:, -1:], *more)
        return made

    return np.asarray(through([image], mask, one, AXIAL, device)[0])
