r"""Is the flow an honest judge? Where the likelihood of changed target scans has its optimum, over heads it never saw.

    python benchmarks/honesty.py STUDY --subjects sub-51 ... --target ds002748 --work DIR --out FILE.json

For a family of changes :math:`T_t` with :math:`T_0` the identity, and each resolution's image x:

    t* = argmax_t  log p(T_t(x)) + log|det dT_t/dx|

Families: gain exp(t); gamma, exponent exp(t) with white matter near its fixed point; bias fields exp(t b(v)), b linear
along an axis or quadratic, mean 0 and root mean square 1 over the brain. A judge without fault has t* = 0 on average;
how much t* differs between people is how much it knows about one person.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from blindharmony.evidence.heads import heads_of
from blindharmony.flow.haar import haar_split
from blindharmony.harmonization.typicality import reduced
from blindharmony.target import load_target

GRID = np.linspace(-0.24, 0.24, 13)
_DARK = 0.05


def gain(x, mask, t):
    return x * np.exp(t), t * mask.sum()


def gamma(x, mask, t):
    power = float(np.exp(t))
    bent = x.clamp_min(_DARK) ** power
    slope = (power * x.clamp_min(_DARK) ** (power - 1)).where(x > _DARK, torch.tensor(_DARK ** (power - 1)))
    return bent.where(x > _DARK, x * _DARK ** (power - 1)), slope.log()[mask].sum()


def field(axis, order):
    def change(x, mask, t):
        shape = [1] * 5
        shape[2 + axis] = x.shape[2 + axis]
        b = torch.linspace(-1, 1, x.shape[2 + axis]).view(shape).expand_as(x) ** order
        b = b - b[mask].mean()
        b = b / b[mask].square().mean().sqrt()
        return x * torch.exp(t * b), t * b[mask].sum()

    return change


FAMILIES = {
    "gain": gain,
    "gamma": gamma,
    **{f"bias {name}": field(axis, 1) for axis, name in enumerate(("left-right", "back-front", "down-up"))},
    "bias middle-ends": field(2, 2),
}


def optimum(values):
    """Vertex of the parabola through the best point of the grid and its neighbours."""
    best = int(np.clip(np.argmax(values), 1, len(GRID) - 2))
    low, mid, high = values[best - 1 : best + 2]
    step = GRID[1] - GRID[0]
    return float(GRID[best] + step * np.clip(0.5 * (low - high) / min(low - 2 * mid + high, -1e-9), -1, 1))


@torch.no_grad()
def optima(x, mask, flow):
    """Resolution in mm → family → t*, and how far T at t = 1 % moves the image, in units of 1 % of its rms."""
    found, moves = {}, {}
    for level in range(len(flow.levels)):
        mm = f"{flow.spec.finest_mm * 2**level:g} mm"
        found[mm], moves[mm] = {}, {}
        for name, change in FAMILIES.items():
            values = []
            for t in GRID:
                bent, jacobian = change(x, mask, float(t))
                nats = flow.density(bent.where(mask, 0.0), mask, first=level).nats.double().sum()
                values.append(float(nats) + float(jacobian))
            found[mm][name] = optimum(np.array(values))
            step = change(x, mask, 0.01)[0] - x
            moves[mm][name] = float((step[mask].square().mean() / x[mask].square().mean()).sqrt()) / 0.01
        split = haar_split(x, mask)
        x, mask = split.coarse, split.coarse_mask
    return found, moves


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--subjects", nargs="+", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    rows = []
    for head in heads_of(arguments.study, arguments.subjects, arguments.work, target.info.recipe):
        x, mask = reduced(head.image, head.mask & target.fit_region, 1)
        found, moves = optima(x, mask, target.pyramid)
        rows.append({"subject": head.subject, "optima": found, "moves": moves})
        print(rows[-1], flush=True)
    table = {}
    for mm in rows[0]["optima"]:
        for name in FAMILIES:
            found = np.array([r["optima"][mm][name] for r in rows])
            table.setdefault(mm, {})[name] = {
                "mean": round(float(found.mean()), 4),
                "error of the mean": round(float(found.std(ddof=1) / np.sqrt(len(found))), 4),
                "worst": round(float(np.abs(found).max()), 4),
                "moves": round(float(np.mean([r["moves"][mm][name] for r in rows])), 4),
            }
    print(json.dumps(table, indent=1))
    arguments.out.write_text(json.dumps({"target": target.digest, "rows": rows, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
