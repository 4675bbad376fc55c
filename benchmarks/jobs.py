"""A hundred jobs at once on one folder, many killed or preempted, all started again: is anything lost or half done?

    python benchmarks/jobs.py BIDS_DIR --out docs/measured_jobs.json

Real scans with large voxels, one of each participant, are harmonized to a small target by jobs of an array that are all
started at the same time. They are beside each other from first to last; only the computing goes in turns, because a
hundred scans at once need more memory than a small machine has. Of the jobs whose turn it is two of five are ended at a
moment drawn by chance, half of them by a kill and half by SIGTERM, and ten jobs are started twice. Every job that has
not ended well is then started again, as a queue would, until all have. What is in the folder in the end has to be what
undisturbed jobs give, byte for byte. Once on a disk without locks and hard links, once on one as it is.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# Jobs are forked and have it. Nothing is computed here: threads of its own would be missing in them.
import blindharmony.api  # noqa: F401
from blindharmony import locks
from blindharmony.cli.main import main as command
from blindharmony.models.file import save_target
from blindharmony.study.cohort import cohort_rows
from blindharmony.study.ledger import Ledger
from blindharmony.study.work import HarmonizeScan
from targets import synthetic_target

_MM, _TWICE, _TURNS = 6.0, 10, 3
DISKS = ("without locks and hard links", "as it is")


def small_study(bids: Path, folder: Path, people: int, different: int) -> Path:
    """Real scans with large voxels; each comes again and again."""
    scans = sorted(bids.glob("sub-*/**/anat/*_T1w.nii*"))[:different]
    for number, scan in enumerate(scans):
        small = resample_to_output(nib.load(scan), _MM, order=1)
        head = nib.Nifti1Image(np.round(small.get_fdata()).astype(np.int16), small.affine).to_bytes()
        for who in range(number, people, different):
            place = folder / f"sub-{who:03d}/anat/sub-{who:03d}_T1w.nii"
            place.parent.mkdir(parents=True)
            place.write_bytes(head)
    (folder / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.10.0"}')
    return folder


@dataclass
class Turns:
    """Who may compute: a locked file for each, with the process's id. A process that dies lets go of it."""

    folder: Path

    def wait(self) -> Any:
        """A handle that is closed when the turn is over."""
        while True:
            for number in range(_TURNS):
                file = (self.folder / str(number)).open("a+")
                with suppress(OSError):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.truncate(0)
                    file.write(str(os.getpid()))
                    file.flush()
                    return file
                file.close()
            time.sleep(0.5)  # a hundred that ask more often take the time of those that compute

    def now(self) -> set[int]:
        """Processes whose turn it is, or was last."""
        return {int(text) for file in self.folder.iterdir() if (text := file.read_text())}


@contextmanager
def disk(kind: str, turns: Turns) -> Iterator[None]:
    """Within it the disk is of this kind, and scans are harmonized in turns."""
    refused, harmonize = mock.Mock(side_effect=OSError(95, "Operation not supported")), HarmonizeScan.do

    def in_turn(self: HarmonizeScan, tell: Any) -> Any:
        with turns.wait():
            return harmonize(self, tell)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(HarmonizeScan, "do", in_turn))
        if kind != "as it is":
            stack.enter_context(mock.patch.object(locks.fcntl, "flock", refused))
            stack.enter_context(mock.patch.object(os, "link", refused))
        yield


def started(words: Sequence[str], job: int, log: Path) -> int:
    """Process id of a job of the array."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os.environ["SLURM_ARRAY_TASK_ID"] = str(job)
            code = command(words)
    finally:
        os._exit(code)


def round_of(words: Sequence[str], jobs: Sequence[int], share: float, turns: Turns, log: Path) -> list[tuple[int, int]]:
    """Start jobs at once and end a share of those whose turn has come; each with its exit code, or minus its signal."""
    chance, began, due, took, codes = random.Random(len(jobs)), {}, {}, [5.0], {}
    pids = {started(words, job, log): job for job in jobs}
    while len(codes) < len(pids):
        now = time.monotonic()
        for pid in turns.now() & pids.keys() - began.keys():
            began[pid] = now
            if chance.random() < share:
                due[pid] = now + chance.uniform(0, 1.1 * median(took))
        for pid in [pid for pid, moment in due.items() if moment < now]:
            del due[pid]
            if pid not in codes:
                os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGTERM]))
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            codes[ended] = os.waitstatus_to_exitcode(status)
            took += [now - began[ended]] if codes[ended] == 0 and ended in began else []
        else:
            time.sleep(0.05)
    return [(pids[pid], code) for pid, code in codes.items()]


def images(out: Path) -> dict[str, str]:
    """Name of every result that tells nothing of its participant → its hash."""
    files = (f for f in out.glob("sub-*/**/*.nii.gz") if f.is_file())
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def survived(words: Sequence[str], out: Path, people: int, calm: dict[str, str], turns: Turns, log: Path) -> dict:
    """All jobs, again and again, until each has ended well; what happened, and what is wrong in the end."""
    begun, rounds, well = time.monotonic(), [], set()
    jobs = [*range(people), *range(_TWICE)]
    while jobs:
        ended = round_of([*words, "--array", str(people)], jobs, 0.4 if not rounds else 0.2, turns, log)
        well |= {job for job, code in ended if code == 0}
        codes = Counter(code for _, code in ended)
        rounds.append({"jobs": len(jobs), "exit codes": {str(code): codes[code] for code in sorted(codes)}})
        print(json.dumps(rounds[-1]), flush=True)
        jobs = [job for job in range(people) if job not in well]
    states = Counter(row["status"] for row in cohort_rows(Ledger(out)))
    number, now = len(calm) // 2, images(out)
    expected = {
        name.replace(f"sub-{who % number:03d}", f"sub-{who:03d}"): value
        for who in range(people)
        for name, value in calm.items()
        if name.startswith(f"sub-{who % number:03d}")
    }
    files = [f for f in out.rglob("*") if f.is_file()]
    last = os.waitstatus_to_exitcode(os.waitpid(started(words, 0, log), 0)[1])
    after = [f for f in out.rglob("*") if f.is_file()]
    return {
        "seconds": round(time.monotonic() - begun),
        "rounds": rounds,
        "scans": dict(states),
        "images": len(now),
        "images that are not as undisturbed": sum(expected.get(name) != now.get(name) for name in {*expected, *now}),
        "results without the half of their pair": len(now) % 2,
        "left by those that were killed": sum(".tmp" in f.name or "staging" in f.parts for f in files),
        "left after the next run": sum(".tmp" in f.name or "staging" in f.parts for f in after),
        "exit code of the next run": last,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bids", type=Path)
    p.add_argument("--people", type=int, default=100)
    p.add_argument("--different", type=int, default=10, help="scans; each is that of several participants")
    p.add_argument("--disks", nargs="+", choices=DISKS, default=list(DISKS))
    p.add_argument("--folder", type=Path, help="where everything lies for a while (default: the system's)")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    load, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        folder, turns = Path(name), Turns(Path(name, "turns"))
        turns.folder.mkdir()
        study = small_study(a.bids, folder / "study", a.people, a.different)
        target = folder / "small.safetensors"
        save_target(synthetic_target(), target)
        how = ["--target", str(target), "--scanner-grouping", "none", "--n-procs", "0", "--no-report"]
        first = ["--participant-label", *(f"{who:03d}" for who in range(a.different))]
        words = lambda out: ["bids", str(study), str(out), "participant", *how, "--skip-bids-validation"]  # noqa: E731
        assert os.waitpid(started([*words(folder / "calm"), *first], 0, folder / "log"), 0)[1] == 0
        calm = images(folder / "calm")
        for kind in a.disks:
            out = folder / f"out{len(rows)}"
            with disk(kind, turns):
                rows.append({"disk": kind, **survived(words(out), out, a.people, calm, turns, folder / "log")})
            shutil.rmtree(out)
            print(json.dumps(rows[-1]), flush=True)
    content = {"people": a.people, "different": a.different, "load_before_and_after": [load, os.getloadavg()[0]]}
    a.out.write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
