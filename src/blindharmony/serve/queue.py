"""The queue: jobs are done one after the other, each in a process of its own."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from functools import partial

from blindharmony.errors import ErrorCode
from blindharmony.jobs.engine import Answer, Failure
from blindharmony.jobs.processes import THREADS, WorkerProcess, cores
from blindharmony.serve.store import Job, State, Store
from blindharmony.serve.worker import JobAnswer, PageJob, on_the_page

_WORDS = 300  # letters of a message that are shown


class Queue:
    """Does the jobs of a store.

    Args:
        store: The jobs.
        processes: How many at a time.
        device: Where workers compute.
        work: What a worker does; a test takes another type.

    Attributes:
        progress: Job's id → stage and share, of those that run.
        lanes: How many jobs run at a time.
    """

    def __init__(self, store: Store, *, processes: int = 1, device: str = "cpu", work: type[PageJob] = PageJob) -> None:
        self._store, self._device, self._work = store, device, work
        threads = max(1, cores() // processes) if processes > 1 else None
        self._environment = {} if threads is None else dict.fromkeys(THREADS, str(threads))
        self._lanes = [threading.Thread(target=self._go, name=f"lane-{i}", daemon=True) for i in range(processes)]
        self.lanes = processes
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

    def _go(self) -> None:
        """One lane: a job at a time."""
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
        place = self._store.place(job.id).resolve()
        work = self._work(
            scans=tuple(self._store.scan(job, scan.leaf).resolve() for scan in job.scans),
            labels=tuple(scan.label for scan in job.scans),
            results=self._store.results(job.id).resolve(),
            cache=place / "prepared",
            target=job.target,
            together=job.together,
            device=self._device,
        )
        log = place / "log.txt"
        log.unlink(missing_ok=True)
        with WorkerProcess(self._environment, log=log) as worker:
            with self._store.changed:
                self._running[job.id] = worker
                unwanted = self._stopping or job.id in self._cancelled
            if unwanted:
                worker.kill()
            try:
                end = worker.do(work, partial(self._hear, job.id))
            finally:
                with self._store.changed:
                    del self._running[job.id]
                    self.progress.pop(job.id, None)
        with self._store.changed:
            self._settle(job, end, worker.returncode)
            self._cancelled.discard(job.id)

    def _hear(self, job_id: str, stage: str, share: float) -> None:
        self.progress[job_id] = (stage[:_WORDS], share)
        self._store.touch()

    def _settle(self, job: Job, end: Answer | Failure, exit_code: int | None) -> None:
        if isinstance(end, JobAnswer):
            outcomes = zip(job.scans, end.outcomes, strict=True)
            scans = tuple(scan.model_copy(update={"outcome": outcome}) for scan, outcome in outcomes)
            state = State.DONE if any(outcome.files for outcome in end.outcomes) else State.FAILED
            self._store.change(job.id, lambda j: _over(j, state).model_copy(update={"scans": scans}))
        elif job.id in self._cancelled:
            self._clear(job.id)
            self._store.change(job.id, lambda j: _over(j, State.CANCELLED))
        elif self._stopping:
            self._store.change(job.id, lambda j: j.again())
        elif isinstance(end, Failure) and end.code is not ErrorCode.KILLED:
            words = on_the_page(end)
            self._fail(job.id, words.reason[:_WORDS], words.remedy[:_WORDS])
        elif exit_code == -signal.SIGKILL:
            what = "the system stopped the work, probably for want of memory"
            self._fail(job.id, what, "close other programs and try again")
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
