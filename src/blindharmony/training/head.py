"""Training heads: prepared once, kept in a work folder, deformed copies made on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from blindharmony.flow.haar import haar_split
from blindharmony.image import read_volume, write_bytes
from blindharmony.prep.grid import mask_box, shifted, voxel_map
from blindharmony.prep.mask import read_mask
from blindharmony.prep.recipe import PrepRecipe, prepare
from blindharmony.prep.template import load_template
from blindharmony.training.augment import AugmentSpec, deformed_points, sample_at, template_points
from blindharmony.version import VERSION


@dataclass(frozen=True, eq=False)
class Head:
    """A prepared scan on its own grid, cut to the brain, with the way to the template.

    Attributes:
        name: File name.
        data: Flow units, zero outside the mask, float16, shape ``(X, Y, Z)``.
        mask: Brain, same shape.
        to_scan: Template voxel → voxel of ``data``, shape ``(4, 4)``.
        gain: Intensity of 1.0 in the scan's own units.
    """

    name: str
    data: Tensor
    mask: Tensor
    to_scan: NDArray[np.float64]
    gain: float

    @property
    def key(self) -> str:
        """Says what the head is made of, for the names of files made from it."""
        parts = self.data.numpy().tobytes(), self.mask.numpy().tobytes(), np.asarray(self.to_scan).tobytes()
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def image(self, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The head on the 1 mm template grid, as it is or deformed: image and mask ``(160, 192, 160)``."""
        points = template_points(load_template().data.shape)
        if rng is not None:
            points = deformed_points(points, AugmentSpec(), rng)
        return sample_at(self.data.float(), self.mask.float(), points, self.to_scan)


def prepare_head(
    path: Path, recipe: PrepRecipe, folder: Path, *, mask: Path | None = None, mask_command: str | None = None
) -> Head:
    """Prepare a training scan, or take it from ``folder`` if the same file was prepared before in the same way.

    Args:
        path: The scan.
        recipe: How.
        folder: Where prepared heads are kept.
        mask: Its brain mask.
        mask_command: External brain extractor, used if no mask is given and the scan is not stripped.

    Raises:
        BlindHarmonyError: As :func:`~blindharmony.prep.recipe.prepare`, naming the file.
    """
    brain = (mask.read_bytes() if mask else b"") + (mask_command or "").encode()
    key = hashlib.sha256(path.read_bytes() + recipe.digest().encode() + VERSION.encode() + brain).hexdigest()[:16]
    stored = folder / f"{key}.safetensors"
    if stored.exists():
        try:
            found = load_file(stored)
            return Head(path.name, found["data"], found["mask"], found["to_scan"].numpy(), float(found["gain"]))
        except (SafetensorError, KeyError):
            stored.unlink()  # cut off in the middle of a write by something stronger than us
    given = read_mask(mask) if mask else None
    prepared = prepare(read_volume(path), recipe, mask=given, mask_command=mask_command)
    native = prepared.native
    box, _ = mask_box(native.inside(), margin=2)
    matrix = prepared.found("place")["matrix"]
    to_scan = voxel_map(load_template().affine, matrix, shifted(native.affine, box))
    head = Head(
        path.name,
        torch.from_numpy(np.where(native.inside(), native.data, 0)[box]).half(),
        torch.from_numpy(native.inside()[box].copy()),
        to_scan,
        prepared.found("gain")["gain"],
    )
    content = {
        "data": head.data.contiguous(),
        "mask": head.mask.contiguous(),
        "to_scan": torch.from_numpy(to_scan),
        "gain": torch.tensor(head.gain, dtype=torch.float64),
    }
    write_bytes(stored, save(content), overwrite=True)
    return head


def half_resolution(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A 1 mm template image at 2 mm, ``(1, 1, 80, 96, 80)`` each."""
    level = haar_split(image[None, None], mask[None, None])
    return level.coarse, level.coarse_mask
