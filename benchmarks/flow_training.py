"""What training scans, design choices and rival flows are worth: held-out bits of small trainings, side by side.

    python benchmarks/flow_training.py STUDY --train sub-29 ... --held-out sub-47 ... --work DIR --out FILE.json
        [--what scans choices rivals] [--steps 200] [--minutes 5]

Every training sees the same 2 mm heads, prepared once. `scans`: the pyramid taught by 5, 10 and all scans. `choices`:
one thing about it changed at a time. Both take --steps of every level. `rivals`: the pyramid with --minutes, shared
between its levels as `blindharmony train` does, and the published 2-D spline flow and a 3-D Glow, given the processor
time that it took. Figures: bits a voxel at 256 grey levels between 0 and 1 of held-out heads, the mean and the
worst, and the standard deviation of their latents in the finest level (1 is calibrated) before calibration.

A rival measures values whose 2×2(×2) block is not whole inside the brain against a plain normal, so all systems see
only whole blocks.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from blindharmony.flows.bijection import Condition
from blindharmony.flows.glow import MultiScaleFlow, glow_3d, published_2d
from blindharmony.flows.pyramid import Pyramid, PyramidSpec
from blindharmony.io.bids import find_scans
from blindharmony.models.target import atlas_tensor
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.training.data import make_pool, prepare_head
from blindharmony.training.pyramid import fit_pyramid

_RATE, _CLIP, _BATCH, _CUBE = 5e-4, 20.0, 8, 48


class Whole:
    """A pool with only whole 2×2×2 blocks of brain; some of its heads, some of its copies."""

    def __init__(self, pool, heads=None, copies=None):
        rows = pool.files[:heads]
        self.files = tuple(row[: None if copies is None else copies + 1] for row in rows)
        self.pool = type(pool)(self.files)

    def load(self, head, copy):
        image, mask = self.pool.load(head, copy)
        blocks = torch.nn.functional.max_pool3d((~mask).float(), 2)
        whole = torch.nn.functional.interpolate(blocks, scale_factor=2) == 0
        return image.where(whole, 0.0), whole

    def pick(self, rng):
        return self.pool.pick(rng)


def pyramid(spec, pool, unseen, steps, folder, *, minutes=0.0, place=True, seed=0, compute=None):
    """Train a pyramid; its held-out figures and the processor seconds."""
    torch.manual_seed(seed)
    flow = Pyramid(spec, atlas_tensor())
    if not place:
        flow._places = [torch.zeros_like(p) for p in flow._places]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.process_time()
    more = {"minutes": minutes, "steps": steps, "seed": seed, "compute": compute}
    found = fit_pyramid(flow, pool, unseen, folder, plan={}, **more)
    seconds = time.process_time() - began
    flow.to("cpu").eval()
    with torch.no_grad():
        bits = [float(flow.density(*unseen.load(i, 0)).bits_per_dim()) for i in range(len(unseen.files))]
    return row(bits, seconds, sum(p.numel() for p in flow.parameters())) | {"spread": round(found[0].spread, 3)}


def rival(spec, pool, unseen, seconds, *, seed=0):
    """Train a multi-scale flow for so many processor seconds."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    flow = MultiScaleFlow(spec)
    draw = _slices if spec.ndim == 2 else _cubes
    with torch.no_grad():
        x, mask = draw(pool, rng)
        flow.initialise(x / 2, Condition(mask=mask))
    optimiser = torch.optim.Adam(flow.parameters(), lr=_RATE)
    began, steps = time.process_time(), 0
    while (spent := time.process_time() - began) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        x, mask = draw(pool, rng)
        flow.train()
        loss = -flow.log_prob(x / 2, Condition(mask=mask)).sum() / mask.sum()
        optimiser.zero_grad()
        loss.backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(flow.parameters(), _CLIP)):
            optimiser.step()
        steps += 1
    spent = time.process_time() - began
    flow.eval()
    with torch.no_grad():
        bits = [_bits(flow, *unseen.load(i, 0)) for i in range(len(unseen.files))]
    return row(bits, spent, sum(p.numel() for p in flow.parameters())) | {"steps": steps}


def row(bits, seconds, parameters):
    return {
        "bits": round(float(np.mean(bits)), 3),
        "worst": round(float(np.max(bits)), 3),
        "processor minutes": round(seconds / 60, 2),
        "parameters": parameters,
    }


def _bits(flow, image, mask):
    """Bits a voxel of a whole head, slice by slice for a flow of slices."""
    if flow.spec.ndim == 2:
        nats = 0.0
        for x, m in zip(image[0, 0].unbind(2), mask[0, 0].unbind(2), strict=True):
            if m.any():
                nats += float(flow.log_prob(x[None, None] / 2, Condition(mask=m[None, None].float())))
    else:
        nats = float(flow.log_prob(image / 2, Condition(mask=mask.float())))
    count = int(mask.sum())
    # p(x) = p(x/2) / 2 for every voxel.
    return -(nats - count * math.log(2)) / count / math.log(2) + 8


def _slices(pool, rng):
    image, mask = pool.load(*pool.pick(rng))
    with_brain = np.flatnonzero(mask[0, 0].flatten(0, 1).any(0).numpy())
    chosen = torch.as_tensor(rng.choice(with_brain, _BATCH))
    return (t[0, 0].index_select(2, chosen).permute(2, 0, 1)[:, None].float() for t in (image, mask))


def _cubes(pool, rng):
    image, mask = pool.load(*pool.pick(rng))
    low = [8 * int(rng.integers(0, (n - _CUBE) // 8 + 1)) for n in image.shape[2:]]
    cut = (slice(None), slice(None), *[slice(a, a + _CUBE) for a in low])
    return image[cut], mask[cut].float()


CHOICES = {
    "as it is": ({}, {}),
    "as it is, another seed": ({}, {"seed": 1}),
    "no couplings (a Gaussian given coarser image and place)": ({"checkerboards": 0, "affine_rounds": 0}, {}),
    "checkerboard couplings alone": ({"affine_rounds": 0}, {}),
    "channel couplings alone, two rounds": ({"checkerboards": 0, "affine_rounds": 2}, {}),
    "two rounds of checkerboards": ({"checkerboards": 2}, {}),
    "two rounds of channel couplings": ({"affine_rounds": 2}, {}),
    "splines in place of affine channel couplings": ({"affine_rounds": 0, "rounds": 1}, {}),
    "half the width": ({"widths": (12, 16, 16, 16)}, {}),
    "no dropout": ({"dropout": 0.0}, {}),
    "place unknown": ({}, {"place": False}),
    "no deformed copies": ({}, {"copies": 0}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--what", nargs="+", default=["scans", "choices", "rivals"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5.0)
    arguments = parser.parse_args()
    heads_folder = arguments.work / "training_heads"
    heads_folder.mkdir(parents=True, exist_ok=True)

    def heads(labels):
        paths = [find_scans([arguments.study], participant_labels=[s])[0] for s in labels]
        return [prepare_head(p, PrepRecipe(), heads_folder) for p in paths]

    pool = make_pool(heads(arguments.train), heads_folder, seed=0)
    unseen = Whole(make_pool(heads(arguments.held_out), heads_folder, seed=0, copies=0))
    out = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    scratch = arguments.work / f"training_{arguments.out.stem}"

    def note(part, name, found):
        out.setdefault(part, {})[name] = found if part == "rivals" else {**found, "steps": arguments.steps}
        arguments.out.write_text(json.dumps(out, indent=1) + "\n")
        print(part, name, found, flush=True)

    scans, choices = "scans" in arguments.what, "choices" in arguments.what
    ours = pyramid(PyramidSpec(), Whole(pool), unseen, arguments.steps, scratch) if scans or choices else {}
    if scans:
        note("scans", f"{len(arguments.train)}", ours)
        for count in (5, 10):
            found = pyramid(PyramidSpec(), Whole(pool, count), unseen, arguments.steps, scratch)
            note("scans", f"{count}", found)
    if choices:
        for name, (changed, other) in CHOICES.items():
            spec, some = PyramidSpec(**changed), Whole(pool, copies=other.get("copies"))
            same = not changed and not other
            more = {"place": "place" not in other, "seed": other.get("seed", 0)}
            found = ours if same else pyramid(spec, some, unseen, arguments.steps, scratch, **more)
            note("choices", name, found)
    if "rivals" in arguments.what:
        ours = pyramid(PyramidSpec(), Whole(pool), unseen, None, scratch, minutes=arguments.minutes)
        note("rivals", "pyramid", ours)
        for name, spec in (("3-D Glow", glow_3d()), ("published 2-D spline flow", published_2d())):
            note("rivals", name, rival(spec, Whole(pool), unseen, 60 * ours["processor minutes"]))


if __name__ == "__main__":
    main()
