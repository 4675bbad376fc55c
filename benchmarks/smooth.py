"""What it is worth that a scanner's curve is smooth: people left out, put through known curves, alone and in groups.

    python benchmarks/smooth.py TARGET ... --out smooth.json

Needs nothing but model files, which hold features and quantile curves of their scans. Each group is left out of the
person model, its quantile curves go through a curve, and the scanner is fitted from the predicted persons: as asked
for, all heads alike ("plain"), and as the program does ("smooth"): heads of which more is known count more, a parabola
in logarithms where it fits, and as much of the curve as there is evidence for. Decibel over the brightest 1 %, mean
and worst person. `step` (contrast jumps between grey and white) and `waves` are no curves that the model of smoothness
knows. The features of people who are left out together were computed with each other in the mean head (not with
themselves), and the others' with them: worth 3 to 14 % of the errors, the same for both rows.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from blindharmony.harmonization.scanner import fit_scanner
from blindharmony.harmonization.summary import ScanSummary
from blindharmony.models.file import load_target
from blindharmony.models.person import PersonModel

SIZES, DRAWS = (1, 4, 8), 12
SCANNERS = {
    "none": lambda x: x,
    "gamma0.7": lambda x: x**0.7,
    "gamma1.5": lambda x: x**1.5,
    "exp": np.expm1,
    "log": lambda x: np.log1p(3 * x),
    "step": lambda x: np.interp(x, [0, 0.8, 1.0, 1.3, 1.6, 5], [0, 0.9, 1.08, 1.2, 1.6, 5]),
    "waves": lambda x: x + 0.08 * np.sin(6 * x),
}


def without(model: PersonModel, heads) -> PersonModel:
    """The model that these heads taught nothing."""
    kept = ~np.isin(model.heads, heads)
    rows = ("features", "curves", "heads", "textures", "people", "contrasts")
    return replace(model, **{name: of[kept] for name in rows if (of := getattr(model, name)) is not None})


def summaries(change, rest, model, rows, levels):
    """The scans of these people by a scanner, scaled as preparation does, and the truth at a thousand ranks."""
    ranks = (np.arange(1000) + 0.5) / 1000
    found, truth = [], []
    for row in rows:
        own = np.interp(ranks, levels, model.curves[row])
        gain = 1 / np.sqrt((change(own) ** 2).mean())
        texture = None if model.textures is None else model.textures[row]
        person = np.maximum.accumulate(rest.curve(model.features[row], texture))
        surprise = rest.surprise(model.features[row], texture)
        found.append(ScanSummary(gain * change(model.curves[row]), gain * change(own), person, surprise))
        truth.append(own)
    return found, truth


def decibels(scans, truth, target):
    model = fit_scanner(scans, target)
    found = []
    for scan, own in zip(scans, truth, strict=True):
        gain = model.gain(scan.whole.astype(np.float32), np.ones(scan.whole.size, bool)) if len(scans) > 1 else 1.0
        error = np.mean((model.curve((gain * scan.whole).astype(np.float32)) - own) ** 2)
        found.append(10 * np.log10(np.quantile(own, 0.99) ** 2 / error))
    return found


def table(target, seed=0):
    model, rng = target.person, np.random.default_rng(seed)
    own, everybody, rows = np.flatnonzero(model.themselves), np.unique(model.heads), {}
    for size in SIZES:
        draws = everybody[:, None] if size == 1 else [rng.choice(everybody, size, replace=False) for _ in range(DRAWS)]
        for name, change in SCANNERS.items():
            found = {"plain": [], "smooth": []}
            for group in draws:
                rest = without(model, group)
                kept = replace(target, person=rest, quantiles=rest.curves[rest.themselves])
                scans, truth = summaries(change, rest, model, own[np.isin(everybody, group)], target.levels)
                found["plain"] += decibels(scans, truth, replace(kept, person=None))
                found["smooth"] += decibels(scans, truth, kept)
            for kind, values in found.items():
                rows[f"{size}, {name}, {kind}"] = [round(float(f(values)), 2) for f in (np.mean, np.min)]
            print(target.info.name, size, name, {k: rows[f"{size}, {name}, {k}"] for k in found}, flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    content = {}
    for name in arguments.targets:
        target = load_target(name)
        content[target.info.name] = {"digest": target.digest, "rows": table(target)}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
