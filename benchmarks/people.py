"""Heads that are not average, and one person scanned twice.

    python benchmarks/people.py OASIS --train sub-1000 ... --test sub-1104 ... --pair A B --work DIR --out FILE

OASIS is a BIDS study of one scanner with ages in participants.tsv. "Old heads, young target": the person model is
taught by subjects under 40 and judged on those over 50, through gamma 1.5, one by one and as a group. "Pair": the two
scans of one person, prepared, and after harmonization to a target taught by the training subjects: PSNR between the
two in the common mask, and the root mean square difference of their quantile curves,
and "relative", that difference in units of the images' spread: what only adds contrast makes no difference there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.scanner import fit_scanner
from blindharmony.harmonization.summary import harmonize_match, summarize
from blindharmony.models.target import Target, TargetInfo
from blindharmony.quality.metrics import psnr
from blindharmony.training.data import half_resolution
from blindharmony.training.person import fit_people
from blindharmony_benchmark.heads import heads_of
from blindharmony_benchmark.scanners import Scanner
from blindharmony_benchmark.systems.classical import nyul, pooled

RANKS = (np.arange(512) + 0.5) / 512


def curves_target(heads) -> Target:
    """A target of these heads with a person model and no flow."""
    coarse = [half_resolution(torch.from_numpy(h.image), torch.from_numpy(h.mask)) for h in heads]
    coarse = [(x[0, 0].numpy(), m[0, 0].numpy()) for x, m in coarse]
    weight = np.sum([m for _, m in coarse], 0)
    coverage = (weight / len(coarse)).astype(np.float32)
    mean = (np.sum([x * m for x, m in coarse], 0) / np.maximum(weight, 1)).astype(np.float32)
    bare = Target(TargetInfo(name="people", scans=len(heads)), RANKS, np.zeros((0, RANKS.size)), coverage, mean)
    calls = [lambda h=h: (h.image, h.mask) for h in heads]
    person = fit_people(calls, coarse, bare.fit_region, RANKS)
    return Target(bare.info, RANKS, person.curves[person.themselves], coverage, mean, person)


def old_heads(heads, target, recipe):
    """Method → PSNR of each head."""
    seen = [p.image for p in Scanner.set_for(heads, "gamma1.5", recipe).scans(heads)]
    pairs = [(x, h.mask) for x, h in zip(seen, heads, strict=True)]
    model = fit_scanner([summarize(x, m, target) for x, m in pairs], target)
    images = {
        "match": [harmonize_match(x, m, target).image for x, m in pairs],
        "nyul": [nyul(x, m, target) for x, m in pairs],
        "curve": [estimate("curve", x, m, target).image for x, m in pairs],
        "group: pooled matching": pooled(*zip(*pairs, strict=True), target),
        "group: curve": [estimate("curve", x, m, target, scanner=model).image for x, m in pairs],
    }
    return {name: [_psnr(h, x) for h, x in zip(heads, found, strict=True)] for name, found in images.items()}


def _psnr(head, image):
    return psnr(head.image, image, head.mask, data_range=float(np.quantile(head.image[head.mask], 0.99)))


def pair_difference(one, other, target):
    """Method → how far apart the two scans of one person are."""
    both = one.mask & other.mask
    reach = float(np.quantile(one.image[both], 0.99))
    images = {
        "before": [one.image, other.image],
        "match": [harmonize_match(h.image, h.mask, target).image for h in (one, other)],
        "curve": [estimate("curve", h.image, h.mask, target).image for h in (one, other)],
    }
    model = fit_scanner([summarize(h.image, h.mask, target) for h in (one, other)], target)
    images["group: curve"] = [estimate("curve", h.image, h.mask, target, scanner=model).image for h in (one, other)]
    rows = {}
    for name, (a, b) in images.items():
        curves = [np.quantile(x[h.mask & target.fit_region], RANKS) for x, h in ((a, one), (b, other))]
        rows[name] = {
            "psnr": round(psnr(a, b, both, data_range=reach), 2),
            "relative": round(float(np.sqrt(((a - b)[both] ** 2).mean()) / np.hypot(a[both].std(), b[both].std())), 4),
            "curves": round(float(np.sqrt(((curves[0] - curves[1]) ** 2).mean())), 4),
        }
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--pair", nargs=2, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = (arguments.study / "participants.tsv").read_text().splitlines()
    names = lines[0].split("\t")
    ages = {row[0]: float(row[names.index("age")]) for row in (line.split("\t") for line in lines[1:])}
    everybody = [s for s in (*arguments.train, *arguments.test) if s != arguments.pair[1]]
    young, old = [s for s in everybody if ages[s] < 40], [s for s in everybody if ages[s] > 50]
    target = curves_target(heads_of(arguments.study, young, arguments.work))
    found = old_heads(heads_of(arguments.study, old, arguments.work), target, target.info.recipe)
    table = {k: {"psnr": round(float(np.mean(v)), 2), "worst": round(float(np.min(v)), 2)} for k, v in found.items()}
    print(len(young), "under 40,", len(old), "over 50", table, flush=True)
    pair = heads_of(arguments.study, arguments.pair, arguments.work)
    known = curves_target(
        heads_of(arguments.study, [s for s in arguments.train if s not in arguments.pair], arguments.work)
    )
    content = {"young": len(young), "old": len(old), "old heads": table, "pair": pair_difference(*pair, known)}
    print(content["pair"])
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
