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

from blindharmony.flows.pyramid import FAMILIES, most_probable
from blindharmony.flows.transforms import haar_split
from blindharmony.models.file import load_target
from blindharmony.quality.typicality import reduced
from blindharmony_benchmark.heads import heads_of

GRID = np.linspace(-0.24, 0.24, 13)


def moved(x, mask, name):
    """How far T at t = 1 % moves the image, in units of 1 % of its root mean square."""
    step = FAMILIES[name](x, mask, 0.01)[0] - x
    return float((step[mask].square().mean() / x[mask].square().mean()).sqrt()) / 0.01


def optima(x, mask, flow):
    """Resolution in mm → family → t*, and how far T at t = 1 % moves the image."""
    found, moves = {}, {}
    for level, row in enumerate(most_probable(flow, x, mask, GRID)):
        mm = f"{flow.spec.finest_mm * 2**level:g} mm"
        found[mm], moves[mm] = row, {name: moved(x, mask, name) for name in FAMILIES}
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
