"""Killed at any moment, a run that is started again finishes the rest, repeats nothing and leaves no half file."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
from fake_study import fake_run, make_study
from fake_work import whole

from blindharmony.jobs.engine import SerialEngine
from blindharmony.jobs.processes import ProcessEngine
from blindharmony.study.ledger import Ledger

_FORK = multiprocessing.get_context("fork")


def _state(out):
    """Scans that are recorded as done, and summaries that are there."""
    done = set()
    for file in out.glob(".blindharmony/scans/*/record.json"):
        record = json.loads(file.read_text())  # never half a record
        if record["status"] == "not started":
            continue
        assert record["status"] == "done"
        assert Ledger(out).whole(record)
        done.add(file.parent.name)
    looks = {(f.parent.name, f.name.split(".")[0]) for f in out.glob(".blindharmony/scans/*/round*.safetensors")}
    for file in out.glob("sub-*/**/*_*"):
        assert file.is_dir() or whole(file), file
    return done, looks


def _check(out, diary, begin, before):
    """Nothing that was there has been begun again."""
    done, looks = before
    for line in diary()[begin:]:
        stage, name = line.split()[:2]
        scan = name.removesuffix(".nii.gz")
        assert stage != "harmonize" or scan not in done
        assert stage != "look" or not {(scan, "round1"), (scan, "round2")} <= looks


def _kill_until(kills, study, folder, diary, make_engine):
    """Start and kill runs until there were so many kills; a finished cohort is followed by a new one."""
    begun = time.monotonic()
    fake_run(study, folder / "whole", make_engine())
    # A process is to be killed at any moment of its run, on this machine, and rarely after it.
    longest = 1.2 * (time.monotonic() - begun)
    rng, killed, cohort = random.Random(0), 0, 0
    out = folder / "out0"
    while killed < kills:
        before, begin = _state(out), len(diary())
        child = _FORK.Process(target=lambda out=out: fake_run(study, out, make_engine()))
        child.start()
        time.sleep(rng.uniform(0, longest))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        _check(out, diary, begin, before)
        if child.exitcode == -signal.SIGKILL:
            killed += 1
        else:
            assert child.exitcode == 0
            _finished(out)
            cohort += 1
            out = folder / f"out{cohort}"
    before, begin = _state(out), len(diary())
    fake_run(study, out)
    _check(out, diary, begin, before)
    _finished(out)


def _finished(out):
    done, _ = _state(out)
    assert len(done) == 6
    names = [f.name for f in out.glob("sub-*/**/*") if f.is_file()]
    assert len(names) == 12
    assert not any(".tmp" in f.name for f in out.rglob("*"))


@pytest.mark.long
def test_fifty_kills(study, tmp_path, diary):
    _kill_until(50, study, tmp_path, diary, SerialEngine)


@pytest.mark.long
def test_kills_of_a_run_with_workers(study, tmp_path, diary):
    _kill_until(12, study, tmp_path, diary, lambda: ProcessEngine([{}, {}]))


@pytest.mark.slow
def test_two_hundred_kills_of_many_scans(tmp_path, diary):
    known = {f"sub-0{i}": {"DeviceSerialNumber": "1"} for i in range(6)}
    study = make_study(tmp_path / "s", {f"sub-0{i}": f"ok: {i}" for i in range(6)}, known)
    _kill_until(160, study, tmp_path, diary, SerialEngine)
    _kill_until(40, study, tmp_path / "b", diary, lambda: ProcessEngine([{}, {}]))


def test_a_group_goes_on_without_scans_that_hang_and_the_next_run_tries_them_again(tmp_path, monkeypatch):
    monkeypatch.setattr("blindharmony.jobs.processes._GRACE", 0.5)
    scans = {f"sub-0{i}": f"ok: {i}" for i in range(4)} | {"sub-04": "hang once: 4", "sub-05": "stop once: 5"}
    study = make_study(tmp_path / "study", scans, {name: {"DeviceSerialNumber": "1"} for name in scans})
    lines, out = [], tmp_path / "out"
    tally = fake_run(study, out, ProcessEngine([{}, {}]), seconds=6.0, say=lines)
    assert (tally.done, sorted(tally.failed)) == (4, ["sub-04_T1w", "sub-05_T1w"])
    assert [line for line in lines if "fitted to 4 scans" in line]
    assert len([line for line in lines if "did not end within 0.1 min and was left out" in line]) == 2
    rows = [line.split("\t") for line in (out / "logs/failures.tsv").read_text().splitlines()[1:]]
    assert [(row[0][:6], row[1]) for row in rows] == [("sub-04", "failed"), ("sub-05", "failed")]
    first = {f: f.read_bytes() for f in out.glob("sub-*/**/*.nii.gz")}
    again = fake_run(study, out)
    # The two come late: they take the curve that was fitted without them, and nothing of the others changes.
    assert (again.done, again.kept, again.failed) == (2, 4, {})
    assert len((out / "logs/failures.tsv").read_text().splitlines()) == 1
    assert {f: f.read_bytes() for f in first} == first
    assert len(list(out.glob("sub-*/**/*.nii.gz"))) == len(first) * 6 // 4
