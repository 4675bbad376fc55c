"""Every engine gives every task back; a dying worker costs one task, a dying parent leaves no worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blindharmony.jobs.engine import SerialEngine, Task
from blindharmony.jobs.processes import ProcessEngine


def double(number):
    return 2 * number


def environment(name):
    print("what libraries print is no answer")
    return os.environ.get(name), os.getpid()


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds):
    time.sleep(seconds)


def no_json(_):
    return {1, 2}


ME = Path(__file__).stem


def task(function, argument, priority=0):
    return Task(f"{function} {argument}", f"{ME}:{function}", argument, priority)


@pytest.fixture(params=["serial", "processes"])
def engine(request):
    made = SerialEngine() if request.param == "serial" else ProcessEngine([{}, {}])
    yield made
    made.close()


def test_all_come_back_also_those_submitted_on_the_way(engine):
    for number in range(20):
        engine.submit(task("double", number))
    found = {}
    for outcome in engine.finished():
        found[outcome.task.arguments] = outcome.value
        if outcome.task.arguments < 20:
            engine.submit(task("double", outcome.task.arguments + 100))
    assert found == {n: 2 * n for n in [*range(20), *range(100, 120)]}


def test_errors_are_outcomes(engine):
    engine.submit(task("double", None))
    engine.submit(Task("nowhere", "no_module:at_all", None))
    found = {o.task.name: o for o in engine.finished()}
    assert found["double None"].kind == "TypeError"
    assert "no_module" in found["nowhere"].error
    assert all("internal error (" in o.error and "--debug VERB" in o.error for o in found.values())
    assert not any(o.lost for o in found.values())


def test_a_killed_worker_loses_only_its_task(tmp_path):
    engine = ProcessEngine([{}, {}], logs=tmp_path)
    engine.submit(task("die", 0))
    for number in range(6):
        engine.submit(task("double", number))
    found = list(engine.finished())
    assert [o.task.name for o in found if o.lost] == ["die 0"]
    assert "signal 9" in next(o.error for o in found if o.lost)
    assert sum(o.value is not None for o in found) == 6
    # One killed while idle is replaced.
    for pid in engine.pids:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    for number in range(4):
        engine.submit(task("double", number))
    lost = 0
    for outcome in engine.finished():
        if outcome.lost:
            lost += 1
            engine.submit(outcome.task)
    assert lost <= 2
    engine.submit(task("no_json", 0))
    assert "no JSON" in next(engine.finished()).error
    engine.close()
    assert {f.name for f in tmp_path.iterdir()} == {"worker-0.log", "worker-1.log"}


def test_each_worker_has_its_own_environment():
    engine = ProcessEngine([{"CUDA_VISIBLE_DEVICES": str(i), "OMP_NUM_THREADS": "1"} for i in range(2)])
    for _ in range(12):
        engine.submit(task("environment", "CUDA_VISIBLE_DEVICES"))
    found = {tuple(o.value) for o in engine.finished()}
    engine.close()
    assert len({pid for _, pid in found}) == len(found) <= 2
    assert {name for name, _ in found} <= {"0", "1"}


def test_workers_end_with_their_parent():
    code = (
        "import sys\n"
        "from blindharmony.jobs.processes import ProcessEngine\n"
        "from blindharmony.jobs.engine import Task\n"
        f"e = ProcessEngine([{{}}]); e.submit(Task('s', '{ME}:sleep', 60))\n"
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
    for _ in range(100):
        if not _alive(worker):
            break
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False
