"""Tasks in processes of their own.

How many cores there are to work with.

Worker processes on this machine: one that dies takes only its own task with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindharmony.jobs.engine import Outcome, Task, Waiting, outcome

#: Variables that say how many threads a process may have.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def cores() -> int:
    """Cores that this process may use, as far as the system tells.

    Example:
        >>> cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_WORKER = "blindharmony.jobs.worker"


@dataclass(eq=False)
class _Worker:
    """A process, what it is doing and what it has said of its answer so far."""

    slot: int
    process: subprocess.Popen[bytes]
    task: Task | None = None
    said: bytes = b""


class ProcessEngine:
    """An engine of fresh Python processes (not forks: torch and ITK have threads, which do not survive one).

    Args:
        environments: For each worker, what its environment has beyond this process's own.
        logs: Folder for what workers print; nowhere if None.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], *, logs: Path | None = None) -> None:
        self._environments, self._logs = environments, logs
        self._waiting = Waiting()
        self._workers: dict[int, _Worker] = {}
        self._answers = selectors.DefaultSelector()

    def submit(self, task: Task) -> None:
        """Accept a task."""
        self._waiting.put(task)

    def finished(self) -> Iterator[Outcome]:
        """Hand tasks to idle workers and yield them as they come back."""
        while len(self._waiting) or any(w.task for w in self._workers.values()):
            self._hand_out()
            for key, _ in self._answers.select():
                worker: _Worker = key.data
                if found := self._heard(worker):
                    yield found

    def close(self) -> None:
        """Kill all workers and what they started: a brain extractor may run for half an hour."""
        self._waiting.clear()
        for worker in list(self._workers.values()):
            with contextlib.suppress(OSError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            self._bury(worker)
        self._answers.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [w.process.pid for w in self._workers.values()]

    def _hand_out(self) -> None:
        for slot in range(len(self._environments)):
            if not len(self._waiting):
                return
            worker = self._workers.get(slot) or self._start(slot)
            if worker.task is not None:
                continue
            worker.task = self._waiting.take()
            line = json.dumps({"function": worker.task.function, "arguments": worker.task.arguments})
            pipe = worker.process.stdin
            # A worker that died while idle is noticed by its silence; its task then counts as lost.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.write(line.encode() + b"\n")
                    pipe.flush()

    def _start(self, slot: int) -> _Worker:
        paths = os.pathsep.join(p for p in sys.path if p)
        environment = {**os.environ, "PYTHONPATH": paths, **self._environments[slot]}
        with contextlib.ExitStack() as stack:
            log: int = subprocess.DEVNULL
            if self._logs is not None:
                self._logs.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context((self._logs / f"worker-{slot}.log").open("ab")).fileno()
            process = subprocess.Popen(
                [sys.executable, "-m", _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        worker = self._workers[slot] = _Worker(slot, process)
        assert process.stdout is not None
        self._answers.register(process.stdout, selectors.EVENT_READ, worker)
        return worker

    def _heard(self, worker: _Worker) -> Outcome | None:
        pipe = worker.process.stdout
        assert pipe is not None
        text = os.read(pipe.fileno(), 1 << 20)
        if not text:
            code = self._bury(worker)
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            # What Linux does to the largest process when memory is at its end.
            how += ", perhaps for lack of memory; use fewer --n-procs" if code == -signal.SIGKILL else ""
            if worker.task is None:
                return None
            return Outcome(worker.task, error=f"the worker died ({how})", kind="WorkerDied", lost=True)
        worker.said += text
        if not worker.said.endswith(b"\n") or worker.task is None:
            return None
        task, answer = worker.task, json.loads(worker.said)
        worker.task, worker.said = None, b""
        return outcome(task, answer)

    def _bury(self, worker: _Worker) -> int:
        for pipe in (worker.process.stdout, worker.process.stdin):
            if pipe is not None:
                if pipe is worker.process.stdout:
                    self._answers.unregister(pipe)
                with contextlib.suppress(OSError):
                    pipe.close()
        del self._workers[worker.slot]
        return worker.process.wait()
