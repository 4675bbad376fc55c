"""From scans to training heads: preparation, augmentation, who is held out.

More heads from few: deform the scan at full resolution, with the same single interpolation that preparation uses.

A deformed copy of a *prepared* image would be interpolated twice, hence smoother than any real scan, and a flow
trained on it would find real scans too rough. Here the deformation is composed with the affine to the template, so
that an augmented head has been interpolated exactly as often as a real one.

Training heads: prepared once, kept in a work folder, deformed copies made on demand.

All scans of a training prepared, each with the brain mask that is meant for it.

Which scans teach, and which are held out.

The images a flow trains on: every head and deformed copies of it, at half resolution, on disk.

The folder beside a model in which it is made.

How training says where it stands.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.files import entities, locked, write_bytes
from blindharmony.flows.transforms import haar_split
from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.brain import read_mask
from blindharmony.preprocessing.grid import mask_box, shifted, voxel_map
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.preprocessing.registration import load_template
from blindharmony.version import VERSION

# Spread of the knots for a displacement of spread 1: what blur and interpolation average away. The blur leaves 0.375 of
# the variance along each axis, sqrt(0.375³) = 0.23 of the spread, and interpolation three quarters of that.
_KNOTS = 4 / 0.7


class AugmentSpec(BaseModel):
    """How much heads are deformed.

    Attributes:
        linear_sd: Standard deviation of each entry of the linear part (scale, shear, rotation).
        shift_mm: Of the translation.
        bend_mm: Of the smooth displacement, in the middle of a head.
        bend_scale_mm: Distance over which the displacement changes.
        flip: Whether left and right are swapped every other time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    linear_sd: float = 0.03
    shift_mm: float = 1.5
    bend_mm: float = 0.7
    bend_scale_mm: float = 30.0
    flip: bool = True


def template_points(shape: tuple[int, ...]) -> Tensor:
    """Voxel indices of a grid, shape ``(3, X, Y, Z)``."""
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"))


def deformed_points(points: Tensor, spec: AugmentSpec, rng: np.random.Generator) -> Tensor:
    """The points ``p`` of a grid moved to ``A p + u(p)``: a random affine about the centre and a smooth field ``u``.

    Args:
        points: ``(3, X, Y, Z)`` voxel indices, 1 mm apart.
        spec: How much.
        rng: Source of randomness; equal states give equal fields.
    """
    shape = points.shape[1:]
    centre = torch.tensor([(n - 1) / 2 for n in shape]).view(3, 1, 1, 1)
    linear = torch.from_numpy(np.eye(3) + rng.normal(0, spec.linear_sd, (3, 3))).float()
    shift = torch.from_numpy(rng.normal(0, spec.shift_mm, 3)).float().view(3, 1, 1, 1)
    knots = [max(4, round(n / spec.bend_scale_mm)) for n in shape]
    bend = torch.from_numpy(rng.normal(0, _KNOTS * spec.bend_mm, (3, *knots))).float()
    field = F.interpolate(_smooth(bend)[None], tuple(shape), mode="trilinear", align_corners=True)[0]
    moved = torch.einsum("ij,jxyz->ixyz", linear, points - centre) + centre + shift + field
    if spec.flip and rng.random() < 0.5:
        moved[0] = shape[0] - 1 - moved[0]
    return moved


def sample_at(data: Tensor, mask: Tensor, points: Tensor, to_scan: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Sample a masked native scan at template points, as :func:`~blindharmony.preprocessing.grid.sample_inside` does.

    Args:
        data: Native scan ``(X, Y, Z)``, zero outside the mask.
        mask: Its mask as float, same shape.
        points: Template voxel indices ``(3, x, y, z)``.
        to_scan: Template voxel → scan voxel, ``(4, 4)``.

    Returns:
        Image ``(x, y, z)``, zero outside, and mask (bool).
    """
    matrix = torch.from_numpy(to_scan).float()
    index = torch.einsum("ij,jxyz->ixyz", matrix[:3, :3], points) + matrix[:3, 3].view(3, 1, 1, 1)
    size = torch.tensor(data.shape, dtype=torch.float32).view(3, 1, 1, 1)
    unit = 2 * index / (size - 1) - 1
    both = F.grid_sample(torch.stack([data, mask])[None], unit.flip(0).permute(1, 2, 3, 0)[None], align_corners=True)
    value, weight = both[0]
    inside = weight > 0.5
    return (value / weight.clamp_min(0.5)).where(inside, 0.0), inside


def _smooth(knots: Tensor) -> Tensor:
    """A light blur of the knots, so that the field has no kinks at them."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    out = knots[:, None]
    for axis in (2, 3, 4):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = 3
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = 1
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel.view(shape))
    return out[:, 0]


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
        BlindHarmonyError: As :func:`~blindharmony.preprocessing.recipe.prepare`, naming the file.
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
    matrix = prepared.registration.matrix
    to_scan = voxel_map(load_template().affine, matrix, shifted(native.affine, box))
    head = Head(
        path.name,
        torch.from_numpy(np.where(native.inside(), native.data, 0)[box]).half(),
        torch.from_numpy(native.inside()[box].copy()),
        to_scan,
        prepared.gain,
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


def prepare_heads(
    scans: Sequence[Path],
    recipe: PrepRecipe,
    folder: Path,
    say: Report,
    *,
    masks: dict[Path, Path],
    mask_command: str | None = None,
) -> list[Head]:
    """Prepare the scans in turn, or take them from ``folder``.

    Args:
        scans: Training scans.
        recipe: How.
        folder: Where prepared heads are kept.
        say: Told before each scan.
        masks: Brain masks of scans that have one.
        mask_command: External brain extractor for the others.

    Raises:
        BlindHarmonyError: If a scan cannot be prepared; the message names it.
    """
    heads = []
    for index, path in enumerate(scans):
        say(f"preparing {path.name} ({index + 1} of {len(scans)})", index / len(scans), {})
        try:
            heads.append(prepare_head(path, recipe, folder, mask=masks.get(path), mask_command=mask_command))
        except BlindHarmonyError as error:
            if error.path is None:
                raise type(error)(error.what, remedy=error.remedy, path=path) from error
            raise
    return heads


_LEAST, _LEAST_PEOPLE = 5, 3


def hold_out(scans: list[Path], given: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and held-out scans.

    Example:
        >>> training, unseen = hold_out([Path(f"{i}.nii") for i in range(10)], [])
        >>> [p.name for p in unseen]
        ['4.nii', '9.nii']

    All scans of a person are held out, or none:

        >>> training, unseen = hold_out([Path(f"sub-{i}_ses-{s}_T1w.nii") for i in range(5) for s in "12"], [])
        >>> [p.name for p in unseen]
        ['sub-4_ses-1_T1w.nii', 'sub-4_ses-2_T1w.nii']

    The last one where there are fewer than five people:

        >>> training, unseen = hold_out([Path(f"sub-{i}_ses-{s}_T1w.nii") for i in range(3) for s in "12"], [])
        >>> [p.name for p in unseen]
        ['sub-2_ses-1_T1w.nii', 'sub-2_ses-2_T1w.nii']

    Raises:
        UsageError: If there are too few, or a person is among both.
    """
    person = {p.resolve(): person_of(p) for p in (*scans, *given)}
    people = list(dict.fromkeys(person[p.resolve()] for p in scans))
    several = {p.resolve() for p in (*scans, *given)}
    chosen = {p.resolve() for p in given} or {
        p for p, who in person.items() if who in (people[4::5][:4] or people[-1:])
    }
    if len(several) >= _LEAST and len(set(person.values())) < _LEAST_PEOPLE:
        raise UsageError(
            f"{len(several)} scans of {len(set(person.values()))} people are too few people to learn a scanner from",
            remedy=f"give scans of {_LEAST_PEOPLE} at least; 20 are a normal number",
        )
    if len(several) < _LEAST or len(several - chosen) < _LEAST - 1:
        raise UsageError(
            f"{len(several)} scans, {len(several - chosen)} of them to learn from, are too few to learn a scanner from",
            remedy=f"give at least {_LEAST}, {_LEAST - 1} of them not held out; 20 are a normal number",
        )
    training = [p for p in scans if p.resolve() not in chosen]
    both = {person[p.resolve()] for p in training} & {person[p] for p in chosen}
    if both:
        raise UsageError(
            f"sub-{min(both)} is among the scans to learn from and among those held out",
            remedy="hold out all scans of a person, or none",
        )
    return training, given or [p for p in scans if p.resolve() in chosen]


def person_of(scan: Path) -> str:
    """Whose scan a file is: what its name says after ``sub-``, or a person of its own.

    Example:
        >>> person_of(Path("sub-07_ses-2_T1w.nii.gz"))
        '07'
    """
    return entities(scan).get("sub") or str(scan.resolve())


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


_LOCK = "lock"
_BEGUN = ("checkpoint.safetensors", "log.jsonl", "slices.safetensors", "restorer.safetensors")


@contextmanager
def work_folder(model: Path, *, resume: bool, first: bool = True) -> Iterator[Path]:
    """Held by one run at a time; removed when the block ends well, kept for the next run when it does not.

    Prepared scans in it are named by what is in them and always serve again; what an earlier run has learnt only if
    ``resume`` is true. Of several processes that train together the ``first`` one holds it for all.

    Raises:
        OutputError: If another run works there, or it cannot be made.
    """
    work = model.with_name(f"{model.name}.work")
    if not first:
        yield work
        return
    with locked(work / _LOCK, folder=work, optional=True):
        for old in () if resume else _BEGUN:
            work.joinpath(old).unlink(missing_ok=True)
        yield work
        for made in work.iterdir():
            if made.is_dir():
                shutil.rmtree(made)
            elif made.name != _LOCK:
                made.unlink()
    # On a network's disk a file that is open cannot go.
    with suppress(OSError):
        work.joinpath(_LOCK).unlink()
        work.rmdir()


#: Called with a stage's name, the share of it (or of all levels) that is done, and numbers for a log.
Report = Callable[[str, float, dict[str, float]], None]
