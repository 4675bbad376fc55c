"""What of a scanner costs what: one effect of it is left out at a time, and the default harmonizes the rest.

    python benchmarks/parts.py DATA --set ds002748 --target ds002748 --heads DIR --out FILE.json [--domains site1 ...]

PSNR in dB as everywhere (brain, range the truth's 99th percentile), before and after refinement. What a scanner without
noise has more than the scanner itself is what a perfect removal of noise would bring; likewise blur, contrast and the
coil's field.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from blindharmony.device import exact_convolutions
from blindharmony.models.file import load_target
from blindharmony.quality.metrics import psnr
from blindharmony_benchmark.cli.scripts import measuring
from blindharmony_benchmark.heads import heads_of
from blindharmony_benchmark.plan import read_splits
from blindharmony_benchmark.scanners import SITES, Scanner
from blindharmony_benchmark.simulation.sites import WITHOUT
from blindharmony_benchmark.system import Material
from blindharmony_benchmark.systems.blind import Curve, CurveUnrefined


def main():
    parser = measuring(__doc__)
    parser.add_argument("--people", type=int, help="only the first so many of the test people")
    parser.add_argument("--domains", nargs="+", default=SITES)
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    split = read_splits(arguments.data)[arguments.set]
    heads = heads_of(split.folder, split.test[: arguments.people], arguments.heads, target.info.recipe)
    record = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    record |= {"target": target.digest, "set": arguments.set, "people": len(heads)}
    for domain in arguments.domains:
        rows = record.setdefault("domains", {}).setdefault(domain, {})
        for without in ("", *WITHOUT):
            scans = Scanner.set_for(heads, domain, target.info.recipe, without).scans(heads)
            row = {}
            for system in (CurveUnrefined(), Curve()):
                with exact_convolutions():
                    images = system.harmonize(scans, Material(target, (), (), (), (), Path(), 0.0))
                each = []
                for image, scan, head in zip(images, scans, heads, strict=True):
                    both = scan.mask & head.mask
                    each.append(psnr(head.image, image, both, float(np.quantile(head.image[both], 0.99))))
                row[system.name] = [round(value, 2) for value in each]
            rows[without or "nothing"] = row
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
            print(domain, without or "nothing", {k: round(float(np.mean(v)), 2) for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
