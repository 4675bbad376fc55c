"""How far each simulated scanner moves a scan, and how much of that no intensity curve can undo.

    python benchmarks/domains.py OASIS --labels 1001 1008 1122

OASIS is a BIDS study of T1w scans with tissue labels (1 CSF, 2 grey, 3 white matter) in derivatives/manual. PSNR in
the brain against the scan, data range its 99th percentile. "Best curve": the changed scan through the best of all
intensity curves, the mean of the true values in each of 500 bins of the changed ones: no curve does better.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from blindharmony.io.bids import find_scans
from blindharmony.io.volume import read_volume
from blindharmony_benchmark.simulation.domains import DOMAINS
from blindharmony_benchmark.simulation.simulate import brain_of, read_labels, simulate_volume

BINS = 500


def best_curve(y, x):
    # The conditional mean of the truth: what a curve could do at best if it knew the truth.
    edges = np.quantile(x, np.linspace(0, 1, BINS + 1))
    bins = np.clip(np.searchsorted(edges, x) - 1, 0, BINS - 1)
    return (np.bincount(bins, y, BINS) / np.maximum(np.bincount(bins, minlength=BINS), 1))[bins]


def measure(path, study):
    scan = read_volume(path)
    subject = path.name.split("_")[0]
    labels = read_labels(study / "derivatives/manual" / subject / "anat" / f"{subject}_dseg.nii.gz", scan)
    mask = brain_of(scan)
    truth = scan.data[mask].astype(np.float64)
    reach = np.quantile(truth, 0.99)
    print(path.name, f"maximum {truth.max() / reach:.2f}, 99.9th percentile {np.quantile(truth, 0.999) / reach:.2f}")
    rows = {}
    for domain in DOMAINS:
        made = simulate_volume(scan, domain, mask=mask, labels=labels, seed=1, scan_seed=5).image
        x = made[mask].astype(np.float64)
        errors = truth - x * (x @ truth) / (x @ x), truth - best_curve(truth, x)
        over = (made > 1.1 * np.median(made[labels == 3]))[labels == 2].mean()
        rows[domain] = [*(10 * np.log10(reach**2 / np.mean(e**2)) for e in errors), 100 * over]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--labels", nargs="+", required=True)
    arguments = parser.parse_args()
    scans = find_scans([arguments.study], participant_labels=arguments.labels)
    found = [measure(path, arguments.study) for path in scans]
    print("domain: best gain (dB), best curve (dB), grey above 1.1 of white (%)")
    for domain in DOMAINS:
        print(domain, np.round(np.mean([rows[domain] for rows in found], axis=0), 1))


if __name__ == "__main__":
    main()
