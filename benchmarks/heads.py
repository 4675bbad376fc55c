"""Prepared scans of a BIDS study, kept in a work folder, so that a benchmark prepares each only once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blindharmony.image import find_scans, read_volume
from blindharmony.prep.grid import sample, voxel_map
from blindharmony.prep.orient import Orient
from blindharmony.prep.recipe import Done, Prepared, PrepRecipe, prepare
from blindharmony.prep.step import Scan
from blindharmony.prep.steps import Gain
from blindharmony.prep.template import load_template

RANKS = (np.arange(512) + 0.5) / 512


@dataclass(frozen=True, eq=False)
class Head:
    """A prepared scan on the template grid: flow units, brain, manual tissue labels if there are any.

    ``raw`` is the scan as it came, its axes turned, with its mask; ``raw_labels`` the labels there; ``matrix`` its
    place in the template and ``gain`` the scanner's unit.
    """

    subject: str
    image: np.ndarray
    mask: np.ndarray
    labels: np.ndarray | None
    raw: Scan
    raw_labels: np.ndarray | None
    matrix: np.ndarray
    gain: float


def heads_of(study: Path, subjects, work: Path, recipe: PrepRecipe | None = None) -> list[Head]:
    """The first T1w scan of each subject, prepared or taken from the work folder."""
    work.mkdir(parents=True, exist_ok=True)
    found = []
    for subject in subjects:
        stored = work / f"{study.name}_{subject}.npz"
        if not stored.exists():
            path = find_scans([study], participant_labels=[subject])[0]
            np.savez(stored, **_prepared(path, study, subject, recipe or PrepRecipe()))
            print("prepared", study.name, subject, flush=True)
        kept = np.load(stored)
        raw = Scan(kept["raw"], kept["affine"], kept["raw_mask"])
        labels, raw_labels = (kept.get(k) for k in ("labels", "raw_labels"))
        found.append(
            Head(subject, kept["image"], kept["mask"], labels, raw, raw_labels, kept["matrix"], float(kept["gain"]))
        )
    return found


def _prepared(path, study, subject, recipe):
    volume = read_volume(path)
    done = prepare(volume, recipe)
    inside = done.scan.inside()
    raw = done.history[2].before
    matrix = done.found("place")["matrix"]
    content = {"image": np.where(inside, done.scan.data, 0), "mask": inside, "gain": done.found("gain")["gain"]}
    content |= {"raw": raw.data, "raw_mask": raw.inside(), "affine": raw.affine, "matrix": matrix}
    manual = study / "derivatives" / "manual" / subject / "anat" / f"{subject}_dseg.nii.gz"
    if manual.exists():
        given = read_volume(manual)
        scan = Scan(given.data, given.affine)
        upright = Orient().apply(scan, Orient().params(scan))
        to_scan = voxel_map(load_template().affine, matrix, upright.affine)
        shares = [sample((upright.data == k).astype(np.float32), to_scan, inside.shape) for k in (1, 2, 3)]
        labels = np.where(np.max(shares, 0) > 0.25, np.argmax(shares, 0) + 1, 0)
        content["raw_labels"] = upright.data.astype(np.uint8)
        content["labels"] = np.where(inside, labels, 0).astype(np.uint8)
    return content


def prepared_with(scan: Scan, recipe: PrepRecipe, matrix) -> Prepared:
    """A changed scan prepared with the mask and the place of the scan it was made from."""
    found, *rest = recipe.steps(mask=scan.mask)
    history = [Done(found, {"mask": scan.mask, "source": "given"}, scan)]
    for step in rest:
        params = {"matrix": matrix, "overlap": 1.0} if step.name == "place" else step.params(scan)
        history.append(Done(step, params, scan))
        scan = step.apply(scan, params)
    return Prepared(scan, tuple(history))


def inside(scan: Scan):
    """Intensities, zero outside the mask."""
    return np.where(scan.inside(), scan.data, 0).astype(np.float32)


def rescaled(image, mask):
    """An image of the template grid with the gain that preparation gives."""
    scan = on_template(image, mask)
    return inside(Gain().apply(scan, Gain().params(scan)))


def on_template(image, mask):
    """An image of the template grid as a scan."""
    return Scan(np.where(mask, image, 0).astype(np.float32), load_template().affine, mask)
