"""Options of a cohort run about who does the work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from blindharmony.cli.options import amount, both
from blindharmony.errors import UsageError
from blindharmony.jobs.engine import Engine
from blindharmony.jobs.processes import THREADS, cores
from blindharmony.study.ledger import memory_gb

_JOB_GB = 4.0


def add_options(p: Any) -> None:
    """Processes here, a Dask scheduler, or a queue."""
    p.add_argument(
        *both("--n-procs"),
        type=int,
        metavar="N",
        help="processes on this machine (default: as many as cores and memory allow); 0: work inside this one",
    )
    p.add_argument(
        *both("--omp-nthreads"), type=int, metavar="N", help="threads of a process (default: the cores, shared evenly)"
    )
    p.add_argument(*both("--mem-gb"), type=amount, metavar="G", help="memory for all processes, 2 GB each or more")
    p.add_argument(*both("--dask-scheduler"), metavar="ADDRESS", help="Dask workers that run already (tcp://...)")
    p.add_argument("--jobqueue", choices=("slurm", "pbs", "local"), help="start Dask workers as jobs of a queue")
    p.add_argument("--jobs", type=int, metavar="N", help="how many jobs")
    p.add_argument(*both("--job-memory"), type=amount, metavar="G", help="memory of a job, GB (default: 4 or more)")
    p.add_argument(*both("--job-walltime"), metavar="TIME", help="time limit of a job, as the queue writes it")
    p.add_argument(*both("--job-queue"), metavar="NAME", help="queue or partition")
    p.add_argument(*both("--job-account"), metavar="NAME", help="account of the jobs")


def check(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense, before any work.

    Raises:
        UsageError: If options contradict each other.
    """
    ways = ("n_procs", "dask_scheduler", "jobqueue")
    if sum(getattr(arguments, w) is not None for w in ways) > 1:
        raise UsageError("--n-procs, --dask-scheduler and --jobqueue exclude each other", remedy="use one of them")
    if bool(arguments.jobqueue) != bool(arguments.jobs):
        raise UsageError("--jobqueue and --jobs go together", remedy="say which queue and how many jobs")
    for name in ("job_memory", "job_walltime", "job_queue", "job_account"):
        if getattr(arguments, name) is not None and not arguments.jobqueue:
            raise UsageError(f"--{name.replace('_', '-')} is for jobs of a queue", remedy="use --jobqueue with it")
    if arguments.n_procs == 0 or arguments.dask_scheduler or arguments.jobqueue:
        for name in ("omp_nthreads", "mem_gb"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is for worker processes on this machine", remedy="use --n-procs N with it")
    for name, least in (("n_procs", 0), ("omp_nthreads", 1), ("jobs", 1), ("mem_gb", memory_gb(0)), ("job_memory", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value:g} is too small", remedy=f"use at least {least:g}")


def engine(arguments: argparse.Namespace, device: str, logs: Path, scans: int, voxels: int = 0) -> tuple[Engine, str]:
    """The engine asked for, and what it is in words.

    Args:
        arguments: The command line.
        device: Where workers compute.
        logs: Folder for what workers print.
        scans: More workers than scans are not started.
        voxels: Of the largest scan; a worker gets memory for it.

    Raises:
        UsageError: If an extra package is needed and missing.
    """
    each_gb = memory_gb(voxels)
    if arguments.dask_scheduler:
        from blindharmony.jobs.cluster import connect

        return connect(arguments.dask_scheduler), f"the Dask scheduler {arguments.dask_scheduler}"
    if arguments.jobqueue:
        from blindharmony.jobs.cluster import start_jobs

        words = {"walltime": arguments.job_walltime, "queue": arguments.job_queue, "account": arguments.job_account}
        jobs = start_jobs(
            arguments.jobqueue, arguments.jobs, memory_gb=arguments.job_memory or max(_JOB_GB, each_gb), **words
        )
        return jobs, f"{arguments.jobs} jobs ({arguments.jobqueue})"
    if arguments.n_procs == 0:
        from blindharmony.jobs.engine import SerialEngine

        return SerialEngine(), "this process"
    from blindharmony.jobs.processes import ProcessEngine

    count = workers(arguments.n_procs, arguments.mem_gb, cores(), _free_gb() or each_gb, scans, each_gb)
    each = arguments.omp_nthreads or max(1, cores() // count)
    gpus = _gpus(device)
    environments = [
        {**dict.fromkeys(THREADS, str(each)), **({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {})}
        for i in range(count)
    ]
    words_ = f"{count} process{'es' if count > 1 else ''}, {each} thread{'s' if each > 1 else ''} each"
    return ProcessEngine(environments, logs=logs), words_ + (f", {len(gpus)} GPUs" if gpus else "")


def workers(asked: int | None, memory: float | None, cores: int, free: float, scans: int, each_gb: float = 2.0) -> int:
    """How many processes: as asked, or as cores and free memory allow; never more than ``--mem-gb`` has room for.

    Example:
        >>> workers(None, None, 16, 13.0, 100), workers(8, 5.0, 16, 64.0, 100), workers(8, None, 2, 1.0, 3)
        (6, 2, 3)
        >>> workers(None, None, 16, 13.0, 100, each_gb=3.1)
        4
    """
    most = min(cores, int(free / each_gb)) if asked is None else asked
    if memory is not None:
        most = min(most, int(memory / each_gb))
    return max(1, min(most, scans))


def _free_gb() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return 0.0
    return kilobytes / 1e6


def _gpus(device: str) -> list[str]:
    """Names of the GPUs that workers take turns with."""
    if not device.startswith("cuda"):
        return []
    if ":" in device:
        raise UsageError(f"'{device}' names one GPU", remedy="use --device cuda and set CUDA_VISIBLE_DEVICES")
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
