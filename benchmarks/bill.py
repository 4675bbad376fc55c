"""What ``bids --estimate`` says of a study, and what the study then takes.

    python benchmarks/bill.py BIDS_DIR --scans 24 --out bill.json

Scans are linked into a data set of their own, one scanner for all; one process of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cohort import LOAD, linked, timed


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bids", type=Path)
    p.add_argument("--scans", type=int, default=24)
    p.add_argument("--target", default="ds002748")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study, out = linked(a.bids, Path(folder, "study"), a.scans), Path(folder, "out")
        words = [sys.executable, "-m", "blindharmony", "bids", str(study), str(out), "participant"]
        words += ["--target", a.target, "--n-procs", "1", "--omp-nthreads", "1", "--skip-bids-validation"]
        said = subprocess.run([*words, "--estimate", "--json"], check=True, capture_output=True, text=True)
        wall, peak, own, workers = timed([*words, "-q"])
        results = [f for f in out.rglob("*") if f.is_file() and ".blindharmony" not in f.parts]
        records = [f for f in out.rglob("*") if f.is_file() and ".blindharmony" in f.parts]
        truth = {
            "hours": wall / 3600,
            "memory_gb": peak,
            "results_gb": sum(f.stat().st_size for f in results) / 1e9,
            "records_gb": sum(f.stat().st_size for f in records) / 1e9,
            "files": len(results) + len(records),
            "own_s": own,
            "worker_s": workers,
        }
    content = {"estimate": json.loads(said.stdout), "truth": truth, "load_before_and_after": [LOAD, os.getloadavg()[0]]}
    a.out.write_text(json.dumps(content, indent=1) + "\n")
    print(a.out.read_text())


if __name__ == "__main__":
    main()
