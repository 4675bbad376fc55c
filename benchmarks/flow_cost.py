"""What a log-density with its gradient costs: this pyramid, the published 2-D spline flow and a 3-D Glow, one head.

    python benchmarks/flow_cost.py HEAD --target ds002748 --out FILE.json

HEAD is a prepared head (.safetensors) from the folder of a benchmark or of honesty.py. Processor seconds, which other
work on the machine hardly changes, and the time that went by; ratios are between systems of one run on one machine. The
cost of a pyramid is shown by resolution, so that it is seen to grow with the voxels.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from safetensors.numpy import load_file

from blindharmony.flows.bijection import Condition
from blindharmony.flows.glow import MultiScaleFlow, glow_3d, published_2d
from blindharmony.models.file import load_target
from blindharmony.quality.typicality import reduced

_REPEATS = 3


def seconds(how, x):
    """Processor seconds and seconds that went by, of the fastest of a few runs, after one that does not count."""
    found = []
    for _ in range(_REPEATS + 1):
        given = x.clone().requires_grad_()
        began, clock = time.process_time(), time.perf_counter()
        how(given).backward()
        found.append((time.process_time() - began, time.perf_counter() - clock))
    return min(found[1:])


def whole_2d(flow, mask):
    """Log-density of all slices; their gradients are added one after the other, to bound memory."""

    def run(x):
        slices = [i for i in range(x.shape[4]) if mask[..., i].any()]
        total = torch.zeros(())
        for i in slices[:-1]:
            flow.log_prob(x[..., i] / 2, Condition(mask=mask[..., i].float())).sum().backward()
        return total + flow.log_prob(x[..., slices[-1]] / 2, Condition(mask=mask[..., slices[-1]].float())).sum()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    head = load_file(arguments.head)
    rows = {}

    def note(name, took, mask, flow):
        count = sum(p.numel() for p in flow.parameters())
        used, went_by = (round(t, 3) for t in took)
        rows[name] = {"seconds": used, "elapsed": went_by, "voxels": int(mask.sum()), "parameters": count}
        print(name, rows[name], flush=True)

    for halvings in (3, 2, 1):
        x, mask = reduced(head["image"], head["mask"] & target.fit_region, halvings)
        first = halvings - 1
        took = seconds(lambda v, m=mask, k=first: target.pyramid.density(v, m, first=k).nats.sum(), x)
        note(f"pyramid, {2**halvings} mm", took, mask, target.pyramid)
    torch.manual_seed(0)
    glow = MultiScaleFlow(glow_3d()).eval()
    note("3-D Glow, 2 mm", seconds(lambda v: glow.log_prob(v / 2, Condition(mask=mask.float())).sum(), x), mask, glow)
    flat = MultiScaleFlow(published_2d()).eval()
    note("published 2-D spline flow, 2 mm", seconds(whole_2d(flat, mask), x), mask, flat)
    content = {"target": target.digest, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
