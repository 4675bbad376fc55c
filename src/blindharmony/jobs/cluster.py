"""Dask workers: a scheduler that runs already, or jobs that a queue (SLURM, PBS) starts."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from importlib import import_module
from itertools import count
from typing import Any

from blindharmony.errors import ErrorCode, UsageError
from blindharmony.jobs.engine import (
    Answer,
    Failure,
    Outcome,
    Progress,
    Task,
    done_line,
    packed,
    packed_reply,
    unpacked,
    unpacked_reply,
)
from blindharmony.jobs.processes import WorkerProcess

_QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "local": "LocalCluster"}
_LOOK = 0.1  # seconds between looks at what has completed
_ASK = 5.0  # seconds between questions whether there are workers


class DaskEngine:
    """The engine of a Dask client (``distributed.Client``); it is closed with the engine.

    Args:
        client: Connected.
        cluster: Closed too.
        patience: How long to go on without a single worker, s; for ever if not given, since jobs may wait in a queue.
    """

    def __init__(self, client: Any, cluster: Any = None, patience: float = float("inf")) -> None:
        self._client, self._cluster, self._patience = client, cluster, patience
        self._tasks: dict[Any, Task] = {}
        self._count = count()
        distributed = _needed("distributed", "dask")
        self._died = (_needed("distributed.scheduler", "dask").KilledWorker, CancelledError)
        # With results: one that is lost with its worker is computed again before its task counts as completed.
        self._completed = distributed.as_completed(loop=client.loop, with_results=True, raise_errors=False)

    def submit(self, task: Task) -> None:
        """Accept a task."""
        # Equal names in two runs on one scheduler are not the same work.
        key = f"blindharmony-{id(self)}-{next(self._count)}"
        future = self._client.submit(
            done_in_time, packed(task.work), task.seconds, key=key, priority=-task.priority, pure=False, retries=0
        )
        self._tasks[future.key] = task
        self._completed.add(future)

    def finished(self) -> Iterator[Outcome]:
        """Yield tasks as they come back.

        Raises:
            UsageError: If there was no worker for longer than the patience lasts.
        """
        while self._tasks:
            self._wait()
            future, end = next(self._completed)
            task = self._tasks.pop(future.key)
            yield Outcome.of(task, self._end(task, end))
            future.release()

    def _end(self, task: Task, end: Any) -> Answer | Failure:
        """The reply in a line, or of an error of Dask's own: it, or type, error and traceback."""
        if isinstance(end, bytes):
            reply = unpacked_reply(task.work, end)
            assert not isinstance(reply, Progress)
            return reply
        error = end if isinstance(end, BaseException) else end[1]
        code = ErrorCode.KILLED if isinstance(error, self._died) else ErrorCode.INTERNAL
        what = f"the worker died ({' '.join(str(error).split())})"
        return Failure(code=code, what=what, line=what)

    def _wait(self) -> None:
        """Until something has completed."""
        last_worker = asked = time.monotonic()
        while not self._completed.has_ready():
            time.sleep(_LOOK)
            if (now := time.monotonic()) < asked + min(_ASK, self._patience):
                continue
            asked = now
            with suppress(OSError):  # a scheduler that does not answer has no workers for us
                if self._client.nthreads():
                    last_worker = now
            if now > last_worker + self._patience:
                raise UsageError(
                    f"the Dask scheduler has had no worker for {self._patience:.0f} s",
                    remedy="start workers and run the same command again; what is finished is kept",
                )

    def close(self) -> None:
        """Let go of what is still there."""
        for part in (self._client, self._cluster):
            if part is not None:
                # Dask minds that a job it would end has ended already.
                with suppress(AssertionError, OSError, RuntimeError):
                    part.close()


_OF_THIS_THREAD = threading.local()


def done_in_time(line: bytes, seconds: float) -> bytes:
    """Do a line of work in a Dask worker, within its time: then in a process of its own, which can be ended.

    That process is kept for the next line. It ends with the Dask worker.
    """
    if seconds == math.inf:
        return done_line(line)
    worker: WorkerProcess | None = getattr(_OF_THIS_THREAD, "worker", None)
    if worker is None:
        worker = _OF_THIS_THREAD.worker = WorkerProcess()
    reply = worker.do(unpacked(line), lambda stage, share: None, seconds)
    if isinstance(reply, Failure) and reply.code in (ErrorCode.KILLED, ErrorCode.TIMEOUT):
        worker.end()
        _OF_THIS_THREAD.worker = None
    return packed_reply(reply)


def connect(address: str, patience: float = 20.0, without_worker: float = 600.0) -> DaskEngine:
    """The engine of a scheduler that runs already.

    Args:
        address: As Dask prints it, ``tcp://host:8786``.
        patience: How long to wait for an answer, s.
        without_worker: How long to go on while the scheduler has no worker, s.

    Raises:
        UsageError: If Dask is not installed, or nobody answers.
    """
    distributed = _needed("distributed", "dask")
    try:
        client = distributed.Client(address, timeout=patience, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"no Dask scheduler answers at '{address}' ({error})", remedy="check the address") from None
    return DaskEngine(client, patience=without_worker)


def start_jobs(queue: str, jobs: int, *, memory_gb: float = 4.0, cores: int = 1, **options: Any) -> DaskEngine:
    """Ask a queue for jobs of one worker each, and again for those that end before the work does.

    What is not given comes from dask-jobqueue's own settings file.

    Args:
        queue: ``slurm`` or ``pbs`` (``local`` tries it out without a queue).
        jobs: How many.
        memory_gb: Memory of a job.
        cores: Cores of a job.
        **options: More words for dask-jobqueue: ``queue``, ``account``, ``walltime``.

    Raises:
        UsageError: If dask-jobqueue is not installed or the queue unknown.
    """
    if queue not in _QUEUES:
        raise UsageError(f"there is no queue '{queue}'", remedy="use slurm or pbs")
    jobqueue = _needed("dask_jobqueue", "jobqueue")
    distributed = _needed("distributed", "dask")
    module = import_module("dask_jobqueue.local") if queue == "local" else jobqueue
    cluster = getattr(module, _QUEUES[queue])(
        cores=cores, processes=1, memory=f"{memory_gb:g}GB", **{k: v for k, v in options.items() if v is not None}
    )
    # Not scaled but kept at this number: jobs that have used up their time are asked for again.
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    return DaskEngine(distributed.Client(cluster, set_as_default=False), cluster)


def _needed(module: str, extra: str) -> Any:
    # dask-jobqueue makes Ctrl-C end the process without a word as soon as it is imported.
    here = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(f"{module} is not installed", remedy=f"pip install 'blindharmony[{extra}]'") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
