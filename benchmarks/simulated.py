"""Simulated source scanners: how near each method comes to the scan that the target scanner really made.

    python benchmarks/simulated.py STUDY --target MODEL --subjects sub-51 sub-52 ... --work DIR --out FILE.json

STUDY is a BIDS study of the target scanner; the subjects never trained. The truth is the prepared scan. Domains of
intensity and detail change the prepared scan; domains with a bias field, and "raw gamma1.5", change the scan as it
came: "n4 + match", pooled matching and the methods of this package see it after N4, "match" and "nyul" without. Mask
and place are those of the truth for all. Groups are all subjects, simulated as one scanner: one curve, one noise
level. PSNR in the mask, data range: the truth's 99th percentile. "people": rank correlation over subjects of grey over
white matter with the truth's.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rivals import matched, nyul, pooled
from scipy.stats import spearmanr

from blindharmony.harmonization.correction import corrected
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.scanner import fit_scanner
from blindharmony.harmonization.summary import summarize
from blindharmony.report.metrics import local_spearman, new_edges, psnr, ssim, tissue_contrast
from blindharmony.simulation import DOMAINS, simulate
from blindharmony.target import load_target
from heads import heads_of, inside, prepared_with, rescaled

PAPER = ("exp", "log", "gamma0.7", "gamma0.8", "gamma0.9", "gamma1.2", "gamma1.3", "gamma1.5")
# For methods that use ranks all monotone domains are one task, and refinement has nothing to do: most is done once.
SAME = PAPER[:-1]
FROM_RAW = ("bias", "all", "raw gamma1.5")


def sources(heads, domain, recipe, seed=1):
    """Every head through one simulated scanner: as scaled without N4, as prepared, and the preparation if it was done.

    What changes only intensities or detail is done to the prepared scan. A coil's field, and "raw gamma1.5", are put
    on the scan as it came: correcting a corrected scan again would be another task.
    """
    top = max(float(h.image[h.mask].max()) for h in heads)
    level = float(np.median([np.quantile(h.image[h.mask], 0.9) for h in heads]))
    for index, h in enumerate(heads):
        own = {"seed": seed, "scan_seed": index}
        if domain == "none":
            yield h.image, h.image, None
        elif domain in FROM_RAW:
            own |= {"top": top * h.gain, "level": level * h.gain, "labels": h.raw_labels}
            name = domain.removeprefix("raw ")
            made = simulate(h.raw.data, h.raw.inside(), h.raw.spacing, name, **own).image
            scan = replace(h.raw, data=made)
            prepared = prepared_with(scan, recipe, h.matrix)
            plain = prepared_with(scan, recipe.model_copy(update={"n4": False}), h.matrix)
            yield inside(plain.scan), inside(prepared.scan), prepared
        else:
            made = simulate(h.image, h.mask, (1, 1, 1), domain, labels=h.labels, top=top, level=level, **own).image
            seen = rescaled(made, h.mask)
            yield seen, seen, None


def results(heads, found, target, *, quick=False):
    """Method → harmonized images, and seconds for a scan; ``quick`` leaves out what gamma1.5 shows just as well."""
    refined = target.restorer is not None and not quick
    masks = [h.mask for h in heads]
    plain, seen, preparations = zip(*found, strict=True)

    def each(images, how):
        began = time.perf_counter()
        out = [how(x, m) for x, m in zip(images, masks, strict=True)]
        return out, (time.perf_counter() - began) / len(out)

    def again(scanner):
        """As the package goes on: what was prepared from the raw scan is corrected in the target's contrast."""
        if preparations[0] is None:
            return seen, scanner
        pairs = [corrected(p, target, scanner) for p in preparations]
        return [inside(p.scan) for p, _ in pairs], pairs[0][1]

    yield "source", plain, 0.0
    yield "match", *each(plain, lambda x, m: matched(x, m, target))
    if not quick:
        yield "nyul", *each(plain, lambda x, m: nyul(x, m, target))
        yield "n4 + match", *each(seen, lambda x, m: matched(x, m, target))
    alone, _ = again(None)
    yield "curve", *each(alone, lambda x, m: estimate("curve", x, m, target, refine=False).image)
    if refined:
        yield "curve + refinement", *each(alone, lambda x, m: estimate("curve", x, m, target).image)
    if len(heads) > 1:
        yield "group: pooled matching", pooled(seen, masks, target), 0.0
        began = time.perf_counter()
        first = fit_scanner([summarize(x, m, target) for x, m in zip(seen, masks, strict=True)], target)
        images, model = again(replace(first, then=first))
        if preparations[0] is None or not first.lift:
            model = first
        else:
            model = fit_scanner([summarize(x, m, target) for x, m in zip(images, masks, strict=True)], target)
        fit = (time.perf_counter() - began) / len(heads)
        out, seconds = each(images, lambda x, m: estimate("curve", x, m, target, scanner=model, refine=False).image)
        yield "group: curve", out, seconds + fit
        if refined:
            out, seconds = each(images, lambda x, m: estimate("curve", x, m, target, scanner=model).image)
            yield "group: curve + refinement", out, seconds + fit


def measured(head, image):
    reach = float(np.quantile(head.image[head.mask], 0.99))
    return {
        "psnr": psnr(head.image, image, head.mask, data_range=reach),
        "ssim": ssim(head.image, image, head.mask, data_range=reach),
        "contrast": _contrast(head, image),
    }


def _contrast(head, image):
    """Grey over white matter, medians inside the manual labels; without labels as the report finds it."""
    if head.labels is not None:
        return float(np.median(image[head.labels == 2]) / np.median(image[head.labels == 3]))
    return tissue_contrast(image, head.mask)


def anatomy(source, image, mask):
    return {
        "local_spearman": local_spearman(source, image, mask),
        "new_edges_percent": 100 * new_edges(image, source, mask),
    }


def summary(rows):
    """Domain and method → mean and worst PSNR, mean SSIM, rank correlation of the contrast with the truth's."""
    table = {}
    for domain, method in dict.fromkeys((r["domain"], r["method"]) for r in rows):
        own = [r for r in rows if (r["domain"], r["method"]) == (domain, method)]
        table.setdefault(domain, {})[method] = {
            "psnr": round(float(np.mean([r["psnr"] for r in own])), 2),
            "worst": round(float(np.min([r["psnr"] for r in own])), 2),
            "ssim": round(float(np.mean([r["ssim"] for r in own])), 4),
            "people": round(float(spearmanr([r["contrast"] for r in own], [r["truth"] for r in own])[0]), 3),
            "seconds": round(float(np.mean([r["seconds"] for r in own])), 2),
        }
        if "local_spearman" in own[0]:
            table[domain][method] |= {
                "local_spearman": round(float(np.median([r["local_spearman"] for r in own])), 4),
                "new_edges_percent": round(float(np.mean([r["new_edges_percent"] for r in own])), 3),
                "truth_new_edges_percent": round(float(np.mean([r["truth_new_edges_percent"] for r in own])), 3),
            }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--domains", nargs="+", default=["none", *DOMAINS, "raw gamma1.5"])
    parser.add_argument("--work", type=Path, required=True, help="prepared scans and finished domains are kept here")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    heads = heads_of(arguments.study, arguments.subjects, arguments.work, target.info.recipe)
    labelled = all(h.labels is not None for h in heads)
    rows = []
    for domain in arguments.domains:
        if domain in DOMAINS and DOMAINS[domain].needs_labels and not labelled:
            continue
        stored = arguments.work / f"{arguments.study.name}_{target.digest}_{domain}_{len(heads)}.json"
        if not stored.exists():
            stored.write_text(json.dumps(_domain_rows(heads, domain, target)))
        own = json.loads(stored.read_text())
        rows += own
        line = {m: (v["psnr"], v["worst"]) for m, v in summary(own)[domain].items()}
        print(domain, line, flush=True)
    content = {"study": arguments.study.name, "target": target.digest, "table": summary(rows), "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


def _domain_rows(heads, domain, target):
    found = list(sources(heads, domain, target.info.recipe))
    rows = []
    for method, images, seconds in results(heads, found, target, quick=domain in SAME):
        for head, (_, source, _), image in zip(heads, found, images, strict=True):
            row = {"domain": domain, "method": method, "subject": head.subject, "seconds": seconds}
            row |= {**measured(head, image), "truth": _contrast(head, head.image)}
            if method.endswith("refinement"):
                row |= anatomy(source, image, head.mask)
                row["truth_new_edges_percent"] = 100 * new_edges(head.image, source, head.mask)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
