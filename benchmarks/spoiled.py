"""Does the target say so when a scan cannot be explained? Real scans of four scanners, and spoiled ones.

    python benchmarks/spoiled.py GOOD.nii.gz OTHER.nii.gz ... --out docs/measured_spoiled.json

GOOD is a scan of the target scanner that never trained; it is also spoiled in several ways after preparation. Each
image is histogram-matched to the target, so that only what a curve cannot mend is left. Printed: the excess of the
least probable level, in spreads of the target's held-out scans.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.typicality import typicality
from blindharmony.image import read_volume
from blindharmony.prep.recipe import prepare
from blindharmony.target import load_target


def spoiled(x, mask):
    """Name → image and mask."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.12, x.shape) for _ in range(2)]
    return {
        "as it is": (x, mask),
        "gamma 1.5": (np.maximum(x, 0) ** 1.5, mask),
        "inverted contrast": (2 - np.clip(x, 0, 1.95), mask),
        "noise only": (rng.uniform(0.2, 1.5, x.shape), mask),
        "Rician noise 12 %": (np.hypot(x + noise[0], noise[1]), mask),
        "moved by 20 mm": (np.roll(x, 20, 1), np.roll(mask, 20, 1)),
        "blurred, sigma 1.5 mm": (ndimage.gaussian_filter(x, 1.5), mask),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    rows = []
    for index, path in enumerate(arguments.scans):
        scan = prepare(read_volume(path), target.info.recipe).scan
        cases = spoiled(scan.data, scan.inside()) if index == 0 else {"as it is": (scan.data, scan.inside())}
        for name, (image, mask) in cases.items():
            image = np.where(mask, image, 0).astype(np.float32)
            before = typicality(image, mask, target)
            after = typicality(estimate("match", image, mask, target).image, mask, target)
            row = {"scan": path.name, "case": name, "excess before": before.excess, "excess after": after.excess}
            rows.append({**row, "smoother": after.smoother, "by level": after.excesses})
            print({k: round(v, 1) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    arguments.out.write_text(json.dumps({"target": target.digest, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
