"""Prepared scans of a BIDS set, kept in a folder, so that each is prepared only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from blindharmony.errors import BlindHarmonyError, InputError
from blindharmony.files import file_sha256, write_bytes
from blindharmony.io.bids import find_scans
from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.brain import BrainMask, ExtractBrain
from blindharmony.preprocessing.grid import sample, voxel_map
from blindharmony.preprocessing.recipe import Prepared, PrepRecipe, prepare, run_steps
from blindharmony.preprocessing.registration import Register, Registration, load_template
from blindharmony.preprocessing.steps import NormalizeGain, Reorient, Scan
from blindharmony.study.ledger import key_of
from blindharmony.version import VERSION
from blindharmony_benchmark.system import Say

_LABELLED = 0.25


@dataclass(frozen=True, eq=False)
class Head:
    """A prepared scan on the template grid, and the scan as it came.

    Attributes:
        subject: Whose.
        image: Flow units, zero outside the mask, shape ``(X, Y, Z)`` of the template.
        mask: Brain, same shape.
        labels: Manual tissues there (1 CSF, 2 grey, 3 white), if there are any.
        raw: The scan as it came, its axes turned, with its mask.
        raw_labels: The labels there.
        matrix: Template world (mm) → scan world (mm).
        gain: The scanner's unit.
    """

    subject: str
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.uint8] | None
    raw: Scan
    raw_labels: NDArray[np.uint8] | None
    matrix: NDArray[np.float64]
    gain: float


@dataclass(frozen=True)
class Files:
    """The files of one subject.

    Attributes:
        scan: The first T1w scan.
        labels: Manual tissues on its grid, if there are any:
            ``derivatives/manual/SUBJECT/anat/SUBJECT_dseg.nii.gz`` of its set.
    """

    scan: Path
    labels: Path | None

    @classmethod
    def of(cls, study: Path, subject: str) -> Files:
        """Found in a BIDS set.

        Raises:
            BlindHarmonyError: If there is no such subject, or it has no scan.
        """
        labels = study / "derivatives" / "manual" / subject / "anat" / f"{subject}_dseg.nii.gz"
        scan = find_scans([study], participant_labels=[subject])[0]
        return cls(scan, labels if labels.exists() else None)

    def key(self, recipe: PrepRecipe) -> str:
        """What a prepared scan is made of, in twelve letters."""
        return key_of(VERSION, recipe.digest(), file_sha256(self.scan), self.labels and file_sha256(self.labels))[:12]


def heads_of(
    study: Path, subjects: Sequence[str], folder: Path, recipe: PrepRecipe | None = None, say: Say | None = None
) -> list[Head]:
    """The first T1w scan of each subject, prepared or taken from the folder where they are kept.

    Args:
        study: BIDS data set.
        subjects: ``sub-…``.
        folder: Where prepared scans are kept.
        recipe: Of the target.
        say: Told which scan is being prepared.

    Raises:
        BlindHarmonyError: If there is no such scan, or its preparation fails.
    """
    used = recipe or PrepRecipe()
    found = []
    for index, subject in enumerate(subjects):
        files = Files.of(study, subject)
        kept = folder / f"{study.name}_{subject}_{files.key(used)}.safetensors"
        if not kept.exists():
            if say:
                say(f"preparing {study.name} {subject}", index / len(subjects))
            try:
                content = _prepared(files, used)
            except BlindHarmonyError as error:
                raise type(error)(error.what, remedy=error.remedy, path=error.path or files.scan) from error
            write_bytes(kept, save({k: np.ascontiguousarray(v) for k, v in content.items()}), overwrite=True)
        found.append(_read(kept, subject))
    return found


def _read(file: Path, subject: str) -> Head:
    try:
        kept = load_file(file)
        raw = Scan(kept["raw"], kept["affine"], kept["raw_mask"])
        labels, raw_labels = (kept.get(k) for k in ("labels", "raw_labels"))
        gain = kept["gain"].item()
        return Head(subject, kept["image"], kept["mask"], labels, raw, raw_labels, kept["matrix"], gain)
    except (SafetensorError, KeyError) as error:
        raise InputError("this is no prepared scan", remedy="remove it and run again", path=file) from error


def _prepared(files: Files, recipe: PrepRecipe) -> dict[str, Any]:
    done = prepare(read_volume(files.scan), recipe)
    inside = done.scan.inside()
    raw = next(d.before for d in done.history if not isinstance(d.step, Reorient | ExtractBrain))
    matrix = done.registration.matrix
    content = {"image": inside_of(done.scan), "mask": inside, "gain": done.gain}
    content |= {"raw": raw.data, "raw_mask": raw.inside(), "affine": raw.affine, "matrix": matrix}
    if files.labels is not None:
        given = read_volume(files.labels)
        scan = Scan(given.data, given.affine)
        upright = Reorient().apply(scan, Reorient().estimate(scan))
        to_scan = voxel_map(load_template().affine, matrix, upright.affine)
        shares = [sample((upright.data == k).astype(np.float32), to_scan, inside.shape) for k in (1, 2, 3)]
        labels = np.where(np.max(shares, 0) > _LABELLED, np.argmax(shares, 0) + 1, 0)
        content["raw_labels"] = upright.data.astype(np.uint8)
        content["labels"] = np.where(inside, labels, 0).astype(np.uint8)
    return content


def prepared_with(scan: Scan, recipe: PrepRecipe, matrix: NDArray[np.float64]) -> Prepared:
    """A changed scan prepared with the mask and the place of the scan it was made from."""
    _, *steps = recipe.preparation.steps  # its axes are in order already
    known = {ExtractBrain.key: BrainMask(scan.inside(), "given"), Register.key: Registration(matrix, 1.0)}
    return run_steps(scan, steps, known=known)


def inside_of(scan: Scan) -> NDArray[np.float32]:
    """Intensities, zero outside the mask."""
    return np.where(scan.inside(), scan.data, 0).astype(np.float32)


def rescaled(image: NDArray[np.floating[Any]], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """An image of the template grid with the gain that preparation gives."""
    scan = Scan(np.where(mask, image, 0).astype(np.float32), load_template().affine, mask)
    return inside_of(NormalizeGain().apply(scan, NormalizeGain().estimate(scan)))
