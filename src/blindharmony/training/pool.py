"""The images a flow trains on: every head and deformed copies of it, at half resolution, on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from blindharmony.image import write_bytes
from blindharmony.training.head import Head, half_resolution

COPIES = 5
# Six hundred images are plenty for a network of this size; with many heads each needs fewer copies.
_MOST = 600


@dataclass(frozen=True, eq=False)
class Pool:
    """Files of 2 mm images; copy 0 of a head is the head itself.

    Attributes:
        files: By head and copy.
        region: Bool, shape of an image: what lies outside is no part of any mask. None: everything is inside.
    """

    files: tuple[tuple[Path, ...], ...]
    region: Tensor | None = None

    def load(self, head: int, copy: int) -> tuple[Tensor, Tensor]:
        """Image and mask, ``(1, 1, 80, 96, 80)``."""
        found = load_file(self.files[head][copy])
        image, mask = found["image"].float(), found["mask"]
        if self.region is None:
            return image, mask
        inside = mask & self.region
        return image.where(inside, 0.0), inside

    def pick(self, rng: np.random.Generator) -> tuple[int, int]:
        """A random head and a random copy of it."""
        head = int(rng.integers(len(self.files)))
        return head, int(rng.integers(len(self.files[head])))


def make_pool(
    heads: Sequence[Head],
    folder: Path,
    *,
    seed: int,
    copies: int = COPIES,
    on_head: Callable[[int, int], None] | None = None,
) -> Pool:
    """Make the images that are not there yet.

    Args:
        heads: Training or held-out heads.
        folder: Where they are kept; names hold what the head is made of, its place among the heads, copy and seed.
        seed: Equal seeds give equal copies.
        copies: Deformed copies of each head at most; 0 for held-out heads.
        on_head: Called with heads done and their number.
    """
    copies = max(0, min(copies, _MOST // max(1, len(heads)) - 1))
    rows = []
    for index, head in enumerate(heads):
        row, key = [], head.key
        for copy in range(copies + 1):
            file = folder / f"{key}-{index:04d}-{copy}-{seed}.safetensors"
            row.append(file)
            if not file.exists():
                rng = np.random.default_rng((seed, index, copy)) if copy else None
                image, mask = half_resolution(*head.image(rng))
                content = save({"image": image.half().contiguous(), "mask": mask.contiguous()})
                write_bytes(file, content, overwrite=True)
        rows.append(tuple(row))
        if on_head:
            on_head(index + 1, len(heads))
    return Pool(tuple(rows))


def mean_image(pool: Pool) -> tuple[Tensor, Tensor]:
    """Mean of the unchanged heads inside their masks, and the share of masks at each voxel, ``(80, 96, 80)``."""
    total = torch.zeros(1)
    weight = torch.zeros(1)
    for head in range(len(pool.files)):
        image, mask = pool.load(head, 0)
        total, weight = total + image[0, 0], weight + mask[0, 0].float()
    return total / weight.clamp_min(1), weight / len(pool.files)
