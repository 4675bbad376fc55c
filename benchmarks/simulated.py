"""Simulated source scanners: how near each method comes to the scan that the target scanner really made.

    python benchmarks/simulated.py DATA --labels 51 52 53 54 55 56 57 58 --out docs/measured_simulated.json

DATA is a BIDS study of the target scanner; the labels are subjects that never trained. Every scan is prepared, its
intensities are changed as another scanner might, and each method gets the changed image. The truth is the prepared
scan itself. Monotone changes give rank-based methods one and the same task, so a single one (gamma 1.5) stands for
the eight of the paper. PSNR inside the mask, data range: the truth's 99th percentile.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from blindharmony.harmonization.methods import estimate
from blindharmony.image import find_scans, read_volume
from blindharmony.prep.recipe import prepare
from blindharmony.report.metrics import local_spearman, psnr, ssim
from blindharmony.target import load_target


def gamma(x, mask, power=1.5):
    top = np.quantile(x[mask], 0.999)
    return (np.maximum(x, 0) / top) ** power * top


def measure(truth, image, mask):
    reach = float(np.quantile(truth[mask], 0.99))
    return {
        "psnr": psnr(truth, image, mask, data_range=reach),
        "ssim": ssim(truth, image, mask, data_range=reach),
        "local_spearman": local_spearman(truth, image, mask),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--methods", nargs="+", default=["match", "curve"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    rows = []
    for path in find_scans([arguments.data], participant_labels=arguments.labels):
        prepared = prepare(read_volume(path), target.info.recipe)
        truth, mask = prepared.scan.data, prepared.scan.inside()
        source = np.where(mask, gamma(truth, mask), 0).astype(np.float32)
        gain = np.sqrt((truth[mask] ** 2).mean() / (source[mask] ** 2).mean())
        rows.append({"scan": path.name, "method": "source (gain only)", **measure(truth, source * gain, mask)})
        for method in arguments.methods:
            began = time.perf_counter()
            found = estimate(method, source, mask, target)
            seconds = time.perf_counter() - began
            rows.append({"scan": path.name, "method": method, "seconds": seconds, **measure(truth, found.image, mask)})
        print(path.name, {r["method"]: round(r["psnr"], 1) for r in rows if r["scan"] == path.name}, flush=True)
    table = {}
    for method in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == method]
        values = np.array([r["psnr"] for r in own])
        table[method] = {
            "psnr mean": round(float(values.mean()), 2),
            "psnr worst": round(float(values.min()), 2),
            "ssim mean": round(float(np.mean([r["ssim"] for r in own])), 4),
            "local spearman median": round(float(np.median([r["local_spearman"] for r in own])), 4),
            "seconds": round(float(np.mean([r.get("seconds", 0.0) for r in own])), 2),
        }
        print(method, table[method])
    arguments.out.write_text(json.dumps({"target": target.digest, "table": table, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
