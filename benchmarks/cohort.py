"""Throughput of cohort runs: the same scans with one, two, ... processes, and a second run that has nothing to do.

    python benchmarks/cohort.py BIDS_DIR --scans 4 --procs 1 2 --out cohort.json

Scans are linked into a data set of their own, one scanner for all (``--alone``: each by itself). For every number of
processes, each on one core, and then for one process that may use all cores: wall time, scans an hour, seconds of a
scan (by its own clock), what the run adds to that, the most memory of a worker, disk a scan, and whether the results
have the same bytes as those of the first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

KEPT = (".nii.gz", ".json", ".html")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bids", type=Path)
    p.add_argument("--scans", type=int, default=4)
    p.add_argument("--procs", type=int, nargs="+", default=[1, 2])
    p.add_argument("--all-cores", action="store_true", help="also one process with every core")
    p.add_argument("--alone", action="store_true")
    p.add_argument("--target", default="ds002748")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = linked(a.bids, Path(folder, "study"), a.scans)
        runs = [measured(study, Path(folder, f"out{n}"), n, a, one_core_each=True) for n in a.procs]
        if a.all_cores:
            runs.append(measured(study, Path(folder, "all"), 1, a, one_core_each=False))
    for run in runs:
        run["same_bytes"] = run["digest"] == runs[0]["digest"]
    found = {"cores_here": len(os.sched_getaffinity(0)), "scans": a.scans, "together": not a.alone, "runs": runs}
    found["load_before_and_after"] = [LOAD, os.getloadavg()[0]]
    a.out.write_text(json.dumps(found, indent=1) + "\n")
    print(a.out.read_text())


LOAD = os.getloadavg()[0]


def linked(bids: Path, study: Path, count: int) -> Path:
    """A data set of links to the first scans of another."""
    for scan in sorted(bids.glob("sub-*/**/anat/*_T1w.nii*"))[:count]:
        link = study / scan.relative_to(bids)
        link.parent.mkdir(parents=True)
        link.symlink_to(scan.resolve())
    (study / "dataset_description.json").write_text('{"Name": "benchmark", "BIDSVersion": "1.10.0"}')
    (study / "T1w.json").write_text('{"DeviceSerialNumber": "1"}')
    return study


def measured(study: Path, out: Path, procs: int, a: argparse.Namespace, *, one_core_each: bool) -> dict[str, object]:
    """One run and one more that finds everything done."""
    words = [
        sys.executable,
        "-m",
        "blindharmony",
        "bids",
        str(study),
        str(out),
        "participant",
        "--skip-bids-validation",
    ]
    words += ["--target", a.target, "--n-procs", str(procs), "-q", "--skip-bids-validation"]
    words += ["--scanner-grouping", "none"] if a.alone else []
    cores = sorted(os.sched_getaffinity(0))[:procs] if one_core_each else sorted(os.sched_getaffinity(0))
    words = ["taskset", "-c", ",".join(map(str, cores)), *words]
    wall, peak, _, _ = timed(words)
    again, *_ = timed(words)
    home = out / ".blindharmony"
    records = [json.loads(f.read_text()) for f in sorted(home.glob("scans/*/record.json"))]
    own = sum(r["seconds"] for r in records)
    results = sorted(f for f in out.glob("sub-*/**/*") if f.name.endswith(KEPT))
    digest = hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in results)).hexdigest()
    n = len(records)
    return {
        "processes": procs,
        "cores": len(cores),
        "wall_s": round(wall, 1),
        "scans_an_hour": round(3600 * n / wall, 1),
        "seconds_a_scan_by_its_clock": round(own / n, 1),
        "worker_seconds_a_scan_beyond_that": round((wall * procs - own) / n, 1),
        "second_run_s": round(again, 1),
        "most_memory_of_a_process_gb": round(peak, 2),
        "results_mb_a_scan": round(sum(f.stat().st_size for f in results) / n / 1e6, 2),
        "records_kb_a_scan": round(sum(f.stat().st_size for f in home.rglob("*") if f.is_file()) / n / 1e3, 1),
        "digest": digest,
    }


def timed(words: list[str]) -> tuple[float, float, float, float]:
    """Wall seconds; the most memory (GB) that one process had; processor seconds of the run itself and its workers."""
    start = time.perf_counter()
    process = subprocess.Popen(words)
    peak, spent, stop = [0.0], {}, threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            for child in [process.pid, *children(process.pid)]:
                peak[0] = max(peak[0], memory(child))
                spent[child] = processor_s(child) or spent.get(child, 0.0)

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    stop.set()
    thread.join()
    if code:
        raise SystemExit(f"the run ended with {code}")
    own = spent.pop(process.pid, 0.0)
    return time.perf_counter() - start, peak[0], own, sum(spent.values())


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def processor_s(pid: int) -> float:
    """Of a process, without its children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)


if __name__ == "__main__":
    main()
