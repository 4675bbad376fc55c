"""Jobs of an array: many at once on one folder, each costs the same however many others there are."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_study import make_study
from fake_work import FAKE, whole
from faulty_study import quick_commands

from blindharmony import locks
from blindharmony.cli.main import main
from blindharmony.errors import OutputError
from blindharmony.files import write_sidecar
from blindharmony.io.bids import bids_scans
from blindharmony.jobs.engine import SerialEngine
from blindharmony.study.cohort import cohort_rows
from blindharmony.study.groups import alone
from blindharmony.study.ledger import Ledger
from blindharmony.study.run import held, make_plan, run_study, write_failures
from blindharmony.study.work import StudySettings
from faults import Faults, content_of


def job(root, out, *labels):
    """A job of an array without MR."""
    with held(Ledger(out), labels) as ledger:
        plan = make_plan(alone(bids_scans(root, participants=labels)[0]), ledger)
        settings = StudySettings(target="none", digest="d")
        return run_study(plan, settings, ledger, SerialEngine(), pieces=FAKE, table=False)


@pytest.fixture(params=["a disk", "no locks, no hard links"])
def jobs(request, monkeypatch):
    """How many at once: on a disk as it is, or as some network file systems are."""

    def refused(*words):
        raise OSError(95, "Operation not supported")

    if request.param != "a disk":
        monkeypatch.setattr(locks.fcntl, "flock", refused)
        monkeypatch.setattr(os, "link", refused)
    return 20 if request.param == "a disk" else 100


def test_many_jobs_at_once_lose_nothing(tmp_path, jobs):
    labels = [f"{i:03d}" for i in range(jobs)]
    root = make_study(tmp_path / "s", {f"sub-{i}": "fail: 7" if i == "007" else f"ok: {i}" for i in labels})
    out, children = tmp_path / "out", []
    # Some participants are asked for twice: one of both does the work, the other is refused or finds it done.
    for label in [*labels, *labels[:10]]:
        if (pid := os.fork()) == 0:
            code = 1
            try:
                tally = job(root, out, label)
                code = 0 if tally.finished == 1 else 1
            except OutputError as error:
                code = 0 if "another run is working here" in str(error) else 1
            finally:
                os._exit(code)
        children.append(pid)
    assert {os.waitpid(pid, 0)[1] for pid in children} == {0}
    states = {row["participant_id"]: row["status"] for row in cohort_rows(Ledger(out))}
    assert states == {f"sub-{i}": "failed" if i == "007" else "done" for i in labels}
    place, status, reason = write_failures(Ledger(out)).read_text().splitlines()[1].split("\t")
    assert (place, status) == ("sub-007/anat/sub-007_T1w.nii.gz", "failed")
    assert "the scan is a fake" in reason
    results = [file for file in out.glob("sub-*/**/*") if file.is_file()]
    assert len(results) == 2 * (jobs - 1)
    assert all(whole(file) for file in results)
    assert [place for place in content_of(out) if ".tmp" in place or "/locks/" in place] == []


def test_a_job_asks_the_disk_as_often_among_three_as_among_three_hundred(tmp_path):
    calls = {}
    for count in (3, 300):
        root, out = make_study(tmp_path / f"s{count}", {f"sub-{i}": "ok" for i in range(count)}), tmp_path / f"o{count}"
        job(root, out, *(str(i) for i in range(count - 1)))
        for what in ("new", "nothing to do"):
            with Faults([root, out]).active() as faults:
                tally = job(root, out, str(count - 1))
            assert (tally.done, tally.kept) == ((1, 0) if what == "new" else (0, 1))
            calls[count, what] = faults.calls
    assert calls[3, "new"] == calls[300, "new"]
    assert calls[3, "nothing to do"] == calls[300, "nothing to do"]
    assert len(calls[300, "nothing to do"]) < 60


def test_a_job_with_nothing_to_do_loads_no_network(tmp_path, tiny_target_file):
    root, out = make_study(tmp_path / "s", {"sub-1": "ok: 1", "sub-2": "ok: 2"}), tmp_path / "out"
    words = [
        "bids",
        str(root),
        str(out),
        "participant",
        "--target",
        str(tiny_target_file),
        "--scanner-grouping",
        "none",
    ]
    words += ["--participant-label", "1", "--skip-bids-validation"]
    with quick_commands():
        assert main([*words, "--n-procs", "0"]) == 0
    assert not (out / "logs/failures.tsv").exists()
    code = f"import sys; from blindharmony.cli.main import main; code = main({words}); print(code, *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    last, *names = run.stdout.splitlines()[-1].split()
    assert last == "0", run.stderr
    assert "1 done before" in run.stdout
    assert not {"torch", "SimpleITK"} & set(names)


@pytest.mark.parametrize(("name", "first"), [("SLURM_ARRAY_TASK_ID", 1), ("JOB_COMPLETION_INDEX", 0)])
def test_jobs_of_an_array_share_all_participants(name, first, tmp_path, tiny_target_file, monkeypatch, capsys):
    root, out = make_study(tmp_path / "s", {f"sub-{i}": f"ok: {i}" for i in range(5)}), tmp_path / "out"
    words = ["bids", str(root), str(out), "participant", "--target", str(tiny_target_file), "--skip-bids-validation"]
    counts = []
    with quick_commands():
        for job in range(7):
            monkeypatch.setenv(name, str(first + job))
            assert main([*words, "--scanner-grouping", "none", "--array", "7", "--n-procs", "0"]) == 0
            said = capsys.readouterr()
            counts.append(int("1 scan harmonized" in said.out))
            assert counts[-1] or "more than there are participants" in said.err
    assert sorted(counts) == [0, 0, 1, 1, 1, 1, 1]
    assert [row["status"] for row in cohort_rows(Ledger(out))] == ["done"] * 5


def recipes():
    """Queue → the command of the page's recipe, and what the queue tells the first of its jobs."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "cluster.md").read_text()
    blocks = dict(re.findall(r"^```(sh|yaml)\n((?:(?!```).*\n)*?.*--array.*\n(?:.*\n)*?)^```$", text, re.MULTILINE))
    subprocess.run(["bash", "-n"], input=blocks["sh"], text=True, check=True)
    slurm, pbs, aws = (shlex.split(line) for line in re.split(r"^# .*\n", blocks["sh"], flags=re.MULTILINE)[1:])
    (overrides,) = (json.loads(word) for word in aws if word.startswith("{"))
    indexed = yaml.safe_load(blocks["yaml"])["spec"]
    assert indexed["completionMode"] == "Indexed"
    assert f"size={indexed['completions']}" in aws
    assert {"--array=1-100", "--wrap"} <= {*slurm}
    assert pbs[pbs.index("-J") + 1] == "1-100"
    return {
        "SLURM_ARRAY_TASK_ID": (shlex.split(slurm[-1])[1:], 1),
        "PBS_ARRAY_INDEX": (pbs[pbs.index("bids") :], 1),
        "AWS_BATCH_JOB_ARRAY_INDEX": (overrides["command"], 0),
        "JOB_COMPLETION_INDEX": (indexed["template"]["spec"]["containers"][0]["args"], 0),
    }


@pytest.mark.parametrize("queue", recipes())
def test_the_recipes_of_the_page_harmonize_everybody_once(queue, tmp_path, tiny_target_file, monkeypatch, capsys):
    words, first = recipes()[queue]
    assert words[:1] == ["bids"]
    assert words[3] == "participant"
    monkeypatch.chdir(tmp_path)
    root, out = make_study(tmp_path / "study", {f"sub-{i:03d}": f"ok: {i}" for i in range(7)}), tmp_path / "derivatives"
    asked = ["bids", str(root), str(out), *words[3:]]
    with quick_commands():
        for number in range(first, first + 100):
            monkeypatch.setenv(queue, str(number))
            assert main([*asked, "--target", str(tiny_target_file), "--n-procs", "0"]) == 0
    said = capsys.readouterr()
    assert (said.out.count("1 scan harmonized"), said.err.count("nothing to do")) == (7, 93)
    assert [row["status"] for row in cohort_rows(Ledger(out))] == ["done"] * 7


def as_of_version_1(out):
    """The folder as a run of version 0.1 has left it: one plan and one store of hashes for all."""
    plan, hashes = {}, {}
    for file in sorted(out.glob(".blindharmony/scans/*/record.json")):
        record = json.loads(file.read_text())
        plan[file.parent.name] = {"scan": record["scan"], **record.pop("plan")}
        hashes[str(out.parent / "s" / record["scan"])] = record.pop("read")["scan"]
        write_sidecar(file, record, overwrite=True)
    (out / ".blindharmony/plan.json").write_text(json.dumps({"scans": plan}))
    (out / ".blindharmony/hashes.json").write_text(json.dumps(hashes))


def test_a_folder_of_version_1_goes_on(tmp_path, monkeypatch):
    from blindharmony.study import ledger as room

    def shown():
        return [(row["scan"], row["scanner"], row["scanner_scans"], row["status"]) for row in cohort_rows(Ledger(out))]

    root, out = make_study(tmp_path / "s", {f"sub-{i}": f"ok: {i}" for i in range(3)}), tmp_path / "out"
    job(root, out, "0", "1", "2")
    before = shown()
    as_of_version_1(out)
    assert shown() == before
    monkeypatch.setattr(room, "file_state", lambda file, *state: state[0] if state else pytest.fail(f"{file} was read"))
    assert job(root, out, "0").kept == 1
    shutil.rmtree(root / "sub-2")
    with held(Ledger(out)) as ledger:
        assert not (ledger.home / "plan.json").exists()
    assert shown() == before
