"""Does the target say so when a scan cannot be explained? Spoiled copies of a good scan, through the command.

    python benchmarks/spoiled.py GOOD.nii.gz WHOLE_HEAD.nii.gz --real SCAN ... --out docs/measured_spoiled.json

GOOD is a scan of the target scanner that never trained, WHOLE_HEAD a scan with its skull. Each copy is written as a
file, some with a brain mask, and given to `blindharmony assess FILE --json`. Where a scan is zero its copy is zero too.
Scans given with --real are assessed as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from blindharmony.io.volume import read_volume
from blindharmony.models.file import load_target
from blindharmony.preprocessing.recipe import prepare


def spoiled(x, brain, affine):
    """Name → image, affine, mask or None. Intensities are those of the file."""
    rng = np.random.default_rng(0)
    white = float(np.quantile(x[brain], 0.9))
    noise = [rng.normal(0, 0.12 * white, x.shape) for _ in range(2)]
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    right, front, up = (int(np.abs(affine[axis, :3]).argmax()) for axis in range(3))
    middle = [int(np.median(np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis))))) for axis in range(3)]

    def side(axis, start, stop):
        cut = [slice(None)] * 3
        cut[axis] = slice(start, stop)
        kept = np.zeros(x.shape, bool)
        kept[tuple(cut)] = True
        return kept

    def end(axis, mm):
        """All but the last millimetres of the brain in the direction of growing world coordinates."""
        low, high = np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis)))[[0, -1]]
        count = round(mm / voxel[axis])
        grows = affine[:3, axis][np.abs(affine[:3, axis]).argmax()] > 0
        return side(axis, 0, high - count) if grows else side(axis, low + count, x.shape[axis])

    half = side(right, 0, middle[right])
    no_top = end(up, 40)
    knots = np.array([0.0, 0.3, 0.6, 0.9, 1.2, 1.6]) * white
    t2 = np.interp(x, knots, np.array([1.0, 0.95, 0.7, 0.45, 0.3, 0.25]) * 1.5 * white)
    t2_head = np.where(x > 0.05 * white, t2, x)
    inverted = np.where(x > 0.05 * white, np.maximum(1.6 * white - x, 0.02 * white), x)
    shift = round(20 / voxel[front])
    moved = affine.copy()
    moved[1, 3] += 20
    gamma = white * (np.maximum(x, 0) / white) ** 1.5
    only_noise = rng.uniform(0.2, 1.5, x.shape) * white
    cases = {
        "as it is": (x, affine, None),
        "gamma 1.5": (gamma, affine, None),
        "moved by 20 mm in its header": (x, moved, None),
        "blurred, sigma 1.5 mm": (ndimage.gaussian_filter(x, 1.5 / voxel), affine, None),
        "Rician noise 12 % of white matter": (np.hypot(x + noise[0], noise[1]), affine, None),
        "T2-like": (t2_head, affine, None),
        "inverted": (inverted, affine, None),
        "noise only": (only_noise, affine, None),
        "left half only": (x * half, affine, None),
        "left half only, mask cut too": (x * half, affine, brain & half),
        "good scan, half a mask": (x, affine, brain & half),
        "40 mm of the top missing": (x * no_top, affine, None),
        "mask without 40 mm of the top": (x, affine, brain & no_top),
        "mask 20 mm off": (x, affine, np.roll(brain, shift, front)),
        "mask 6 mm too thick": (x, affine, ndimage.distance_transform_edt(~brain, sampling=voxel) <= 6),
        "mask 4 mm too thin": (x, affine, ndimage.distance_transform_edt(brain, sampling=voxel) > 4),
        "no skull strip: the whole head as mask": (x, affine, ndimage.binary_fill_holes(x > 0.1 * white)),
        "no skull strip: the whole field of view as mask": (x, affine, side(right, 1, x.shape[right])),
    }
    return {name: (np.where(x == 0, 0, image), place, mask) for name, (image, place, mask) in cases.items()}


def copied(folder, target, image, affine, mask):
    """The answer for a changed copy."""
    file, mask_file = folder / "scan_T1w.nii.gz", None
    nib.save(nib.Nifti1Image(np.asarray(image, np.float32), affine), file)
    if mask is not None:
        mask_file = folder / "mask.nii.gz"
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), mask_file)
    return assessed(file, target, mask_file)


def assessed(file, target, mask=None):
    """What `blindharmony assess FILE --json` answers."""
    words = [sys.executable, "-m", "blindharmony", "assess", str(file), "--target", target, "--full", "--json", "-q"]
    if mask is not None:
        words += ["--mask", str(mask)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    if found["failed"]:
        return {"exit": done.returncode, "error": found["failed"][0]["what"]}
    one = found["scans"][0]
    levels = {when: [r["excess"] for r in one[when] if r["name"] not in ("intensities", "in all")] for when in _WHEN}
    return {
        "exit": done.returncode,
        "verdict": one["verdict"],
        "reasons": one["reasons"],
        "warnings": one["warnings"],
        "intensities": next(r["excess"] for r in one["before"] if r["name"] == "intensities"),
        **{f"worst level {when}": max(values) for when, values in levels.items()},
        "finest level after": levels["after"][0],
        "order": one["order"],
        **one["mask"],
    }


_WHEN = ("before", "after")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--real", nargs="*", type=Path, default=[])
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.scans:
            volume = read_volume(path)
            prepared = prepare(volume, target.info.recipe)
            brain = prepared.to_file_grid(prepared.native.inside().astype(np.float32)) > 0.5
            for name, case in spoiled(volume.data, brain, volume.affine).items():
                rows.append({"scan": path.name, "case": name, **copied(Path(folder), arguments.target, *case)})
                short = {k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}
                print(short, flush=True)
    for path in arguments.real:
        study = next((p.parent.name for p in path.parents if p.name.startswith("sub-")), "")
        rows.append({"scan": path.name, "case": "real", "study": study, **assessed(path, arguments.target)})
        print(rows[-1], flush=True)
    arguments.out.write_text(json.dumps({"target": target.digest, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
