"""Real scans of other scanners: how near each method brings them to the target's people.

    python benchmarks/real.py DATA --target MODEL --set oasis --sources ds000011 ixi ds002748 --work DIR --out FILE.json

DATA holds BIDS studies and splits.json. There is no truth, so the target's own unseen scans are the measure: "contrast"
and "tissue" say how far the harmonized scans are, on average, from them, in tissue regions that the target's manual
labels agree about (share over 0.7 in template space; without labels, thirds of the mean head's brightness).
"own" is the same figure for each of the target's unseen scans against the others. "probe" is the balanced accuracy
of a classifier, retrained for each method, leave one subject out, that tells the site from the target's scans by
intensity quantiles and local texture: 0.5 is chance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rivals import matched, nyul, pooled
from scipy import ndimage, stats

from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.scanner import fit_scanner
from blindharmony.harmonization.summary import summarize
from blindharmony.target import load_target
from heads import heads_of

TISSUES = {"csf": 1, "grey": 2, "white": 3}
_RIDGE = 1.0


def regions(heads, target):
    """Where nearly everybody has one tissue."""
    labelled = [h for h in heads if h.labels is not None]
    if labelled:
        shares = {t: np.mean([h.labels == k for h in labelled], 0) for t, k in TISSUES.items()}
        return {t: (s > 0.7) & target.fit_region for t, s in shares.items()}
    atlas = target.atlas
    low, high = np.quantile(atlas[target.fit_region], [0.15, 0.6])
    inside = ndimage.binary_erosion(target.fit_region, iterations=2)
    return {
        "csf": inside & (atlas < low),
        "grey": inside & (atlas > low) & (atlas < high),
        "white": inside & (atlas > high),
    }


def measured(image, mask, where):
    values = {t: image[w & mask] for t, w in where.items()}
    return {
        "contrast": float(np.median(values["grey"]) / np.median(values["white"])),
        "quantiles": {t: np.quantile(v, np.linspace(0.01, 0.99, 99)) for t, v in values.items()},
        "features": features(image, mask & where["all"]),
    }


def features(image, region):
    """Twenty quantiles, and the median local variation in ten bins of brightness."""
    inner = ndimage.binary_erosion(region, iterations=2)
    smooth = ndimage.uniform_filter(image, 3)
    order = np.argsort(smooth[inner], kind="stable")
    rough = np.abs(image - smooth)[inner][order]
    texture = [np.log(np.median(part) + 1e-4) for part in np.array_split(rough, 10)]
    return np.concatenate([np.quantile(image[region], np.linspace(0.025, 0.975, 20)), texture])


def distance(a, b):
    """Mean over tissues of the Wasserstein distance of two scans' intensities."""
    return float(np.mean([np.abs(a["quantiles"][t] - b["quantiles"][t]).mean() for t in TISSUES]))


def average(found):
    """The mean scan's intensities of each tissue."""
    return {"quantiles": {t: np.mean([f["quantiles"][t] for f in found], 0) for t in TISSUES}}


def table_row(found, own):
    """One method's figures against the target's unseen scans."""
    contrasts, mean = np.array([o["contrast"] for o in own]), average(own)
    return {
        "contrast": round(float(np.mean([f["contrast"] for f in found]) - contrasts.mean()), 4),
        "tissue": round(float(np.mean([distance(f, mean) for f in found])), 4),
        "probe": round(probe([f["features"] for f in found], [o["features"] for o in own]), 3),
    }


def probe(one, other):
    """Balanced accuracy of ridge regression on standardised features, leaving one scan out."""
    x = np.array([*one, *other])
    y = np.array([1.0] * len(one) + [-1.0] * len(other))
    hit = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        centre, spread = x[rest].mean(0), x[rest].std(0) + 1e-9
        a, b = (x[rest] - centre) / spread, (x[i] - centre) / spread
        weight = np.where(y[rest] > 0, 0.5 / (y[rest] > 0).sum(), 0.5 / (y[rest] < 0).sum())
        gram = (a * weight[:, None]).T @ a + _RIDGE * np.eye(a.shape[1])
        slope = np.linalg.solve(gram, (a * weight[:, None]).T @ y[rest])
        offset = -(weight * (a @ slope - y[rest])).sum()
        hit.append(np.sign(b @ slope + offset) == y[i])
    hit = np.array(hit)
    return float((hit[: len(one)].mean() + hit[len(one) :].mean()) / 2)


def harmonized(heads, target):
    pairs = [(h.image, h.mask) for h in heads]
    yield "nothing", [x for x, _ in pairs]
    yield "match", [matched(x, m, target) for x, m in pairs]
    yield "nyul", [nyul(x, m, target) for x, m in pairs]
    yield "curve", [estimate("curve", x, m, target, refine=False).image for x, m in pairs]
    if target.restorer is not None:
        yield "curve + refinement", [estimate("curve", x, m, target).image for x, m in pairs]
    yield "group: pooled matching", pooled(*zip(*pairs, strict=True), target)
    model = fit_scanner([summarize(x, m, target) for x, m in pairs], target)
    yield "group: curve", [estimate("curve", x, m, target, scanner=model, refine=False).image for x, m in pairs]
    if target.restorer is not None:
        yield "group: curve + refinement", [estimate("curve", x, m, target, scanner=model).image for x, m in pairs]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--set", required=True, help="the target's study")
    parser.add_argument("--sources", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    splits = json.loads((arguments.data / "splits.json").read_text())
    recipe = target.info.recipe

    def heads(study, split):
        return heads_of(arguments.data / study, splits[study][split], arguments.work, recipe)

    twins = {pair[1] for pair in splits[arguments.set].get("retest", [])}
    own_heads = [h for h in heads(arguments.set, "test") if h.subject not in twins]
    where = regions(own_heads, target)
    where["all"] = target.fit_region
    own = [measured(h.image, h.mask, {**where}) for h in own_heads]
    rest = [[o for o in own if o is not x] for x in own]
    table = {
        "own": {
            "contrast sd": round(float(np.std([o["contrast"] for o in own], ddof=1)), 4),
            "tissue": round(float(np.mean([distance(x, average(r)) for x, r in zip(own, rest, strict=True)])), 4),
        }
    }
    for study in arguments.sources:
        sources = heads(study, "test")
        table[study] = {}
        for method, images in harmonized(sources, target):
            found = [measured(x, h.mask, where) for x, h in zip(images, sources, strict=True)]
            table[study][method] = table_row(found, own)
            kept = [
                stats.spearmanr(x[h.mask][::97], h.image[h.mask][::97])[0] for x, h in zip(images, sources, strict=True)
            ]
            table[study][method]["rank"] = round(float(np.mean(kept)), 4)
            print(study, method, table[study][method], flush=True)
    print("own", table["own"])
    arguments.out.write_text(json.dumps({"target": target.digest, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
