"""Prepared scans of a BIDS set, kept in a folder, so that each is prepared only once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from blindharmony.errors import BlindHarmonyError, InputError
from blindharmony.files import file_sha256, write_bytes
from blindharmony.io.bids import find_scans
from blindharmony.io.volume import read_volume
from blindharmony.models.tissue import included_tissue, tissue_posterior
from blindharmony.preprocessing.brain import BrainMask, ExtractBrain
from blindharmony.preprocessing.grid import sample, voxel_map
from blindharmony.preprocessing.recipe import Prepared, PrepRecipe, prepare, run_steps
from blindharmony.preprocessing.registration import Register, Registration, load_template
from blindharmony.preprocessing.steps import NormalizeGain, Reorient, Scan
from blindharmony.study.ledger import key_of
from blindharmony.version import VERSION
from blindharmony_benchmark.system import Say

#: Folders of labels in ``derivatives``, the better first: by hand, by SAMSEG, and by a network that no harmonization
#: taught.
LABELS = ("manual", "samseg", "silver")
_LABELLED = 0.25
_FIRST: Mapping[str, Path] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Head:
    """A prepared scan on the template grid, and the scan as it came.

    Attributes:
        subject: Whose.
        image: Flow units, zero outside the mask, shape ``(X, Y, Z)`` of the template.
        mask: Brain, same shape.
        labels: Tissues there (1 CSF, 2 grey, 3 white), from a file or by the tissue network.
        matrix: Template world (mm) → scan world (mm).
        gain: The scanner's unit.
        file: Where it is kept, with the scan as it came: dozens of those do not fit into memory.
        labels_file: The same of the labels.
    """

    subject: str
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.uint8] | None
    matrix: NDArray[np.float64]
    gain: float
    file: Path
    labels_file: Path | None = None

    @property
    def raw(self) -> Scan:
        """The scan as it came, its axes turned, with its mask; read anew each time."""
        with _opened(self.file) as kept:
            return Scan(*(kept.get_tensor(k) for k in ("raw", "affine", "raw_mask")))

    @property
    def raw_labels(self) -> NDArray[np.uint8] | None:
        """The labels there; read anew each time."""
        if self.labels_file is None:
            return None
        with _opened(self.labels_file) as kept:
            found: NDArray[np.uint8] = kept.get_tensor("raw_labels")
            return found


@dataclass(frozen=True)
class Files:
    """The files of one subject.

    Attributes:
        scan: The T1w scan.
        labels: Tissues on its grid, ``derivatives/KIND/SUBJECT/anat/SUBJECT_dseg.nii.gz`` of its set; None where there
            are none, and the tissue network finds them.
        labelled_by: KIND, one of ``LABELS``; ``network`` where there is no file.
    """

    scan: Path
    labels: Path | None
    labelled_by: str

    @classmethod
    def of(cls, study: Path, subject: str, scan: Path | None = None) -> Files:
        """Found in a BIDS set.

        Args:
            study: BIDS data set.
            subject: ``sub-…``.
            scan: The one to take, of several; the first if None.

        Raises:
            BlindHarmonyError: If there is no such subject, or it has no scan.
        """
        if scan is not None:  # labels are those of the first scan
            return cls(scan, None, "network")
        scan = find_scans([study], participant_labels=[subject])[0]
        places = ((kind, study / "derivatives" / kind / subject / "anat") for kind in LABELS)
        files = ((kind, folder / f"{subject}_dseg.nii.gz") for kind, folder in places)
        kind, labels = next(((k, f) for k, f in files if f.exists()), ("network", None))
        return cls(scan, labels, kind)

    def prepared_key(self, recipe: PrepRecipe) -> str:
        """What a prepared scan is made of, in twelve letters."""
        return key_of(VERSION, recipe.digest(), file_sha256(self.scan), None)[:12]

    def labels_key(self) -> str:
        """What its labels are made of: another file, or another tissue network, gives other labels."""
        file = self.labels or included_tissue()
        return f"{self.labelled_by}-{file_sha256(file)[:8]}"

    def key(self, recipe: PrepRecipe) -> str:
        """What the scan and its labels are made of."""
        return f"{self.prepared_key(recipe)}-{self.labels_key()}"


def kept_file(folder: Path, study: Path, subject: str, files: Files, recipe: PrepRecipe) -> Path:
    """Where a prepared scan is kept."""
    return folder / f"{study.name}_{subject}_{files.prepared_key(recipe)}.safetensors"


def heads_of(
    study: Path,
    subjects: Sequence[str],
    folder: Path,
    recipe: PrepRecipe | None = None,
    say: Say | None = None,
    scans: Mapping[str, Path] = _FIRST,
) -> list[Head]:
    """A T1w scan of each subject, prepared or taken from the folder where they are kept.

    Args:
        study: BIDS data set.
        subjects: ``sub-…``.
        folder: Where prepared scans are kept.
        recipe: Of the target.
        say: Told which scan is being prepared.
        scans: Subject → which of its scans; the first where it is not named.

    Raises:
        BlindHarmonyError: If there is no such scan, or its preparation fails.
    """
    used = recipe or PrepRecipe()
    found = []
    for index, subject in enumerate(subjects):
        files = Files.of(study, subject, scans.get(subject))
        kept = kept_file(folder, study, subject, files, used)
        if not kept.exists():
            if say:
                say(f"preparing {study.name} {subject}", index / len(subjects))
            try:
                content = _prepared(files, used)
            except BlindHarmonyError as error:
                raise type(error)(error.what, remedy=error.remedy, path=error.path or files.scan) from error
            write_bytes(kept, save({k: np.ascontiguousarray(v) for k, v in content.items()}), overwrite=True)
        head = _read(kept, subject)
        labelled = kept.with_suffix(f".{files.labels_key()}.safetensors")
        if not labelled.exists():
            content = _labels(head, files)
            write_bytes(labelled, save({k: np.ascontiguousarray(v) for k, v in content.items()}), overwrite=True)
        with _opened(labelled) as labels:
            found.append(replace(head, labels=labels.get_tensor("labels"), labels_file=labelled))
    return found


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "np") as kept:
            yield kept
    except (SafetensorError, KeyError) as error:
        raise InputError("this is no prepared scan", remedy="remove it and run again", path=file) from error


def _read(file: Path, subject: str) -> Head:
    with _opened(file) as kept:
        image, mask, matrix, gain = (kept.get_tensor(k) for k in ("image", "mask", "matrix", "gain"))
    return Head(subject, image, mask, None, matrix, gain.item(), file)


def _prepared(files: Files, recipe: PrepRecipe) -> dict[str, Any]:
    done = prepare(read_volume(files.scan), recipe)
    raw = next(d.before for d in done.history if not isinstance(d.step, Reorient | ExtractBrain))
    content = {"image": inside_of(done.scan), "mask": done.scan.inside(), "gain": done.gain}
    return content | {
        "raw": raw.data,
        "raw_mask": raw.inside(),
        "affine": raw.affine,
        "matrix": done.registration.matrix,
    }


def _labels(head: Head, files: Files) -> dict[str, NDArray[np.uint8]]:
    """Labels on the template's grid and on the scan's own, from a file or by the tissue network."""
    template, to_scan = load_template().affine, head.matrix
    if files.labels is None:
        labels = network_labels(head.image, head.mask)
        return {
            "labels": labels,
            "raw_labels": _carried(labels, template, np.linalg.inv(to_scan).astype(np.float64), head.raw),
        }
    given = read_volume(files.labels)
    scan = Scan(given.data, given.affine)
    upright = Reorient().apply(scan, Reorient().estimate(scan))
    there = Scan(head.image, template, head.mask)
    labels = np.where(head.mask, _carried(upright.data, upright.affine, to_scan, there), 0).astype(np.uint8)
    return {"labels": labels, "raw_labels": upright.data.astype(np.uint8)}


def _carried(
    labels: NDArray[Any], affine: NDArray[np.float64], matrix: NDArray[np.float64], grid: Scan
) -> NDArray[np.uint8]:
    """Labels on another grid: the tissue with the largest share of each voxel."""
    to_labels = voxel_map(grid.affine, matrix, affine)
    shares = [sample((labels == k).astype(np.float32), to_labels, grid.data.shape) for k in (1, 2, 3)]
    return np.where(np.max(shares, 0) > _LABELLED, np.argmax(shares, 0) + 1, 0).astype(np.uint8)


def network_labels(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The likeliest tissue of every voxel of the brain by the included tissue network: 1 CSF, 2 grey, 3 white matter.

    Args:
        image: A prepared scan on the template's grid, shape ``(X, Y, Z)``.
        mask: Brain.
    """
    found: NDArray[np.uint8] = np.where(mask, tissue_posterior(image, mask).argmax(0) + 1, 0).astype(np.uint8)
    return found


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
