"""Jobs in order, each in a process of its own.

One worker process, seen from outside: what it says, and how to end it at once.

The queue: jobs are done one after the other, each in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blindharmony.files import parse_json
from blindharmony.jobs.processes import THREADS, cores
from blindharmony.serve.store import Job, Outcome, State, Store

WORKER = (sys.executable, "-m", "blindharmony.serve.worker")
_LONGEST_LINE = 2**20


class WorkerProcess:
    """A fresh Python that does one job (no fork: torch and ITK have threads, which do not survive one).

    Args:
        asked: The job.
        log: File for what it prints.
        command: The program.
        threads: How many it may use; as it likes if None.
    """

    def __init__(
        self, asked: Mapping[str, Any], log: Path, *, command: Sequence[str] = WORKER, threads: int | None = None
    ) -> None:
        paths = os.pathsep.join(p for p in sys.path if p)
        limits = {} if threads is None else dict.fromkeys(THREADS, str(threads))
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": paths, **limits},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        assert self._process.stdin is not None
        # One that died at once is noticed by its silence.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it is gone."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(_LONGEST_LINE):
            with contextlib.suppress(ValueError):
                message = parse_json(line)
                if isinstance(message, dict):
                    yield message
        self._close()

    def kill(self) -> None:
        """End it and whatever it started, at once; nothing happens if it has ended."""
        # After wait() its number may be another process's.
        if self._process.returncode is not None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    @property
    def code(self) -> int | None:
        """How it ended: its exit code, or minus the signal that killed it."""
        return self._process.returncode


_WORDS = 300


class Queue:
    """Does the jobs of a store.

    Args:
        store: The jobs.
        processes: How many at a time.
        device: Where workers compute.
        command: The worker's program.

    Attributes:
        progress: Job's id → stage and share, of those that run.
    """

    def __init__(
        self, store: Store, *, processes: int = 1, device: str = "cpu", command: Sequence[str] = WORKER
    ) -> None:
        self._store, self._device, self._command = store, device, command
        self._threads = max(1, cores() // processes) if processes > 1 else None
        self._lanes = [threading.Thread(target=self._work, name=f"lane-{i}", daemon=True) for i in range(processes)]
        self._running: dict[str, WorkerProcess] = {}
        self._cancelled: set[str] = set()
        self._stopping = False
        self.progress: dict[str, tuple[str, float]] = {}

    def start(self) -> None:
        """Begin with what waits."""
        for lane in self._lanes:
            lane.start()

    def stop(self) -> int:
        """End at once; jobs that ran go back to the queue.

        Returns:
            How many ran.
        """
        with self._store.changed:
            self._stopping = True
            running = list(self._running.values())
            self._store.changed.notify_all()
        for worker in running:
            worker.kill()
        for lane in self._lanes:
            if lane.is_alive():
                lane.join(10)
        return len(running)

    def cancel(self, job_id: str) -> bool:
        """End a job that waits or runs; False if there is none."""
        with self._store.changed:
            job = self._store.get(job_id)
            if job is None or job.state.over:
                return False
            if job.state is State.QUEUED:
                self._store.change(job_id, lambda j: _over(j, State.CANCELLED))
                return True
            self._cancelled.add(job_id)
            worker = self._running.get(job_id)
        if worker is not None:
            worker.kill()
        return True

    def again(self, job_id: str) -> bool:
        """Put a job that is over back into the queue; False if there is none."""
        with self._store.changed:
            job = self._store.get(job_id)
            if job is None or not job.state.over:
                return False
            last = max(j.created for j in self._store.all())
            self._clear(job_id)
            fresh = {"interrupted": 0, "created": max(time.time(), last + 1e-3)}
            self._store.change(job_id, lambda j: j.again().model_copy(update=fresh))
        return True

    def _work(self) -> None:
        while job := self._next():
            try:
                self._do(job)
            except Exception as error:  # a lane that ends would leave all other jobs waiting for ever
                self._fail(job.id, f"it could not be started ({str(error)[:_WORDS]})", "press Try again")

    def _next(self) -> Job | None:
        with self._store.changed:
            while not self._stopping:
                waiting = next((j for j in self._store.all() if j.state is State.QUEUED), None)
                if waiting is not None:
                    self.progress[waiting.id] = ("Starting", 0.0)
                    return self._store.change(waiting.id, _begun)
                self._store.changed.wait()
        return None

    def _do(self, job: Job) -> None:
        self._clear(job.id)
        place = self._store.place(job.id)
        asked = {
            "scans": [str(self._store.scan(job, scan.leaf).resolve()) for scan in job.scans],
            "labels": [scan.label for scan in job.scans],
            "results": str(self._store.results(job.id).resolve()),
            "cache": str((place / "prepared").resolve()),
            "target": job.target,
            "together": job.together,
            "device": self._device,
        }
        worker = WorkerProcess(asked, place / "log.txt", command=self._command, threads=self._threads)
        with self._store.changed:
            self._running[job.id] = worker
            unwanted = self._stopping or job.id in self._cancelled
        if unwanted:
            worker.kill()
        outcomes: dict[int, Outcome] = {}
        end: Mapping[str, Any] | None = None
        try:
            for message in worker.messages():
                end = message if "end" in message else end
                self._hear(job.id, message, outcomes)
        finally:
            worker.kill()
            with self._store.changed:
                del self._running[job.id]
                self.progress.pop(job.id, None)
        with self._store.changed:
            self._settle(job, outcomes, end, worker.code)
            self._cancelled.discard(job.id)

    def _hear(self, job_id: str, message: Mapping[str, Any], outcomes: dict[int, Outcome]) -> None:
        if "stage" in message:
            with suppress(TypeError, ValueError):
                self.progress[job_id] = (str(message["stage"])[:_WORDS], float(message.get("share", 0.0)))
        if "outcome" in message:
            with suppress(ValidationError, ValueError, KeyError, TypeError):
                outcomes[int(message["scan"])] = Outcome.model_validate(message["outcome"])
        self._store.touch()

    def _settle(
        self, job: Job, outcomes: Mapping[int, Outcome], end: Mapping[str, Any] | None, code: int | None
    ) -> None:
        whole = end is not None and len(outcomes) == len(job.scans)
        if not whole and job.id in self._cancelled:
            self._clear(job.id)
            self._store.change(job.id, lambda j: _over(j, State.CANCELLED))
        elif not whole and self._stopping:
            self._store.change(job.id, lambda j: j.again())
        elif whole:
            scans = tuple(s.model_copy(update={"outcome": outcomes[i]}) for i, s in enumerate(job.scans))
            state = State.DONE if any(o.files for o in outcomes.values()) else State.FAILED
            self._store.change(job.id, lambda j: _over(j, state).model_copy(update={"scans": scans}))
        elif end is not None and end.get("reason"):
            self._fail(job.id, str(end["reason"])[:_WORDS], str(end.get("remedy", ""))[:_WORDS])
        elif code == -9:
            self._fail(
                job.id, "the system stopped the work, probably for want of memory", "close other programs and try again"
            )
        else:
            self._fail(job.id, "the work ended unexpectedly", "try again; if it happens again, report it")

    def _fail(self, job_id: str, reason: str, remedy: str) -> None:
        self.progress.pop(job_id, None)
        self._clear(job_id)
        why = {"reason": reason, "remedy": remedy}
        self._store.change(job_id, lambda j: _over(j, State.FAILED).model_copy(update=why))

    def _clear(self, job_id: str) -> None:
        shutil.rmtree(self._store.results(job_id), ignore_errors=True)


def _over(job: Job, state: State) -> Job:
    return job.model_copy(update={"state": state, "finished": time.time()})


def _begun(job: Job) -> Job:
    return job.model_copy(update={"state": State.RUNNING, "started": time.time()})
