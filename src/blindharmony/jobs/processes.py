"""Worker processes on this machine: one that dies takes only its own task with it.

A worker is a fresh Python (no fork: torch and ITK have threads, which do not survive one) in a process group of its
own, so that it can be ended at once together with what it has started. It reads work as lines of JSON, answers in
lines of JSON, and ends with the one who started it. The page's server gives each job a worker of its own; a study
shares its tasks among several.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindharmony.errors import ErrorCode
from blindharmony.jobs.engine import (
    Answer,
    Failure,
    Outcome,
    Progress,
    Reply,
    Task,
    Tell,
    Waiting,
    Work,
    overdue,
    packed,
    unpacked_reply,
)

#: Variables that say how many threads a process may have.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")

_COMMAND = (sys.executable, "-m", "blindharmony.jobs.worker")
_PIECE = 1 << 20
_GRACE = 10.0  # seconds that a worker has to end what it has started; an idle machine needs a hundredth


def cores() -> int:
    """Cores that this process may use, as far as the system tells.

    Example:
        >>> cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_asked() -> int | None:
    """Threads a process that ``OMP_NUM_THREADS`` asks for; None if it asks for none.

    Example:
        >>> (threads_asked() or 1) >= 1
        True
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


# Of glibc's mallopt: what is given back at the heap's end, what is asked for outside of it, the number of heaps.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_memory() -> None:
    """Keep the memory of large arrays for the next ones instead of giving it back to the system.

    An array of this program lives for a fraction of a second. Asking the system for each anew, page by page, was a
    seventh of a harmonization's processor time. Only glibc can be told; elsewhere nothing changes.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        # What one thread has freed, another can use then: with an arena each, a head took 40 MB more.
        mallopt(_ARENA_MAX, 1)
        # Until version 2.35, 32 MB is the most.
        mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 1 << 25)


def give_memory_back() -> None:
    """Give the memory back that :func:`keep_memory` has kept, when a piece of work is done.

    Otherwise a worker grows from scan to scan, as what is free lies in pieces between what is not: 3.6 GB after 24
    scans that need 1.7 GB each. It costs a seventh of a second.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class WorkerProcess:
    """One worker, seen from outside. As a context manager it is ended with the block.

    Args:
        environment: What its environment has beyond this process's own.
        log: File that gets what it prints, at its end; nowhere if None.
        command: The program.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        log: Path | None = None,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        paths = os.pathsep.join(p for p in sys.path if p)
        with contextlib.ExitStack() as stack:
            errors: int = subprocess.DEVNULL
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                errors = stack.enter_context(log.open("ab")).fileno()
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        self._work: Work | None = None
        self._heard = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended: its exit code, or minus the signal that killed it; None while it is there."""
        return self._process.returncode

    def fileno(self) -> int:
        """What becomes readable as soon as the worker says something or is gone."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def give(self, work: Work) -> None:
        """Hand it a piece of work; only after the one before has ended."""
        assert self._process.stdin is not None
        self._work = work
        # One that has died is noticed by its silence; one that was ended meanwhile takes nothing any more.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(packed(work))
            self._process.stdin.flush()

    def hear(self) -> list[Reply]:
        """Wait until it says something; its death is a failure like others, with the code ``KILLED``."""
        text = os.read(self.fileno(), _PIECE)
        if not text:
            return [self._death()]
        *lines, self._heard = (self._heard + text).split(b"\n")
        return [self._understood(line) for line in lines if self._work is not None]

    def do(self, work: Work, tell: Tell, seconds: float = math.inf) -> Answer | Failure:
        """Have a piece of work done, and wait for it; when its time is up the worker is ended."""
        self.give(work)
        end = time.monotonic() + seconds
        while True:
            if not select.select([self], [], [], _until(end))[0]:
                self.end()
                return overdue(seconds)
            for reply in self.hear():
                if isinstance(reply, Progress):
                    tell(reply.stage, reply.share)
                else:
                    return reply

    def ask_to_end(self) -> None:
        """Close its input: it then ends itself and all that it has started, as soon as it can."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def kill(self) -> None:
        """End it and whatever it has started, at once: a brain extractor may run for half an hour."""
        self.ask_to_end()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:  # it computes and does not hear; then it has no program running
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it and wait for its end, but not for ever: what waits for a dead disk does not even end when killed."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)

    def wait(self) -> int:
        """Wait for its end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return self._process.wait()

    def __enter__(self) -> WorkerProcess:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.kill()
        self.wait()

    def _understood(self, line: bytes) -> Reply:
        assert self._work is not None
        try:
            return unpacked_reply(self._work, line)
        except ValueError as error:
            self.kill()  # what else it says belongs to nothing
            what = f"the worker's answer cannot be read ({str(error)[:200]})"
            return Failure(code=ErrorCode.INTERNAL, what=what, line=" ".join(what.split()))

    def _death(self) -> Failure:
        code = self.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        # What Linux does to the largest process when memory is at its end.
        how += ", perhaps for lack of memory; use fewer --n-procs" if code == -signal.SIGKILL else ""
        what = f"the worker died ({how})"
        return Failure(code=ErrorCode.KILLED, what=what, line=what)


def _until(end: float) -> float | None:
    """Seconds to wait until then; None for ever."""
    return None if end == math.inf else max(0.0, end - time.monotonic())


@dataclass(eq=False)
class _Slot:
    """A worker of an engine, the task that it has, and since when (``time.monotonic``)."""

    number: int
    worker: WorkerProcess
    task: Task | None = None
    begun: float = 0.0

    @property
    def end(self) -> float:
        """When the task is to be finished."""
        return self.begun + self.task.seconds if self.task else math.inf


class ProcessEngine:
    """An engine of worker processes, each for many tasks.

    Args:
        environments: For each worker, what its environment has beyond this process's own.
        logs: Folder for what workers print; nowhere if None.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], *, logs: Path | None = None) -> None:
        self._environments, self._logs = environments, logs
        self._waiting = Waiting()
        self._slots: dict[int, _Slot] = {}
        self._selector = selectors.DefaultSelector()

    def submit(self, task: Task) -> None:
        """Accept a task."""
        self._waiting.put(task)

    @property
    def size(self) -> int:
        """How many workers there are at most."""
        return len(self._environments)

    def finished(self, hear: Callable[[Task, str, float], None] = lambda task, stage, share: None) -> Iterator[Outcome]:
        """Hand tasks to idle workers and yield them as they come back.

        Args:
            hear: Called with a task, what is being done of it and the share that is done, as its worker says so.
        """
        while len(self._waiting) or any(slot.task for slot in self._slots.values()):
            self._hand_out()
            first = min((slot.end for slot in self._slots.values()), default=math.inf)
            for key, _ in self._selector.select(_until(first)):
                if outcome := self._heard(key.data, hear):
                    yield outcome
            yield from self._overdue()

    def close(self) -> None:
        """Kill all workers and what they started."""
        self._waiting.clear()
        for slot in self._slots.values():
            slot.worker.ask_to_end()
        for slot in list(self._slots.values()):
            slot.worker.kill()
            self._remove(slot)
            slot.worker.wait()
        self._selector.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [slot.worker.pid for slot in self._slots.values()]

    def _hand_out(self) -> None:
        for number, environment in enumerate(self._environments):
            if not len(self._waiting):
                return
            slot = self._slots.get(number) or self._start(number, environment)
            if slot.task is None:
                slot.task = self._waiting.take()
                slot.begun = time.monotonic()
                slot.worker.give(slot.task.work)

    def _start(self, number: int, environment: Mapping[str, str]) -> _Slot:
        log = self._logs and self._logs / f"worker-{number}.log"
        slot = self._slots[number] = _Slot(number, WorkerProcess(environment, log=log))
        self._selector.register(slot.worker, selectors.EVENT_READ, slot)
        return slot

    def _heard(self, slot: _Slot, hear: Callable[[Task, str, float], None]) -> Outcome | None:
        descriptor, end = slot.worker.fileno(), None
        for reply in slot.worker.hear():
            if not isinstance(reply, Progress):
                end = end or reply
            elif slot.task:
                hear(slot.task, reply.stage, reply.share)
        if slot.worker.returncode is not None:
            self._selector.unregister(descriptor)
            del self._slots[slot.number]
        if end is None or slot.task is None:
            return None
        task, slot.task = slot.task, None
        return Outcome.of(task, end, time.monotonic() - slot.begun)

    def _overdue(self) -> Iterator[Outcome]:
        """End workers whose time is up; others take their place."""
        now = time.monotonic()
        for slot in list(self._slots.values()):
            if slot.task and now >= slot.end:
                self._remove(slot)
                slot.worker.end()
                yield Outcome.of(slot.task, overdue(slot.task.seconds), now - slot.begun)

    def _remove(self, slot: _Slot) -> None:
        self._selector.unregister(slot.worker)
        del self._slots[slot.number]
