"""Studies of 3 to 30,000 scans without their computing: what plan, records, table and page take.

    python benchmarks/thousands.py --scans 3 300 3000 30000 --out thousands.json

The data set, the ledger, the engine and the page are real; the work is made up: it writes files of a few bytes with
the names of results, and records with numbers that a cohort could have. Each size runs in a process of its own, whose
memory is told. Seconds are the processor's, which other work on the machine hardly changes. ``--folder /dev/shm`` takes
a disk in memory: what is then seen is the program, not the disk, which adds the time of four ``fsync`` a scan. Four
scanners made most scans; every fifth goes alone; every hundredth fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.errors import InputError
from blindharmony.files import result_names, sidecar_name, write_bytes, write_sidecar
from blindharmony.io.bids import bids_scans
from blindharmony.jobs.engine import Answer, SerialEngine
from blindharmony.models.card import read_card
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.cohort import LEVELS, cohort_rows, keep_target, write_cohort_page, write_table
from blindharmony.study.derivative import describe
from blindharmony.study.groups import alone, by_metadata
from blindharmony.study.ledger import Ledger, note_path
from blindharmony.study.run import Pieces, held, make_plan, run_study, write_failures
from blindharmony.study.work import FitScanner, HarmonizeScan, LookAtScan, ScannerFit, ScanRecord, StudySettings

_SCANNERS, _KB = 4, 10


class MadeUpLook(LookAtScan):
    """Writes a summary of the usual size."""

    def do(self, tell: Any) -> Answer:
        number = int(self.item.scan.words["sub"])
        if number % 100 == 99:
            raise InputError("no brain was found", remedy="give a mask", path=self.item.scan.path)
        write_bytes(self.file, bytes(_KB * 1000), overwrite=True)
        return Answer()


class MadeUpFit(FitScanner):
    """Reads the summaries and writes a scanner of the usual size; one more look is wanted after the first."""

    def do(self, tell: Any) -> ScannerFit:
        read = sum(len(file.read_bytes()) for file in self.files)
        content = json.dumps({"read": read, "key": self.key}).encode().ljust(60_000)
        file = write_bytes(self.ledger.scanner(self.key), content, overwrite=True)
        digest = hashlib.sha256(content).hexdigest()[:12]
        fit = ScannerFit(again=not self.earlier, digest=digest, scans=len(self.summaries))
        write_sidecar(note_path(file), fit.model_dump(), overwrite=True)
        return fit


class MadeUpHarmonize(HarmonizeScan):
    """Writes files with the names of results, and a record with numbers that a scan could have."""

    def do(self, tell: Any) -> ScanRecord:
        scan, staged = self.item.scan, self.emptied()
        number = int(scan.words["sub"])
        if number % 100 == 99:
            raise InputError("no brain was found", remedy="give a mask", path=scan.path)
        staged.mkdir(parents=True)
        names = result_names(scan.path)
        for name in (*(names[kind] for kind in ("scan", "mask", "report", "sidecar")), sidecar_name(names["mask"])):
            (staged / name).write_bytes(b"made up")
        person = np.random.default_rng(number)
        after = np.sort(person.normal(1000, 250, len(LEVELS))) * (1.3 if number % 50 == 7 else 1.0)
        before = after * (0.6 + 0.3 * (number % (_SCANNERS + 1)))
        record = ScanRecord(
            scan=scan.place,
            group=self.group,
            fingerprint=self.item.fingerprint(self.settings, self.scanner),
            status="done",
            verdict="caution" if number % 50 == 7 else "good",
            headline="made up",
            seconds=20.0,
            excess_before=float(person.normal(5, 2)),
            excess_after=float(person.normal(0, 1)),
            profile_before=before.round(1).tolist(),
            profile_after=after.round(1).tolist(),
            distance_before=float(np.abs(before - 1000).mean().round(3)),
            distance_after=float(np.abs(after - 1000).mean().round(3)),
            figures={"change of the file (% of white matter)": float(person.gamma(4, 2)), "made up": True},
        )
        return self.published(staged, record)


def made_up_study(folder: Path, count: int) -> Path:
    """A data set of scans of one byte."""
    for number in range(count):
        name = f"sub-{number:05d}"
        anat = folder / name / "anat"
        anat.mkdir(parents=True)
        (anat / f"{name}_T1w.nii.gz").write_bytes(str(number).encode())
        if which := number % (_SCANNERS + 1):
            (anat / f"{name}_T1w.json").write_text(json.dumps({"DeviceSerialNumber": str(which), "EchoTime": 0.003}))
    (folder / "dataset_description.json").write_text('{"Name": "made up", "BIDSVersion": "1.10.0"}')
    return folder


def measured(folder: Path, count: int) -> dict[str, Any]:
    """All steps of a study of so many scans."""
    study, out, seconds, begun = made_up_study(folder / "study", count), folder / "out", {}, time.perf_counter()
    import_module("blindharmony.quality.typicality")  # torch, which no step is to be charged with
    card = read_card("ds002748")
    settings = StudySettings(target="ds002748", digest=card.digest, harmonize=HarmonizeSettings(device="cpu"))
    pieces = Pieces(MadeUpLook, MadeUpFit, MadeUpHarmonize)

    def timed(name: str, do: Any) -> Any:
        start = _processor_s()
        answer = do()
        seconds[name] = round(_processor_s() - start, 3)
        return answer

    with held(Ledger(out)) as ledger:
        describe(study, out, card.name)
        keep_target(ledger, card)
        groups = timed("find and group the scans", lambda: by_metadata(bids_scans(study)[0]))
        plan = timed("plan", lambda: make_plan(groups, ledger))
        first = timed("run", lambda: run_study(plan, settings, ledger, SerialEngine(), pieces=pieces))
    with held(Ledger(out)) as ledger:
        plan = timed("plan again", lambda: make_plan(by_metadata(bids_scans(study)[0]), ledger))
        again = timed(
            "run with nothing to do", lambda: run_study(plan, settings, ledger, SerialEngine(), pieces=pieces)
        )
    one = "sub-00000"
    with held(Ledger(out), [one]) as ledger:
        job = lambda: make_plan(alone(bids_scans(study, participants=["00000"])[0]), ledger)  # noqa: E731
        timed("plan of a job of an array", job)
    words = [sys.executable, "-m", "blindharmony", "bids", str(study), str(out), "participant", "--target", card.name]
    words += ["--scanner-grouping", "none", "--participant-label", one, "--skip-bids-validation", "--n-procs", "0"]
    told = timed("such a job with nothing to do", lambda: subprocess.run(words, check=True, capture_output=True))
    assert b"0 scans harmonized" in told.stdout, told
    rows = timed("read all records", lambda: cohort_rows(Ledger(out)))
    timed("write cohort.tsv", lambda: write_table(Ledger(out), rows))
    page = timed("write cohort.html", lambda: write_cohort_page(Ledger(out), rows, "made up"))
    timed("write failures.tsv", lambda: write_failures(Ledger(out)))
    files = [f for f in out.rglob("*") if f.is_file()]
    folders = [f for f in out.rglob("*") if f.is_dir()]
    own = [f for f in files if ".blindharmony" in f.parts]
    assert len(first.failed) == len(again.failed) == count // 100
    assert len(rows) == count == first.done + count // 100 == again.kept + count // 100
    return {
        "scans": count,
        "failed": len(first.failed),
        "processor_s": seconds,
        "wall_s": round(time.perf_counter() - begun, 1),
        "memory_mb": round(peak_mb()),
        "result_files": len(files) - len(own),
        "record_files": len(own),
        "folders": len(folders),
        "records_kb_a_scan": round(sum(f.stat().st_size for f in own) / count / 1e3, 1),
        "page_kb": round(page.stat().st_size / 1e3, 1),
        **painted(page),
    }


def _processor_s() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM:"))


def painted(page: Path) -> dict[str, float]:
    """Seconds to the first picture and to the whole list, the best of three; empty without playwright and Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    if path is None:
        return {}
    first, whole = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(3):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("html[data-state=ready]")
            whole.append(tab.evaluate("performance.now()") / 1e3)
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            first.append(tab.evaluate(paint) / 1e3)
            tab.close()
        browser.close()
    return {"first_paint_s": round(min(first), 2), "list_ready_s": round(min(whole), 2)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--scans", type=int, nargs="+", default=[3, 300, 3000, 30_000])
    p.add_argument("--folder", type=Path, help="where the studies are made for a while (default: the system's)")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    load, rows = os.getloadavg()[0], []
    fresh = multiprocessing.get_context("spawn")
    for count in a.scans:
        with tempfile.TemporaryDirectory(dir=a.folder) as folder, ProcessPoolExecutor(1, mp_context=fresh) as process:
            rows.append(process.submit(measured, Path(folder), count).result())
        print(json.dumps(rows[-1]), flush=True)
    disk = "in memory" if str(a.folder).startswith("/dev/shm") else "a disk"
    content = {
        "disk": disk,
        "load_before_and_after": [load, os.getloadavg()[0]],
        "rows": rows,
    }
    a.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
