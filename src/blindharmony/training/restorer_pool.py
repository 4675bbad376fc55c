"""What the restorer learns from: target heads, and the same heads through random scanners, matched as scans will be.

Half of the pairs lie on the template grid, half on the scan's own, where texture is sharper: it will work on both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.image import write_bytes
from blindharmony.prep.grid import mask_box
from blindharmony.target import Target
from blindharmony.training.head import Head
from blindharmony.training.random_scanner import ScannerRange, spoil

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

VERSIONS = 4
PATCH = 48
_SIDE = 4  # what the restorer's two halvings ask for


@dataclass(frozen=True)
class Pairs:
    """Files of pairs: for each head and grid (template, own), the head once, almost as it is, and other views."""

    files: tuple[tuple[Path, ...], ...]

    def patch(self, rng: np.random.Generator) -> tuple[Image, Image, Mask, Image]:
        """A random cube of a random pair: what another scanner saw, the truth, the mask, 1 if on the scan's own grid.

        Left and right may be swapped.
        """
        index = int(rng.integers(len(self.files)))
        row = self.files[index]
        with safe_open(row[0], "np") as truth, safe_open(row[int(rng.integers(1, len(row)))], "np") as seen:
            whole = truth.get_slice("mask")
            for _ in range(50):
                low = [int(rng.integers(0, n - PATCH + 1)) for n in whole.get_shape()]
                cut = tuple(slice(a, a + PATCH) for a in low)
                if whole[cut].mean() > 0.4:
                    break
            parts = seen.get_slice("image")[cut], truth.get_slice("image")[cut], whole[cut]
        turn = -1 if rng.random() < 0.5 else 1
        x, y, mask = (np.ascontiguousarray(p[::turn]) for p in parts)
        own = np.full((1, 1, 1), index % 2, np.float32)
        return x.astype(np.float32), y.astype(np.float32), mask.astype(bool), own


def make_pairs(
    heads: Sequence[Head],
    target: Target,
    folder: Path,
    *,
    seed: int,
    on_head: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Make the pairs that are not there yet.

    The spoiled head is matched to its own quantile curve, bent as the person model errs: by the error that it made
    about a random head of the target, either way.

    Args:
        heads: Training heads.
        target: With its person model.
        folder: Where pairs are kept.
        seed: Equal seeds give equal pairs.
        on_head: Called with heads done and their number.
    """
    if target.person is None:
        raise ValueError("the pairs need the target's person model")
    errors = target.person.left_out() - target.quantiles
    rows = []
    for index, head in enumerate(heads):
        for grid in ("template", "own"):
            stem = f"{head.name.split('.')[0]}-{index:04d}-{grid}-{seed}"
            row = [folder / f"{stem}-{v}.safetensors" for v in range(VERSIONS + 2)]
            if not all(f.exists() for f in row):
                image, mask = _on(grid, head)
                write_bytes(row[0], save({"image": image.astype(np.float16), "mask": mask}), overwrite=True)
                for v, file in enumerate(row[1:]):
                    rng = np.random.default_rng((seed, index, v, grid == "own"))
                    error = errors[int(rng.integers(len(errors)))] * rng.uniform(-1, 1)
                    seen = _seen(image, mask, error, target.levels, rng, clean=v == 0)
                    write_bytes(file, save({"image": seen.astype(np.float16)}), overwrite=True)
            rows.append(tuple(row))
        if on_head:
            on_head(index + 1, len(heads))
    return Pairs(tuple(rows))


def _on(grid: str, head: Head) -> tuple[Image, Mask]:
    """The head on one of its grids, cut to the brain, sides multiples of four."""
    pair: tuple[torch.Tensor, torch.Tensor] = (head.data.float(), head.mask) if grid == "own" else head.image()
    image, mask = pair[0].numpy(), pair[1].numpy()
    box, _ = mask_box(mask, margin=1)
    image, mask = np.where(mask, image, 0)[box].astype(np.float32), mask[box]
    pad = [(0, max(PATCH, n + -n % _SIDE) - n) for n in mask.shape]
    return np.pad(image, pad), np.pad(mask, pad)


def _seen(
    image: Image,
    mask: Mask,
    error: NDArray[np.float64],
    levels: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    clean: bool,
) -> Image:
    seen, plain = (image, image) if clean else spoil(image, mask, rng, ScannerRange())
    # An increasing curve can restore the quantiles that noise and blur leave, at the scale that preparation gives.
    own = np.quantile(plain[mask], levels)
    wanted = own * np.sqrt((image[mask] ** 2).mean() / (own**2).mean()) + error
    wanted = np.maximum.accumulate(np.maximum(wanted, 0))
    return np.where(mask, CurveMap.through(np.quantile(seen[mask], levels), wanted)(seen), 0).astype(np.float32)
