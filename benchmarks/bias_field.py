"""Bias fields side by side: N4 as ITK has it, N4 on clean cells, and least entropy.

    python benchmarks/bias_field.py --labels DSEG ... --scans SCAN:MASK ... --out bias_field.json

Labels (1 fluid, 2 grey, 3 white) make heads that truly have no field: tissue means through a gamma, noise of 0.03,
times a known smooth field of spread 0.25. For every estimator: the root mean square error of the field, and how far
"field found with minus field found without" is from the known one. Scans add the same known field to real heads, where
only the second can be told, and the seconds of processor time. Fields are compared inside the mask, mean taken out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from blindharmony.preprocessing.bias import log_bias

CONTRASTS = ((0.7, 1.0), (0.55, 1.0), (0.85, 1.0), (0.7, 0.7), (0.7, 1.5))
SPREAD, NOISE, FLUID = 0.25, 0.03, 0.3


def ours(method):
    def estimate(data, affine, mask):
        return log_bias(data, np.linalg.norm(affine[:3, :3], axis=0).tolist(), mask, method=method)

    return estimate


ESTIMATORS = {method: ours(method) for method in ("n4-itk", "n4", "entropy")}


def known_field(mask, seed=1):
    """A polynomial of third order, mean 0 and spread 0.25 in the mask."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in mask.shape], indexing="ij", sparse=True)
    powers = [(i, j, k) for i in range(4) for j in range(4) for k in range(4) if 0 < i + j + k <= 3]
    field = sum(rng.normal() * axes[0] ** i * axes[1] ** j * axes[2] ** k for i, j, k in powers)
    field = field - field[mask].mean()
    return field * SPREAD / field[mask].std()


def rms(field, mask):
    return round(float(field[mask].std()), 4)


def compared(image, affine, mask, estimators, *, clean):
    """Rows of one head: errors and seconds of each estimator."""
    truth = known_field(mask)
    rows = {}
    for name in estimators:
        begin = time.process_time()
        without = ESTIMATORS[name](image, affine, mask)
        seconds = time.process_time() - begin
        field = ESTIMATORS[name]((image * np.exp(truth)).astype(np.float32), affine, mask)
        row = {"consistent": rms(field - without - truth, mask), "seconds": round(seconds, 2)}
        rows[name] = {"error": rms(field - truth, mask), **row} if clean else row
        print(name, rows[name], flush=True)
    return rows


def head(labels, gray, gamma):
    tissue = np.array([0, FLUID, gray, 1.0])[labels]
    noisy = tissue + NOISE * np.random.default_rng(0).normal(size=tissue.shape)
    return (np.maximum(noisy, 1e-3) ** gamma * (labels > 0)).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="*", type=Path, default=[])
    parser.add_argument("--scans", nargs="*", default=[], metavar="SCAN:MASK")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    record = {"labels": {}, "scans": {}}
    for path in arguments.labels:
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(image.dataobj).astype(int)
        for gray, gamma in CONTRASTS:
            key = f"{path.parts[-6]} {path.name.split('_')[0]}, grey/white {gray:g}, gamma {gamma:g}"
            print(key)
            data = head(labels, gray, gamma)
            record["labels"][key] = compared(data, image.affine, labels > 0, arguments.estimators, clean=True)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    for pair in arguments.scans:
        scan, mask = (nib.as_closest_canonical(nib.load(name)) for name in pair.split(":"))
        data, inside = np.asarray(scan.dataobj, np.float32), np.asarray(mask.dataobj) > 0
        key = Path(pair.split(":")[0]).name.split("_")[0]
        print(key)
        record["scans"][key] = compared(data, scan.affine, inside, arguments.estimators, clean=False)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
