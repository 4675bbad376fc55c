"""The training data of a target: which scans are held out, prepared heads, and the 2 mm images that the flow sees.

All intermediate files live in a work folder beside the model. Their names say what they are made of, so that an
interrupted training, and the next one with the same scans, take what is there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.files import entities, file_sha256, real_path, write_bytes
from blindharmony.flows.transforms import haar_split
from blindharmony.io.headers import check_file
from blindharmony.io.volume import read_volume
from blindharmony.locks import locked
from blindharmony.preprocessing.brain import read_mask
from blindharmony.preprocessing.grid import mask_box, shifted, voxel_map
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.preprocessing.registration import load_template
from blindharmony.settings import DeformationSettings, TrainSettings
from blindharmony.training.augmentation import deformed_points, sample_at, template_points
from blindharmony.training.loop import ProcessGroup
from blindharmony.version import VERSION

#: Called with a stage's name, the share of it (or of all levels) that is done, and numbers for a log.
Report = Callable[[str, float, dict[str, float]], None]

# A scanner cannot be told from its people with fewer.
_FEWEST_SCANS = 5
_FEWEST_PEOPLE = 3
_LOCK = "lock"
_LEARNT = ("checkpoint*.safetensors", "log.jsonl")


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
    with locked(work / _LOCK, folder=work):
        for pattern in () if resume else _LEARNT:
            for old in work.glob(pattern):
                old.unlink()
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


def named_scans(scans: Sequence[Path], names: Sequence[str | PathLike[str]]) -> list[Path]:
    """The scans of a subject, or with a file name, that is among the names; a name may also be any file.

    Raises:
        UsageError: If a name is none of all that.

    Example:
        >>> named_scans([Path("sub-01_T1w.nii"), Path("sub-02_T1w.nii")], ["02"])
        [PosixPath('sub-02_T1w.nii')]
    """
    chosen: list[Path] = []
    for name in map(Path, names):
        subject = name.name if name.name.startswith("sub-") else f"sub-{name.name}"
        files = [p for p in scans if real_path(p) == real_path(name)]
        files = files or [p for p in scans if p.name == str(name) or p.name.split("_")[0] == subject]
        files = files or [name] * name.is_file()
        if not files:
            raise UsageError(f"held-out {name} is none of the scans", remedy="name subjects or files among the inputs")
        chosen += files
    return list(dict.fromkeys(chosen))


def hold_out(scans: list[Path], named: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and held-out scans: those that are named, or every fifth person (four at most).

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
    person = {real_path(p): person_of(p) for p in (*scans, *named)}
    people = list(dict.fromkeys(person[real_path(p)] for p in scans))
    every = {real_path(p) for p in (*scans, *named)}
    chosen = {real_path(p) for p in named} or {
        p for p, who in person.items() if who in (people[4::5][:4] or people[-1:])
    }
    if len(every) >= _FEWEST_SCANS and len(set(person.values())) < _FEWEST_PEOPLE:
        raise UsageError(
            f"{len(every)} scans of {len(set(person.values()))} people are too few people to learn a scanner from",
            remedy=f"give scans of {_FEWEST_PEOPLE} people at least, better of 20",
        )
    if len(every) < _FEWEST_SCANS or len(every - chosen) < _FEWEST_SCANS - 1:
        raise UsageError(
            f"too few scans to learn a scanner from: {len(every)}, with {len(chosen)} held out",
            remedy=f"give at least {_FEWEST_SCANS}, {_FEWEST_SCANS - 1} of them not held out; better 20",
        )
    training = [p for p in scans if real_path(p) not in chosen]
    both = {person[real_path(p)] for p in training} & {person[p] for p in chosen}
    if both:
        raise UsageError(
            f"sub-{min(both)} is among the scans to learn from and among those held out",
            remedy="hold out all scans of a person, or none",
        )
    return training, named or [p for p in scans if real_path(p) in chosen]


def person_of(scan: Path) -> str:
    """Whose scan a file is: what its name says after ``sub-``, or a person of its own.

    Example:
        >>> person_of(Path("sub-07_ses-2_T1w.nii.gz"))
        '07'
    """
    return entities(scan).get("sub") or str(real_path(scan))


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

    def image(
        self, rng: np.random.Generator | None = None, deformation: DeformationSettings | None = None
    ) -> tuple[Tensor, Tensor]:
        """The head on the 1 mm template grid, as it is or deformed: image and mask ``(160, 192, 160)``."""
        points = template_points(load_template().data.shape)
        if rng is not None:
            points = deformed_points(points, deformation or DeformationSettings(), rng)
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
    for file in filter(None, (path, mask)):
        check_file(file)
    mask_source = (mask.read_bytes() if mask else b"") + (mask_command or "").encode()
    key = hashlib.sha256(path.read_bytes() + recipe.digest().encode() + VERSION.encode() + mask_source).hexdigest()[:16]
    stored = folder / f"{key}.safetensors"
    if stored.exists():
        try:
            parts = load_file(stored)
            return Head(path.name, parts["data"], parts["mask"], parts["to_scan"].numpy(), float(parts["gain"]))
        except (SafetensorError, KeyError):
            stored.unlink()  # cut off in the middle of a write by something stronger than us
    brain_mask = read_mask(mask) if mask else None
    prepared = prepare(read_volume(path), recipe, mask=brain_mask, mask_command=mask_command)
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


def prepare_heads(
    scans: Sequence[Path],
    recipe: PrepRecipe,
    folder: Path,
    report: Report,
    *,
    masks: dict[Path, Path],
    mask_command: str | None = None,
) -> list[Head]:
    """Prepare the scans in turn, or take them from ``folder``.

    Args:
        scans: Training scans.
        recipe: How.
        folder: Where prepared heads are kept.
        report: Called before each scan.
        masks: Brain masks of scans that have one.
        mask_command: External brain extractor for the others.

    Raises:
        BlindHarmonyError: If a scan cannot be prepared; the message names it.
    """
    heads = []
    for index, path in enumerate(scans):
        report(f"preparing {path.name} ({index + 1} of {len(scans)})", index / len(scans), {})
        try:
            heads.append(prepare_head(path, recipe, folder, mask=masks.get(path), mask_command=mask_command))
        except BlindHarmonyError as error:
            if error.path is None:
                raise type(error)(error.what, remedy=error.remedy, path=path) from error
            raise
    return heads


def half_resolution(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A 1 mm template image at 2 mm, ``(1, 1, 80, 96, 80)`` each."""
    level = haar_split(image[None, None], mask[None, None])
    return level.coarse, level.coarse_mask


@dataclass(frozen=True, eq=False)
class ImagePool:
    """Files of 2 mm images; copy 0 of a head is the head itself.

    Attributes:
        files: By head and copy.
        region: Bool, shape of an image: what lies outside is no part of any mask. None: everything is inside.
    """

    files: tuple[tuple[Path, ...], ...]
    region: Tensor | None = None

    def load(self, head: int, copy: int) -> tuple[Tensor, Tensor]:
        """Image and mask, ``(1, 1, 80, 96, 80)``."""
        parts = load_file(self.files[head][copy])
        image, mask = parts["image"].float(), parts["mask"]
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
    copies: int = 5,
    deformation: DeformationSettings | None = None,
    on_head: Callable[[int, int], None] | None = None,
) -> ImagePool:
    """Make the images that are not there yet.

    Args:
        heads: Training or held-out heads.
        folder: Where they are kept; names hold what the head is made of, its place among the heads, copy and seed.
        seed: Equal seeds give equal copies.
        copies: Deformed copies of each head at most; 0 for held-out heads.
        deformation: How copies differ, and how many images there are at most.
        on_head: Called with heads done and their number.
    """
    deformation = deformation or DeformationSettings()
    copies = max(0, min(copies, deformation.most_images // max(1, len(heads)) - 1))
    rows = []
    for index, head in enumerate(heads):
        row, key = [], head.key
        for copy in range(copies + 1):
            file = folder / f"{key}-{index:04d}-{copy}-{seed}.safetensors"
            row.append(file)
            if not file.exists():
                rng = np.random.default_rng((seed, index, copy)) if copy else None
                image, mask = half_resolution(*head.image(rng, deformation))
                content = save({"image": image.half().contiguous(), "mask": mask.contiguous()})
                write_bytes(file, content, overwrite=True)
        rows.append(tuple(row))
        if on_head:
            on_head(index + 1, len(heads))
    return ImagePool(tuple(rows))


def mean_image(pool: ImagePool) -> tuple[Tensor, Tensor]:
    """Mean of the unchanged heads inside their masks, and the share of masks at each voxel, ``(80, 96, 80)``."""
    total = torch.zeros(1)
    weight = torch.zeros(1)
    for head in range(len(pool.files)):
        image, mask = pool.load(head, 0)
        total, weight = total + image[0, 0], weight + mask[0, 0].float()
    return total / weight.clamp_min(1), weight / len(pool.files)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All that a target is learnt from.

    Attributes:
        heads: Prepared scans that every network learns from.
        held_out: Prepared scans that choose weights and are judged; only the person model learns from them.
        images: The training heads and deformed copies of them at 2 mm.
        held_out_images: The held-out heads at 2 mm.
        people: Whose scan each is, training heads first.
        learnt_from: SHA-256 of all files, first 16 digits, sorted.
    """

    heads: Sequence[Head]
    held_out: Sequence[Head]
    images: ImagePool
    held_out_images: ImagePool
    people: tuple[str, ...]
    learnt_from: tuple[str, ...]


def training_data(
    training: Sequence[Path],
    held_out: Sequence[Path],
    folder: Path,
    settings: TrainSettings,
    recipe: PrepRecipe,
    *,
    masks: dict[Path, Path],
    group: ProcessGroup,
    report: Report,
) -> TrainingData:
    """Prepare all scans and make the images of the flow; several processes share the scans.

    Args:
        training: Scans to learn from.
        held_out: Scans that choose weights and are judged.
        folder: Where prepared heads and images are kept.
        settings: Seed, copies, how they are deformed, brain extractor.
        recipe: Preparation.
        masks: Brain masks of scans that have one.
        group: The processes that share the work.
        report: Called with stage, share done and numbers.

    Raises:
        BlindHarmonyError: If a scan cannot be prepared; the message names it.
    """
    scans = [*training, *held_out]
    prepared = partial(
        prepare_heads, recipe=recipe, folder=folder, report=report, masks=masks, mask_command=settings.mask_command
    )
    if group.size > 1:
        prepared([scans[i] for i in group.share(len(scans))])
        group.wait()
    everybody = prepared(scans)
    # Now, not hours later: what has been prepared is not read again.
    digests = tuple(sorted(file_sha256(path)[:16] for path in scans))
    heads, unseen = everybody[: len(training)], everybody[len(training) :]
    images = group.after_first(
        lambda: make_pool(
            heads,
            folder,
            seed=settings.seed,
            copies=settings.copies,
            deformation=settings.deformation,
            on_head=lambda done, total: report("deforming heads", done / total, {}),
        )
    )
    held_out_images = group.after_first(lambda: make_pool(unseen, folder, seed=settings.seed, copies=0))
    return TrainingData(heads, unseen, images, held_out_images, tuple(map(person_of, scans)), digests)
