"""What the restorer learns from: cubes of target heads, and the same cubes through random scanners and curves.

Half of them lie on the template grid, half on the scan's own, where texture is sharper: it will work on both.
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
from blindharmony.training.random_scanner import spoil

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

PATCH = 48
_RIM = 8  # what blur reaches; cut away afterwards
_RANKS = np.concatenate([[0.0005, 0.002, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.998, 0.9995]])
_SIDE = 4  # what the restorer's two halvings ask for


@dataclass(frozen=True, eq=False)
class Cubes:
    """Files of heads, on the template grid and on their own in turn, and how the target's curves may be off.

    Attributes:
        files: Image and mask of each head and grid.
        knots: Intensities of the target's ranks, flow units, shape ``(Q,)``.
        errors: What the person model got wrong about each head, there, shape ``(heads, Q)``.
    """

    files: tuple[Path, ...]
    knots: NDArray[np.float64]
    errors: NDArray[np.float64]

    def patch(self, rng: np.random.Generator) -> tuple[Image, Image, Mask, Image]:
        """A random cube: what another scanner saw, the truth, the mask, and 1 if on the scan's own grid.

        What was seen has the histogram of the truth, as after a person's curve, bent as the person model errs: by the
        error that it made about a random head, either way. Left and right may be swapped.
        """
        index = int(rng.integers(len(self.files)))
        size = PATCH + 2 * _RIM
        with safe_open(self.files[index], "np") as file:
            whole = file.get_slice("mask")
            for _ in range(50):
                low = [int(rng.integers(0, n - size + 1)) for n in whole.get_shape()]
                cut = tuple(slice(a, a + size) for a in low)
                if whole[cut].mean() > 0.4:
                    break
            truth, mask = file.get_slice("image")[cut].astype(np.float32), whole[cut].astype(bool)
        seen = _matched(spoil(truth, mask, rng), truth, mask)
        error = self.errors[int(rng.integers(len(self.errors)))] * rng.uniform(-1, 1)
        seen = np.where(mask, np.maximum(seen + np.interp(seen, self.knots, error), 0), 0).astype(np.float32)
        inner, turn = (slice(_RIM, -_RIM),) * 3, -1 if rng.random() < 0.5 else 1
        x, y, m = (np.ascontiguousarray(p[inner][::turn]) for p in (seen, truth, mask))
        return x, y, m, np.full((1, 1, 1), index % 2, np.float32)


def _matched(seen: Image, truth: Image, mask: Mask) -> Image:
    """A spoiled cube with the histogram of the truth: blur narrows peaks, noise widens them, a curve undoes both."""
    if np.array_equal(seen, truth):
        return seen
    return CurveMap.through(np.quantile(seen[mask], _RANKS), np.quantile(truth[mask], _RANKS))(seen)


def make_cubes(
    heads: Sequence[Head], target: Target, folder: Path, *, on_head: Callable[[int, int], None] | None = None
) -> Cubes:
    """Write the heads on both grids, where they are not written yet.

    Args:
        heads: Training heads.
        target: With its person model.
        folder: Where they are kept.
        on_head: Called with heads done and their number.
    """
    if target.person is None:
        raise ValueError("the restorer needs the target's person model")
    files = []
    for index, head in enumerate(heads):
        key = head.key
        for grid in ("template", "own"):
            files.append(folder / f"{key}-{grid}.safetensors")
            if not files[-1].exists():
                image, mask = _on(grid, head)
                write_bytes(files[-1], save({"image": image.astype(np.float16), "mask": mask}), overwrite=True)
        if on_head:
            on_head(index + 1, len(heads))
    return Cubes(tuple(files), target.mean_curve, target.person.left_out() - target.quantiles)


def _on(grid: str, head: Head) -> tuple[Image, Mask]:
    """The head on one of its grids, cut to the brain, sides multiples of four and no smaller than a cube."""
    pair: tuple[torch.Tensor, torch.Tensor] = (head.data.float(), head.mask) if grid == "own" else head.image()
    image, mask = pair[0].numpy(), pair[1].numpy()
    box, _ = mask_box(mask, margin=1)
    image, mask = np.where(mask, image, 0)[box].astype(np.float32), mask[box]
    pad = [(0, max(PATCH + 2 * _RIM, n + -n % _SIDE) - n) for n in mask.shape]
    return np.pad(image, pad), np.pad(mask, pad)
