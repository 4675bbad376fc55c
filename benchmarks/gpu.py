"""What a graphics card brings, and whether it computes the same as the processor: density, training, harmonization.

    python benchmarks/gpu.py STUDY --train sub-1000 ... --held-out sub-1017 ... --scan SCAN --work DIR --out FILE.json
        [--target ds002748] [--steps 100] [--device cuda]

Everything is done on the processor and on the card of one machine, one after the other. `density`: log-density with
its gradient of a training head at 2 mm. `training`: a pyramid with --steps of every level in full and in mixed
precision; bits a voxel of held-out heads, in full precision. `harmonize`: a scan by curve and refinement, and by the
published iteration; the largest and the root mean square difference between both, beside the scan's 99th percentile.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from flow_training import pyramid

import blindharmony as bh
from blindharmony.device import exact_convolutions
from blindharmony.flows.pyramid import PyramidSpec
from blindharmony.io.bids import find_scans
from blindharmony.training.data import make_pool, prepare_head
from blindharmony.training.loop import Compute

_REPEATS = 5


def now(device):
    """The time, once the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak(device):
    """Megabytes of the card since the last call."""
    if device == "cpu":
        return None
    found = torch.cuda.max_memory_allocated(device) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return round(found)


def density(target, image, mask, device):
    """Nats, their gradient, and the seconds of the fastest of a few runs after one that does not count."""
    flow, took = target.pyramid.to(device), []
    given, inside = image.to(device), mask.to(device)
    for _ in range(_REPEATS + 1):
        x = given.clone().requires_grad_()
        began = now(device)
        nats = flow.density(x, inside).nats.sum()
        nats.backward()
        took.append(now(device) - began)
    flow.to("cpu")
    return nats.item(), x.grad.cpu(), min(took[1:])


def training(pool, unseen, folder, steps, compute):
    """A pyramid's held-out bits and the seconds it took."""
    began = now(compute.device)
    found = pyramid(PyramidSpec(), pool, unseen, steps, folder, compute=compute)
    seconds = round(now(compute.device) - began, 1)
    return {"bits": found["bits"], "seconds": seconds, "memory_mb": peak(compute.device)}


def apart(a, b, mask):
    """How far two images are from each other, in shares of the first one's 99th percentile."""
    gap, top = np.abs(a - b)[mask], float(np.percentile(a[mask], 99))
    return {"largest": float(gap.max()) / top, "rms": float(np.sqrt(np.mean(gap**2))) / top}


@exact_convolutions()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    card, target = arguments.device, bh.load_target(arguments.target)
    name = torch.cuda.get_device_name(card) if card.startswith("cuda") else card
    out = {"card": name, "cores": os.cpu_count(), "torch": torch.__version__, "target": target.digest}
    out |= {"tf32": torch.backends.cudnn.allow_tf32, "scans": len(arguments.train), "steps": arguments.steps}

    def note(part, found):
        out[part] = found
        arguments.out.write_text(json.dumps(out, indent=1) + "\n")
        print(part, found, flush=True)

    arguments.work.mkdir(parents=True, exist_ok=True)

    def heads(labels):
        paths = [find_scans([arguments.study], participant_labels=[s])[0] for s in labels]
        return [prepare_head(p, target.info.recipe, arguments.work) for p in paths]

    pool = make_pool(heads(arguments.train), arguments.work, seed=0)
    unseen = make_pool(heads(arguments.held_out), arguments.work, seed=0, copies=0)

    (nats, slope, seconds), (card_nats, card_slope, card_seconds) = (
        density(target, *pool.load(0, 0), d) for d in ("cpu", card)
    )
    note(
        "density",
        {
            "cpu_seconds": round(seconds, 4),
            "card_seconds": round(card_seconds, 4),
            "memory_mb": peak(card),
            "nats": abs(card_nats / nats - 1),
            "gradient": float((card_slope - slope).norm() / slope.norm()),
        },
    )
    for part, compute in (
        ("training, card, mixed", Compute(device=card, mixed=True)),
        ("training, card, full", Compute(device=card)),
        ("training, processor, full", Compute()),
    ):
        note(part, training(pool, unseen, arguments.work / "run", arguments.steps, compute))
    for method in ("curve", "latent"):
        made = []
        for device in ("cpu", card):
            began = now(device)
            result = bh.harmonize(arguments.scan, target, method=method, device=device)
            made.append((result, now(device) - began))
        (ours, seconds), (other, card_seconds) = made
        times = {"cpu_seconds": ours.seconds["harmonizing"], "card_seconds": other.seconds["harmonizing"]}
        whole = {"cpu_whole": round(seconds, 1), "card_whole": round(card_seconds, 1), "memory_mb": peak(card)}
        verdicts = {"verdicts": [ours.verdict.level, other.verdict.level]}
        note(f"harmonize, {method}", {**times, **whole, **verdicts, **apart(ours.data, other.data, ours.mask)})


if __name__ == "__main__":
    main()
