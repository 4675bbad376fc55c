"""What each step of the program costs: seconds of processor, seconds that went by, and memory, for scans and groups.

    python benchmarks/speed.py --head HEAD --group SCAN ... --against OLDER/src --out FILE.json

Every case runs in a Python of its own, so that imports count and peaks of memory are its own. Processor seconds hardly
change when other work shares the machine; the seconds that went by do. With ``--against`` each case runs a second time
with the package in that folder, right after the first, so that both see the same machine.

Cases: ``head``, ``stripped`` and ``fine`` harmonize one scan and write everything; ``assess`` assesses the head;
``group`` learns the scanner of the scans and harmonizes each with it; ``training`` prepares them as training does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

# The steps are wrapped from outside, so that an older version of the package can be measured as it was, by its names.
_CASE = """
import json, resource, sys, tempfile, time
from collections import defaultdict
from importlib import import_module

spent = defaultdict(lambda: [0.0, 0.0])
began = time.process_time(), time.perf_counter()

def note(name, start):
    spent[name][0] += time.process_time() - start[0]
    spent[name][1] += time.perf_counter() - start[1]

def timed(name, module, attribute):
    owner = import_module("blindharmony." + module)
    *path, last = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    inner = getattr(owner, last)
    def outer(*args, **options):
        start = time.process_time(), time.perf_counter()
        try:
            return inner(*args, **options)
        finally:
            note(name, start)
    setattr(owner, last, outer)

import blindharmony.api as api
try:
    from blindharmony.jobs.processes import keep_memory
    keep_memory()  # as the command does
except ImportError:
    pass
note("imports", began)
for name, module, attribute in STEPS:
    try:
        timed(name, module, attribute)
    except (AttributeError, ImportError):
        pass  # an older version does it somewhere else, under another name
case, target, *scans = sys.argv[1:]
model = api.load_target(target)
with tempfile.TemporaryDirectory() as folder:
    if case == "assess":
        api.assess(scans[0], model)
    elif case == "training":
        from blindharmony.io.volume import read_volume
        from blindharmony.preprocessing.recipe import prepare
        for scan in scans:
            prepare(read_volume(scan), model.info.recipe)
    elif case == "group":
        from pathlib import Path
        cache = Path(folder, "cache")
        scanner = api.learn_scanner(scans, model, cache=cache)
        for index, scan in enumerate(scans):
            api.harmonize(scan, model, scanner=scanner, cache=cache).save(f"{folder}/{index}")
    else:
        api.harmonize(scans[0], model).save(folder)
note("all", began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"steps": {k: [round(s, 2) for s in v] for k, v in spent.items()}, "MiB": round(peak)}))
"""

STEPS = (
    ("target", "api", "load_target"),
    ("reading", "api", "read_volume"),
    ("brain mask", "preprocessing.brain", "ExtractBrain.estimate"),
    ("brain mask", "preprocessing.brain", "BrainMask.params"),
    ("bias field", "preprocessing.steps", "CorrectBias.estimate"),
    ("bias field", "preprocessing.steps", "BiasN4.params"),
    ("registration", "preprocessing.registration", "Register.estimate"),
    ("registration", "preprocessing.registration", "Place.params"),
    ("resampling", "preprocessing.registration", "Register.apply"),
    ("resampling", "preprocessing.registration", "Place.apply"),
    ("ranks", "harmonization.curve", "summarize"),
    ("refinement", "harmonization.methods", "refined"),
    ("judging", "api", "gather_evidence"),
    ("judging", "api", "judge"),
    ("native space", "api", "to_scan"),
    ("writing", "result", "write_like"),
    ("report", "result", "write_report"),
)


def measured(case: str, target: str, scans: list[str], source: str) -> dict[str, object]:
    """One case in a Python of its own, with the package in ``source``."""
    script = f"STEPS = {STEPS!r}\n{_CASE}"
    done = subprocess.run(
        [sys.executable, "-c", script, case, target, *scans],
        env={**os.environ, "PYTHONPATH": source},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    content: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("head", "stripped", "fine"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--group", nargs="+", default=[])
    parser.add_argument("--cases", nargs="+", help="only these")
    parser.add_argument("--target", default="ds002748")
    parser.add_argument("--against", help="the src folder of another version of the package")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    cases = {name: [getattr(given, name)] for name in ("head", "stripped", "fine") if getattr(given, name)}
    if given.head:
        cases["assess"] = [given.head]
    if given.group:
        cases |= {"group": given.group, "training": given.group}
    now = str(Path(__file__).resolve().parent.parent / "src")
    versions = {"before": given.against, "after": now} if given.against else {"after": now}
    rows = []
    for case, scans in cases.items():
        for version, source in versions.items():
            if given.cases and case not in given.cases:
                continue
            row = {"case": case, "version": version, "scans": len(scans)}
            rows.append(row | measured(case, given.target, scans, source))
            print(json.dumps(rows[-1]), flush=True)
            threads = os.environ.get("OMP_NUM_THREADS", "")
            content = {"cores": os.cpu_count(), "threads": threads, "load": os.getloadavg()[0], "rows": rows}
            given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
