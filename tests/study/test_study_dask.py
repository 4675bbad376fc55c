"""A real Dask cluster: what other engines do, also when its workers are killed in the middle."""

import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_study import fake_run, make_study
from fake_work import Count

from blindharmony.errors import UsageError
from blindharmony.jobs.cluster import connect, start_jobs
from blindharmony.jobs.engine import Task

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two worker processes that are started again when they die, and the diary that they keep."""
    diary = tmp_path_factory.mktemp("dask") / "diary.txt"
    diary.touch()
    python_path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    found = {"PYTHONPATH": python_path, "FAKE_DIARY": str(diary)}
    with (
        dask.config.set({"distributed.nanny.environ": found}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
        ) as local,
    ):
        local.diary = diary
        yield local


def results(out):
    return {f.relative_to(out): f.read_bytes() for f in out.glob("sub-*/**/*") if f.is_file()}


def test_a_cluster_does_what_this_process_does(cluster, study, tmp_path):
    fake_run(study, tmp_path / "here")
    assert fake_run(study, tmp_path / "there", connect(cluster.scheduler_address, without_worker=60)).done == 6
    assert results(tmp_path / "there") == results(tmp_path / "here")


def test_a_scan_that_hangs_costs_its_time_and_no_dask_worker(cluster, tmp_path):
    scans = {"sub-01": "hang once: 1", "sub-02": "ok: 2", "sub-03": "die once: 3"}
    root = make_study(tmp_path / "s", scans)
    before = set(cluster.scheduler.workers)
    engine = connect(cluster.scheduler_address, without_worker=60)
    tally = fake_run(root, tmp_path / "out", engine, seconds=6.0)
    assert (tally.done, list(tally.failed)) == (2, ["sub-01_T1w"])
    assert "did not end within 0.1 min" in tally.failed["sub-01_T1w"]
    assert set(cluster.scheduler.workers) == before
    tally = fake_run(root, tmp_path / "out", connect(cluster.scheduler_address, without_worker=60), seconds=6.0)
    assert (tally.done, tally.kept) == (1, 2)


def test_killed_workers_lose_nothing(cluster, tmp_path):
    """A worker is killed from outside again and again while forty scans are done."""
    known = {f"sub-{i:02d}": {"DeviceSerialNumber": "1"} for i in range(20)}
    root = make_study(tmp_path / "s", {f"sub-{i:02d}": f"ok: {i}" for i in range(40)}, known)
    begin = len(cluster.diary.read_text().splitlines())
    over, killed = threading.Event(), []

    def kill():
        while len(killed) < 3 and not over.is_set():
            lines = cluster.diary.read_text().splitlines()[begin:]
            if len(lines) > 5 + 15 * len(killed):
                killed.append(int(lines[-1].split()[2]))
                os.kill(killed[-1], signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    tally = fake_run(root, tmp_path / "out", connect(cluster.scheduler_address, without_worker=60))
    over.set()
    killer.join()
    assert killed
    assert (tally.done, tally.failed) == (40, {})
    fake_run(root, tmp_path / "here")
    assert results(tmp_path / "out") == results(tmp_path / "here")


@pytest.mark.long
def test_a_scan_that_kills_every_worker_fails_alone(cluster, tmp_path):
    root = make_study(tmp_path / "s", {"sub-01": "die: 1", "sub-02": "ok: 2", "sub-03": "fail: 3"})
    tally = fake_run(root, tmp_path / "out", connect(cluster.scheduler_address, without_worker=60))
    assert tally.done == 1
    assert "worker died" in tally.failed["sub-01_T1w"]
    assert "\n" not in tally.failed["sub-01_T1w"]
    assert "take another" in tally.failed["sub-03_T1w"]


def test_a_scheduler_without_workers_is_not_waited_for_for_ever(tmp_path):
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=50) as empty:
        root = make_study(tmp_path / "s", {"sub-01": "ok: 1"})
        with pytest.raises(UsageError, match=r"no worker for 1 s.*start workers"):
            fake_run(root, tmp_path / "out", connect(empty.scheduler_address, without_worker=1))


def test_nobody_there():
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        connect("tcp://127.0.0.1:9", patience=1)


def test_jobs_of_a_queue_that_end_are_asked_for_again(monkeypatch, tmp_path):
    """The queue's own code path, with a 'queue' that starts jobs here; one is killed, as at the end of its time."""
    if find_spec("dask_jobqueue") is None:
        pytest.skip("needs dask-jobqueue")
    answers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "500ms"}):
        engine = start_jobs("local", 1, memory_gb=1.0)
        # Ctrl-C still ends a run with its last line: dask-jobqueue takes it over when it is imported.
        assert "dask_jobqueue" in sys.modules
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == answers
        engine.submit(Task("first", Count(names=("a",))))
        assert [outcome.answer.number for outcome in engine.finished()] == [1]
        (job,) = engine._cluster.workers.values()
        os.kill(int(job.job_id), signal.SIGKILL)
        engine.submit(Task("second", Count(names=("a", "b"))))
        assert [outcome.answer.number for outcome in engine.finished()] == [2]
        engine.close()
