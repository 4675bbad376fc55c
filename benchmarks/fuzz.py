"""Ten thousand broken and hostile files through every reader: what comes out, in what time, with how much memory?

    python benchmarks/fuzz.py --cases 10000 --seed 0 --out docs/measured_fuzz.json
    python benchmarks/fuzz.py --trees 2500 --seed 0 --out docs/measured_trees.json

Every case is a good file with seeded damage (``tests/mutations.py``). Allowed outcomes are a valid object, or one
error of the package that names the file. Anything else is listed with the seed that makes it again:
another exception, more than 20 s, more memory than the file's kind may take, a message of several lines,
or an object that an independent reading of the same bytes contradicts (``tests/readers.py``).

With ``--trees`` whole data sets are given to commands instead (``tests/trees.py``). Scans are read and refused for
real; what comes after reading is cut off, so that a tree takes a twentieth of a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import blindharmony.cli.main as command
from blindharmony.models.file import save_target
from readers import KINDS, Late, Outcome, damaged, outcome
from targets import synthetic_target
from trees import broken_law, grown, words_for, work_cut_off

SECONDS = 20


def peak() -> tuple[int, int]:
    """Resident memory now and at its highest since the last reset, bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return tuple(1024 * int(lines[k].split()[0]) for k in ("VmRSS", "VmHWM"))


def watched(kind: str, folder: Path, seed: int) -> tuple[Outcome, float, int]:
    """One case, its time, and the memory it took at its worst."""
    content, path = damaged(kind, seed), folder / KINDS[kind].name
    path.write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")
    before, _ = peak()
    signal.alarm(SECONDS)
    start = time.perf_counter()
    try:
        found = outcome(kind, path, content)
    except Late:
        found = Outcome("hang", f"more than {SECONDS} s")
    finally:
        signal.alarm(0)
    return found, time.perf_counter() - start, peak()[1] - before


def trees(arguments: argparse.Namespace) -> int:
    """Every tree of the seeds, given to the command of its seed."""
    codes, layouts, bad, worst = {}, Counter(), [], 0.0
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name,
        work_cut_off(),
    ):
        folder = Path(name)
        root, out, target = folder / "tree", folder / "out", folder / "tiny.safetensors"
        save_target(synthetic_target(), target)
        command.main(["info", str(target)])  # what all commands load is loaded before the clock runs
        for seed in range(arguments.seed, arguments.seed + arguments.trees):
            for old in (root, out):
                shutil.rmtree(old, ignore_errors=True)
            layout = grown(root, seed)
            words = words_for(root, out, target, seed)
            start = time.process_time()
            code, *broken = broken_law(root, out, words, seed, 3 * SECONDS)
            worst = max(worst, time.process_time() - start)
            codes.setdefault(words[0], Counter())[code] += 1
            layouts[layout] += 1
            if broken:
                bad.append({"seed": seed, "layout": layout, "command": words[0], "broken": broken})
                print(json.dumps(bad[-1]).replace(name, ""), flush=True)
            if arguments.out and (sum(layouts.values()) % 100 == 0 or seed + 1 == arguments.seed + arguments.trees):
                keep(arguments, codes, layouts, bad, worst)  # a run that is stopped keeps what it has measured
    print(*table_of(codes), dict(layouts), f"{sum(layouts.values())} trees, {len(bad)} bad", sep="\n")
    return 1 if bad else 0


def table_of(codes: dict[str, Counter]) -> list[dict]:
    """A row for each command: how many trees it was given, and how often each exit code came out."""
    return [
        {"command": verb, "trees": sum(codes[verb].values()), "exit codes": dict(sorted(codes[verb].items()))}
        for verb in sorted(codes)
    ]


def keep(arguments: argparse.Namespace, codes: dict[str, Counter], layouts: Counter, bad: list, worst: float) -> None:
    """Write what was found so far."""
    content = {"seed": arguments.seed, "layouts": dict(sorted(layouts.items())), "seconds": round(worst, 2)}
    content |= {"rows": table_of(codes), "bad": bad[:200]}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--trees", type=int, help="data sets through commands, in the place of files through readers")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.trees:
        return trees(arguments)

    def late(*_):
        raise Late

    signal.signal(signal.SIGALRM, late)
    # A net below the wire: what asks for more fails at once instead of taking the machine along.
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
    shares = np.array([KINDS[k].share for k in arguments.kind], float)
    counts = {k: Counter() for k in arguments.kind}
    worst = {k: [0.0, 0] for k in arguments.kind}
    bad = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        for kind, number in zip(
            arguments.kind, np.ceil(arguments.cases * shares / shares.sum()).astype(int), strict=True
        ):
            watched(kind, Path(folder), arguments.seed)  # the first reading loads what later ones share
            for case in range(number):
                found, seconds, memory = watched(kind, Path(folder), arguments.seed + case)
                if memory > KINDS[kind].memory * 2**20 and found.name in ("accepted", "refused"):
                    found = Outcome("memory", f"{memory / 2**20:.0f} MiB; {found.said}")
                counts[kind][found.name] += 1
                worst[kind] = [max(worst[kind][0], seconds), max(worst[kind][1], memory)]
                if found.name not in ("accepted", "refused"):
                    bad.append({"kind": kind, "seed": arguments.seed + case, "what": found.name, "said": found.said})
            row = {**counts[kind], "seconds": round(worst[kind][0], 2), "MiB": round(worst[kind][1] / 2**20)}
            print(f"{kind:<12} {number:>6}  {row}", flush=True)
    for entry, times in Counter((b["kind"], b["what"], b["said"][:110]) for b in bad).most_common(60):
        print(times, *entry, sep="  ")
    total = sum(map(sum, (c.values() for c in counts.values())))
    print(f"{total} cases, {len(bad)} bad")
    if arguments.out:
        rows = [
            {"kind": k, **counts[k], "seconds": round(worst[k][0], 2), "MiB": round(worst[k][1] / 2**20)}
            for k in counts
        ]
        arguments.out.write_text(json.dumps({"seed": arguments.seed, "rows": rows, "bad": bad[:200]}, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
