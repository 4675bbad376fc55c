"""Jobs in a folder: one writer, whole files, nothing lost when the program ends in whatever way."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition
from typing import Any

from pydantic import ValidationError

from blindharmony.errors import InputError, OutputError
from blindharmony.image import parse_json, read_text, write_text
from blindharmony.serve.job import FORMAT, Job, JobScan, State, new_id
from blindharmony.serve.names import told_apart
from blindharmony.serve.uploads import Upload, Uploads, private

_RECORD = "job.json"
_OFTEN = 3


class Store:
    """All jobs, in memory and on disk.

    Only one program may have a store in a folder: hold its lock before.

    Args:
        folder: Where jobs are; made if missing, for its owner alone.
        uploads: Scans that are to become jobs.

    Attributes:
        changed: Notified after every change; it also guards whatever belongs together.
        revision: Counts changes.
        odd: Folders that hold no job that can be read.
    """

    def __init__(self, folder: Path, uploads: Uploads) -> None:
        self.folder, self.uploads = folder, uploads
        self._jobs_folder, self._bin = folder / "jobs", folder / "removed"
        for place in (self._jobs_folder, self._bin):
            private(place)
        self.changed = Condition()
        self.revision = 0
        self.odd: list[Path] = []
        self._jobs: dict[str, Job] = {}
        _emptied(self._bin)
        self._read()

    def all(self) -> list[Job]:
        """Every job, in the queue's order."""
        with self.changed:
            return sorted(self._jobs.values(), key=lambda job: (job.created, job.id))

    def get(self, job_id: str) -> Job | None:
        """A job, None if there is none."""
        return self._jobs.get(job_id)

    def place(self, job_id: str) -> Path:
        """A job's folder."""
        return self._jobs_folder / job_id

    def scan(self, job: Job, leaf: str) -> Path:
        """A scan of a job."""
        return self.place(job.id) / "scans" / leaf

    def results(self, job_id: str) -> Path:
        """Where a job's results are."""
        return self.place(job_id) / "results"

    def add(self, uploads: Sequence[Upload], *, target: str, target_name: str, together: bool) -> Job:
        """Make a job of uploaded scans, whole or not at all.

        Raises:
            OutputError: If the disk does not take it.
        """
        leaves = told_apart(upload.leaf for upload in uploads)
        scans = tuple(JobScan(label=u.label, leaf=leaf, size=u.size) for u, leaf in zip(uploads, leaves, strict=True))
        with self.changed:
            latest = max((job.created for job in self._jobs.values()), default=0.0)
            # A clock that was set back must not turn the queue round.
            created = max(time.time(), latest + 1e-3)
            job = Job(
                id=new_id(), created=created, target=target, target_name=target_name, together=together, scans=scans
            )
            building = self.uploads.folder / f"job-{job.id}"
            try:
                private(building / "scans")
                for upload, scan in zip(uploads, scans, strict=True):
                    upload.path.replace(building / "scans" / scan.leaf)
                _write(building / _RECORD, job)
                building.replace(self.place(job.id))
            except (OSError, OutputError) as error:
                # The uploads are as they were, so that the same button works once there is room.
                for upload, scan in zip(uploads, scans, strict=True):
                    with suppress(OSError):
                        (building / "scans" / scan.leaf).replace(upload.path)
                shutil.rmtree(building, ignore_errors=True)
                if isinstance(error, OutputError):
                    raise
                raise OutputError(f"cannot be written ({error.strerror})", remedy="free some space") from error
            for upload in uploads:
                self.uploads.forget(upload.id)
            self._jobs[job.id] = job
            self._say()
        return job

    def change(self, job_id: str, new: Callable[[Job], Job | None]) -> Job | None:
        """Replace a job by what ``new`` makes of it; None if it is gone or ``new`` says None, and nothing changes."""
        with self.changed:
            old = self._jobs.get(job_id)
            job = old and new(old)
            if job is None:
                return None
            self._jobs[job_id] = job
            # On a full disk the page still says what happened; after a restart the job is in an earlier state.
            with suppress(OutputError):
                _write(self.place(job_id) / _RECORD, job)
            self._say()
            return job

    def delete(self, job_id: str) -> bool:
        """Remove a job that is not running, its scans and its results; False if there is none or it is running."""
        with self.changed:
            job = self._jobs.get(job_id)
            if job is None or job.state is State.RUNNING:
                return False
            # Renamed first: what is being removed must not come back as half a job.
            with suppress(FileNotFoundError):
                self.place(job_id).replace(self._bin / job_id)
            del self._jobs[job_id]
            self._say()
        _emptied(self._bin)
        return True

    def touch(self) -> None:
        """Tell those who wait that something moved."""
        with self.changed:
            self._say()

    def _say(self) -> None:
        self.revision += 1
        self.changed.notify_all()

    def _read(self) -> None:
        for place in sorted(self._jobs_folder.iterdir()):
            for left in place.glob(".*.tmp*"):
                left.unlink(missing_ok=True)
            try:
                job = Job.model_validate(parse_json(read_text(place / _RECORD)))
            except (InputError, ValueError, ValidationError):
                self.odd.append(place)
                continue
            if job.format > FORMAT or job.id != place.name:
                self.odd.append(place)
                continue
            self._jobs[job.id] = job
            if job.state is State.RUNNING:
                self.change(job.id, _interrupted)


def _interrupted(job: Job) -> Job:
    """A job that ran when the program was killed: back to the queue, but not for ever."""
    often = job.interrupted + 1
    if often < _OFTEN:
        return job.again().model_copy(update={"interrupted": often})
    why = {"reason": f"this computer or program stopped {often} times while it was being worked on"}
    what = {"remedy": "the scan may need more memory than there is; close other programs and press Try again"}
    return job.model_copy(update={"state": State.FAILED, "interrupted": 0, "finished": time.time(), **why, **what})


def _write(path: Path, job: Job) -> None:
    content: dict[str, Any] = job.model_dump(mode="json")
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n", overwrite=True)


def _emptied(folder: Path) -> None:
    for place in folder.iterdir():
        shutil.rmtree(place, ignore_errors=True)
