"""Every engine gives every task back; a dying worker costs one task, a dying parent leaves no worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindharmony.commands import run_command
from blindharmony.errors import ErrorCode, InputError
from blindharmony.io.bids import Scan
from blindharmony.jobs.engine import (
    Answer,
    Failure,
    Progress,
    SerialEngine,
    Task,
    Work,
    packed,
    unpacked,
    unpacked_reply,
)
from blindharmony.jobs.processes import ProcessEngine, WorkerProcess
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.ledger import Ledger
from blindharmony.study.work import HarmonizeScan, Item, StudySettings


class Number(Answer):
    value: int


class Double(Work):
    answers = Number
    number: int

    def do(self, tell):
        return Number(value=2 * self.number)


class Words(Answer):
    value: str | None
    pid: int


class Environment(Work):
    answers = Words
    name: str

    def do(self, tell):
        print("what libraries print is no answer")
        return Words(value=os.environ.get(self.name), pid=os.getpid())


class Die(Work):
    def do(self, tell):
        os.kill(os.getpid(), signal.SIGKILL)


class Sleep(Work):
    def do(self, tell):
        run_command("sleep 60", called="it", seconds=90, remedy="")


class SleepIsStarting(Sleep):
    def do(self, tell):
        start = subprocess.Popen

        def slow(*words, **named):
            process = start(*words, **named)
            time.sleep(2)  # a busy machine: the program is there, and the worker has not heard so
            return process

        subprocess.Popen = slow
        super().do(tell)


class Fails(Work):
    def do(self, tell):
        raise InputError("no brain", remedy="give one", path="a.nii")


class Wrong(Work):
    def do(self, tell):
        return {1, 2}


class Tells(Work):
    def do(self, tell):
        tell("half", 0.5)
        return Answer()


def doubled(number):
    return Task(f"double {number}", Double(number=number))


@pytest.fixture(params=["serial", "processes"])
def engine(request):
    made = SerialEngine() if request.param == "serial" else ProcessEngine([{}, {}])
    yield made
    made.close()


def test_all_come_back_also_those_submitted_on_the_way(engine):
    for number in range(20):
        engine.submit(doubled(number))
    values = {}
    for outcome in engine.finished():
        number = outcome.task.work.number
        values[number] = outcome.answer.value
        if number < 20:
            engine.submit(doubled(number + 100))
    assert values == {n: 2 * n for n in [*range(20), *range(100, 120)]}


def test_errors_are_outcomes_with_a_code(engine):
    for work in (Fails(), Wrong(), Tells()):
        engine.submit(Task(work.kind(), work))
    ends = {type(o.task.work): o for o in engine.finished()}
    failure = ends[Fails].failure
    assert (failure.code, failure.what, failure.remedy) == (ErrorCode.INPUT, "no brain", "give one")
    assert failure.line == "a.nii: no brain; give one"
    assert ends[Wrong].failure.code is ErrorCode.INTERNAL
    assert "gave set, not Answer" in ends[Wrong].failure.line
    assert "--debug VERB" in ends[Wrong].failure.line
    assert ends[Tells].answer == Answer()
    assert not any(o.lost for o in ends.values())


@given(st.text(), st.integers(0, 2**63 - 1), st.none() | st.text())
def test_work_comes_out_of_its_line_as_it_went_in(word, seed, scanner):
    scan = Scan(Path("/data/\udcff"), f"sub-1/anat/{word}", {"sub": word, "suffix": "T1w"})
    work = HarmonizeScan(
        ledger=Ledger(Path(f"/out/\udcfe{word}".replace("\x00", ""))),
        settings=StudySettings(target=word, digest="d", harmonize=HarmonizeSettings(seed=seed)),
        item=Item(scan=scan, sha="s", mask=Path("/masks/\udcff")),
        group=word,
        scanner=scanner,
        run="r",
    )
    assert unpacked(packed(work)) == work


@pytest.mark.parametrize("kind", ["os:system", "builtins:len", "no_module:at_all", f"{Path(__file__).stem}:Number", ""])
def test_only_work_is_done(kind):
    line = packed(Double(number=1)).replace(Double.kind().encode(), kind.encode())
    with pytest.raises((ValueError, ImportError)):
        unpacked(line)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"", b"{}", b'{"answer": {"value": "x"}}', b'{"other": 1}', b"\xff"])
def test_a_line_that_is_no_reply_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011
        unpacked_reply(Double(number=1), line)


def test_progress_comes_before_the_answer():
    heard = []
    with WorkerProcess() as worker:
        assert worker.do(Tells(), lambda *said: heard.append(said)) == Answer()
        assert worker.do(Double(number=4), lambda *said: heard.append(said)) == Number(value=8)
    assert heard == [("half", 0.5)]
    assert unpacked_reply(Tells(), b'{"progress": {"stage": "a", "share": 1}}') == Progress(stage="a", share=1)


def test_a_worker_that_talks_nonsense_is_ended(monkeypatch):
    monkeypatch.setattr("blindharmony.jobs.processes._GRACE", 0.5)
    mad = (sys.executable, "-S", "-c", "print('[' * 5000, flush=True); import time; time.sleep(60)")
    with WorkerProcess(command=mad) as worker:
        end = worker.do(Tells(), lambda *said: None)
        assert isinstance(end, Failure)
        assert end.code is ErrorCode.INTERNAL
        assert worker.wait() == -signal.SIGKILL


def test_a_worker_that_was_ended_before_its_work_came_is_a_failure_like_others():
    with WorkerProcess() as worker:
        worker.kill()
        end = worker.do(Double(number=4), lambda *said: None)
        assert isinstance(end, Failure)
        assert end.code is ErrorCode.KILLED


@pytest.mark.parametrize("work", [Sleep(), SleepIsStarting()])
def test_what_a_worker_has_started_ends_with_it(work):
    worker = WorkerProcess()
    worker.give(work)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    for _ in range(600):
        if grandchild := children.read_text().split():
            break
        time.sleep(0.05)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    for _ in range(600):  # half a minute on a busy machine
        if not _alive(int(grandchild[0])):
            break
        time.sleep(0.05)
    assert not _alive(int(grandchild[0]))
    worker.kill()  # once more does no harm


def test_a_killed_worker_loses_only_its_task(tmp_path):
    engine = ProcessEngine([{}, {}], logs=tmp_path)
    engine.submit(Task("die", Die()))
    for number in range(6):
        engine.submit(doubled(number))
    ends = list(engine.finished())
    assert [o.task.name for o in ends if o.lost] == ["die"]
    lost = next(o.failure for o in ends if o.lost)
    assert lost.code is ErrorCode.KILLED
    assert "signal 9" in lost.line
    assert sum(o.answer is not None for o in ends) == 6
    # One killed while idle is replaced.
    for pid in engine.pids:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    for number in range(4):
        engine.submit(doubled(number))
    lost = 0
    for outcome in engine.finished():
        if outcome.lost:
            lost += 1
            engine.submit(outcome.task)
    assert lost <= 2
    engine.close()
    assert {f.name for f in tmp_path.iterdir()} == {"worker-0.log", "worker-1.log"}


def test_each_worker_has_its_own_environment():
    engine = ProcessEngine([{"CUDA_VISIBLE_DEVICES": str(i), "OMP_NUM_THREADS": "1"} for i in range(2)])
    for _ in range(12):
        engine.submit(Task("environment", Environment(name="CUDA_VISIBLE_DEVICES")))
    answers = {(o.answer.value, o.answer.pid) for o in engine.finished()}
    engine.close()
    assert len({pid for _, pid in answers}) == len(answers) <= 2
    assert {name for name, _ in answers} <= {"0", "1"}


def test_workers_end_with_their_parent():
    code = (
        "import sys\n"
        "from blindharmony.jobs.processes import ProcessEngine\n"
        "from blindharmony.jobs.engine import Task\n"
        f"from {Path(__file__).stem} import Sleep\n"
        "e = ProcessEngine([{}]); e.submit(Task('s', Sleep()))\n"
        "e._hand_out(); print(e.pids[0], flush=True)\n"
        "list(e.finished())"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    words = [sys.executable, "-c", code]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    worker = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(600):  # half a minute on a busy machine
        if not _alive(worker):
            break
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False
