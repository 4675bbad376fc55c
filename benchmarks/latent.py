"""The published iteration and its ablation: the flow replaced by the identity, each term off.

    python benchmarks/latent.py DS002748 --subjects sub-51 sub-52 --domain gamma1.5 --work DIR --out FILE.json

PSNR in the mask against the prepared scan, data range its 99th percentile, and seconds, beside the default method.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from blindharmony.flows.glow import MultiScaleFlow, published_2d
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.published import harmonize_latent
from blindharmony.models.file import load_target
from blindharmony.quality.metrics import psnr
from blindharmony.settings import PublishedSettings
from blindharmony_benchmark.heads import heads_of
from blindharmony_benchmark.scanners import Scanner

TUNED = PublishedSettings()
ONE_TURN = PublishedSettings.published().model_copy(update={"iterations": 1})
VARIANTS = {
    "published": PublishedSettings.published(),
    "published, flow = identity": PublishedSettings.published(flow_identity=True),
    "tuned": TUNED,
    "tuned, flow = identity": TUNED.model_copy(update={"flow_identity": True}),
    "tuned, no correlation": TUNED.model_copy(update={"beta1": 0.0}),
    "tuned, no non-edge term": TUNED.model_copy(update={"beta2": 0.0}),
    "tuned, no shrinkage": TUNED.model_copy(update={"alpha": 0.0}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--domain", default="gamma1.5")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    heads = heads_of(arguments.study, arguments.subjects, arguments.work, target.info.recipe)
    scanner = Scanner.set_for(heads, arguments.domain, target.info.recipe)
    seen = [p.image for p in scanner.scans(heads)]
    rows = {}

    def measure(name, how):
        began, values = time.perf_counter(), []
        for head, x in zip(heads, seen, strict=True):
            reach = float(np.quantile(head.image[head.mask], 0.99))
            values.append(psnr(head.image, how(x, head.mask), head.mask, data_range=reach))
        seconds = (time.perf_counter() - began) / len(heads)
        rows[name] = {"psnr": round(float(np.mean(values)), 2), "seconds": round(seconds, 1)}
        print(name, rows[name], flush=True)

    measure("source", lambda x, m: x)
    measure("match", lambda x, m: estimate("match", x, m, target).image)
    measure("curve", lambda x, m: estimate("curve", x, m, target).image)
    for name, settings in VARIANTS.items():
        measure(name, lambda x, m, s=settings: harmonize_latent(x, m, target, s).image)
    torch.manual_seed(0)
    big = replace(target, slices=MultiScaleFlow(published_2d()).eval())
    measure("one turn of ten at published size", lambda x, m: harmonize_latent(x, m, big, ONE_TURN).image)
    rows["one turn of ten at published size"]["psnr"] = None  # the flow is not trained: only its cost is true
    content = {"subjects": arguments.subjects, "domain": arguments.domain, "target": target.digest, "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
