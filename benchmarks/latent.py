"""The published iteration and its ablation: the flow replaced by the identity, each term off.

    python benchmarks/latent.py DS002748 --subjects sub-51 sub-52 --domain gamma1.5 --work DIR --out FILE.json

PSNR in the mask against the prepared scan, data range its 99th percentile, and seconds, beside the default method. Of
an iteration also the mean PSNR of single slices (data range the 99th percentile of each), the turn after which the
volume's is highest, and what it is there: the others are of the last turn. Published slices are stretched to their own
brightest value, but the flow has learned one scale for all: *one scale* gives it that. How well flow and scale agree
says ‖z‖² a value in the first turn, which is 1 for an image of the target's.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from blindharmony.flows.glow import MultiScaleFlow, published_2d
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.published import CEILING, SliceWindow, _Turns, fill_ends, harmonize_latent, start_slices
from blindharmony.models.file import load_target
from blindharmony.quality.metrics import psnr
from blindharmony.settings import PublishedSettings
from blindharmony_benchmark.heads import heads_of
from blindharmony_benchmark.scanners import Scanner

TUNED = PublishedSettings()
BIG = "one turn of ten at published size"
ONE_TURN = PublishedSettings.published().model_copy(update={"iterations": 1})
ONE_SCALE = {"scale": "volume"}
VARIANTS = {
    "published": PublishedSettings.published(),
    "published, flow = identity": PublishedSettings.published(flow_identity=True),
    "published, one scale": PublishedSettings.published().model_copy(update=ONE_SCALE),
    "published, one scale, flow = identity": PublishedSettings.published(flow_identity=True).model_copy(
        update=ONE_SCALE
    ),
    "tuned": TUNED,
    "tuned, flow = identity": TUNED.model_copy(update={"flow_identity": True}),
    "tuned, no correlation": TUNED.model_copy(update={"beta1": 0.0}),
    "tuned, no non-edge term": TUNED.model_copy(update={"beta2": 0.0}),
    "tuned, no shrinkage": TUNED.model_copy(update={"alpha": 0.0}),
}


def peak(truth):
    """What counts as the brightest of some voxels."""
    return float(np.quantile(truth, 0.99))


def turns_of(image, mask, target, settings):
    """The volume after each turn, and ‖z‖² a value in each."""
    window, slices, take = SliceWindow.around(mask, target.slices.spec.factor), [], _Turns.take

    def kept(turns, x):
        new, entry = take(turns, x)
        slices.append(new)
        return new, entry

    with patch.object(_Turns, "take", kept):
        found = harmonize_latent(image, mask, target, settings)
    brain, source = window.cut(mask), window.cut(np.where(mask, image, 0))
    start = start_slices(target.mean_image, window, source, brain)
    unit = CEILING if settings.scale == "volume" else start.amax((1, 2, 3), keepdim=True)
    volumes = [fill_ends(window.paste(x * unit), image, mask, window.heights) for x in slices]
    assert np.allclose(volumes[-1], found.image, atol=1e-5)
    return volumes, [row["z2"] / start[0].numel() for row in found.trace], window.heights


def iteration(head, image, target, settings):
    """PSNR of volume and slices after the last turn, the best turn and the volume's PSNR there, ‖z‖² a value."""
    volumes, lengths, heights = turns_of(image, head.mask, target, settings)
    curve = [psnr(head.image, v, head.mask, data_range=peak(head.image[head.mask])) for v in volumes]
    single = []
    for z in heights:
        truth, made, inside = (part[:, :, z : z + 1] for part in (head.image, volumes[-1], head.mask))
        single.append(psnr(truth, made, inside, data_range=peak(truth[inside])))
    best = int(np.argmax(curve))
    return {"psnr": curve[-1], "slices": np.mean(single), "best": curve[best], "turn": best + 1, "z2": lengths[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--domain", default="gamma1.5")
    parser.add_argument("--turns", type=int, help="in place of the ten of the paper, to see where it converges")
    parser.add_argument("--rows", nargs="+", choices=[*VARIANTS, BIG], default=[*VARIANTS, BIG], metavar="ROW")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    heads = heads_of(arguments.study, arguments.subjects, arguments.work, target.info.recipe)
    scanner = Scanner.set_for(heads, arguments.domain, target.info.recipe)
    seen = [p.image for p in scanner.scans(heads)]
    rows = {}

    def measure(name, how):
        began = time.perf_counter()
        found = [how(head, x) for head, x in zip(heads, seen, strict=True)]
        seconds = (time.perf_counter() - began) / len(heads)
        rows[name] = {k: round(float(np.mean([f[k] for f in found])), 2) for k in found[0]}
        rows[name]["seconds"] = round(seconds, 1)
        print(name, rows[name], flush=True)

    def simple(method):
        def one(head, x):
            made = x if method == "source" else estimate(method, x, head.mask, target).image
            return {"psnr": psnr(head.image, made, head.mask, data_range=peak(head.image[head.mask]))}

        return one

    for method in ("source", "match", "curve"):
        measure(method, simple(method))
    for name in (n for n in arguments.rows if n != BIG):
        changed = {} if arguments.turns is None else {"iterations": arguments.turns}
        settings = VARIANTS[name].model_copy(update=changed)
        measure(name, lambda head, x, s=settings: iteration(head, x, target, s))
    if BIG in arguments.rows:
        torch.manual_seed(0)
        big = replace(target, slices=MultiScaleFlow(published_2d()).eval())
        measure(BIG, lambda head, x: iteration(head, x, big, ONE_TURN))
        rows[BIG] = {"psnr": None, "seconds": rows[BIG]["seconds"]}  # it is not trained: only its cost is true
    content = {"subjects": arguments.subjects, "domain": arguments.domain, "target": target.digest, "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
