"""What trained systems gain from more training: the same benchmark on other machines, or with other --minutes.

    python benchmarks/longer.py --out FILE.json 'two cores=DIR' 'a graphics card=DIR' ...

DIR is the --out of a `blindharmony benchmark`; what stands before it is where its networks were trained. Folders with
one name go together.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def rows(where, folder):
    """One for each trained system and simulated source."""
    for step in sorted(folder.glob("steps/simulated/*/*.json")):
        found = json.loads(step.read_text())
        source, system = found["source"], found["system"]
        learnt = [*folder.glob(f"learnt/{source}/{system}-*/training.json")]
        learnt += folder.glob(f"learnt/target/{system}-*/training.json")
        if not learnt or "scans" not in found:
            continue
        training = json.loads(max(learnt, key=lambda f: f.stat().st_mtime).read_text())
        psnr = [s["psnr"] for s in found["scans"]]
        numbers = {"steps": training["steps"], "seconds": round(training["seconds"])}
        quality = {"psnr": round(float(np.mean(psnr)), 2), "worst": round(min(psnr), 2), "scans": len(psnr)}
        yield {"system": system, "source": source, "where": where, **numbers, **quality}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("runs", nargs="+")
    arguments = parser.parse_args()
    found = [row for run in arguments.runs for row in rows(*_named(run))]
    known = {r["system"]: i for i, r in enumerate(found)}
    found.sort(key=lambda r: (r["source"] == "all", -known[r["system"]], r["steps"]))
    arguments.out.write_text(json.dumps({"rows": found}, indent=1) + "\n")


def _named(run):
    where, _, folder = run.partition("=")
    return where, Path(folder)


if __name__ == "__main__":
    main()
