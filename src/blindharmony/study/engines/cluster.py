"""Dask workers: a scheduler that runs already, or jobs that a queue (SLURM, PBS) starts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import count
from typing import Any

from blindharmony.errors import UsageError
from blindharmony.study.engines.task import Outcome, Task, call, outcome

_QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "local": "LocalCluster"}


class DaskEngine:
    """The engine of a Dask client (``distributed.Client``); it is closed with the engine."""

    def __init__(self, client: Any, cluster: Any = None) -> None:
        self._client, self._cluster = client, cluster
        self._tasks: dict[Any, Task] = {}
        self._count = count()
        self._completed = _needed("distributed", "dask").as_completed(loop=client.loop)

    def submit(self, task: Task) -> None:
        """Accept a task."""
        # Equal names in two runs on one scheduler are not the same work.
        key = f"blindharmony-{id(self)}-{next(self._count)}"
        future = self._client.submit(
            call, task.function, task.arguments, key=key, priority=-task.priority, pure=False, retries=0
        )
        self._tasks[future.key] = task
        self._completed.add(future)

    def finished(self) -> Iterator[Outcome]:
        """Yield tasks as they come back."""
        while self._tasks:
            future = next(self._completed)
            task = self._tasks.pop(future.key)
            error = future.exception()
            if error is None:
                yield outcome(task, future.result())
            else:
                died = type(error).__name__ in ("KilledWorker", "CancelledError", "FutureCancelledError")
                yield Outcome(task, error=f"the worker died ({error})", kind=type(error).__name__, lost=died)
            future.release()

    def close(self) -> None:
        """Let go of what is still there."""
        for part in (self._client, self._cluster):
            if part is not None:
                part.close()


def connect(address: str, patience: float = 20.0) -> DaskEngine:
    """The engine of a scheduler that runs already.

    Args:
        address: As Dask prints it, ``tcp://host:8786``.
        patience: How long to wait for an answer, s.

    Raises:
        UsageError: If Dask is not installed, or nobody answers.
    """
    distributed = _needed("distributed", "dask")
    try:
        return DaskEngine(distributed.Client(address, timeout=patience, set_as_default=False))
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"no Dask scheduler answers at '{address}' ({error})", remedy="check the address") from None


def start_jobs(queue: str, jobs: int, *, memory_gb: float = 4.0, cores: int = 1, **options: Any) -> DaskEngine:
    """Ask a queue for jobs of one worker each; what is not given comes from dask-jobqueue's own settings file.

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
    cluster.scale(jobs=jobs)
    return DaskEngine(distributed.Client(cluster, set_as_default=False), cluster)


def _needed(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(f"{module} is not installed", remedy=f"pip install 'blindharmony[{extra}]'") from None
