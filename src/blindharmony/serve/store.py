"""Scans on their way in, and jobs with their results, in a folder of which this process is the only writer.

In reading order: names that browsers send (shown as they are, used as file names only after washing); a job, which is
one scan or several of one scanner and what became of them (:class:`Job`); uploads, written piece by piece within limits
and looked at by the package's readers (:class:`Uploads`); and the jobs on disk, whole files, nothing lost in whatever
way the program ends (:class:`Store`).
"""

from __future__ import annotations

import gzip
import json
import secrets
import shutil
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Condition
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from blindharmony.errors import BlindHarmonyError, InputError, OutputError, UsageError, one_line
from blindharmony.files import parse_json, read_text, result_names, slug, split_name, write_text
from blindharmony.io.dicom import choose, convert
from blindharmony.io.headers import begins_as_dicom
from blindharmony.io.volume import check_voxels_stored, open_image, placed

EXTENSIONS = (".nii", ".nii.gz", ".mgz")
_LONGEST = 100
_SHOWN = 160
# Windows takes these for devices, whatever follows the first dot.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def shown_name(name: str) -> str:
    r"""A name to show: its last part, one line, not endless.

    Example:
        >>> shown_name("C:\\scans\\Anna B.nii"), shown_name("../../etc/passwd")
        ('Anna B.nii', 'passwd')
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    line = one_line(last.encode("utf-8", "replace").decode())
    return (line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…") or "scan"


def safe_leaf(name: str) -> str:
    r"""A file name that is safe on any system and in any folder, with the scan's own extension in small letters.

    Raises:
        InputError: If the extension is not that of a scan.

    Example:
        >>> safe_leaf("sub-01_T1w.nii.gz"), safe_leaf("../../.ssh/Anna B?.NII"), safe_leaf("con.mgz")
        ('sub-01_T1w.nii.gz', 'Anna-B.nii', 'scan-con.mgz')
    """
    last = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode()).replace("\\", "/").rpartition("/")[2]
    # With a letter before it, even a name that is nothing but an ending has one.
    stem, extension = split_name(f"x{last}")
    if extension.lower() not in EXTENSIONS:
        raise InputError(
            f"its name ends in {one_line(extension)[:20]}" if extension else "its name has no ending",
            remedy=f"give a scan that ends in {', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}, or a DICOM folder",
        )
    washed = slug(stem[1:], "", longest=_LONGEST, ends="-_.+")
    if not washed or washed.partition(".")[0].lower() in _DEVICES:
        washed = f"scan-{washed}".rstrip("-")
    return washed + extension.lower()


def told_apart(leaves: Iterable[str]) -> tuple[str, ...]:
    """The same names, changed where results of two of them would have one name.

    Example:
        >>> told_apart(["a.nii", "b.nii", "a.mgz"])
        ('a.nii', 'b.nii', 'a-2.mgz')
    """
    found: list[str] = []
    taken: set[str] = set()
    for leaf in leaves:
        stem, extension = split_name(leaf)
        free, number = leaf, 1
        while not _results(free).isdisjoint(taken):
            number += 1
            free = f"{stem}-{number}{extension}"
        taken |= _results(free)
        found.append(free)
    return tuple(found)


def _results(leaf: str) -> set[str]:
    # Some disks do not tell capital letters from small ones.
    return {name.casefold() for name in result_names(leaf).values()}


FORMAT = 1
JobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
# A name that leads into no other folder and hides nothing.
Leaf = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=r"^[^./\\\x00][^/\\\x00]*$")]


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more happens by itself.

        Example:
            >>> State.RUNNING.over, State.CANCELLED.over
            (False, True)
        """
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Outcome(_Record):
    """What became of one scan.

    Attributes:
        files: Names of the results, the harmonized scan first; none if it failed.
        pictures: Names of two pictures, slices of the scan and of the result; they are no results.
        verdict: ``good``, ``caution`` or ``poor``.
        headline: The verdict in a sentence.
        warnings: What to know before using it.
        seconds: How long it took.
        reason: Why there is no result.
        remedy: What can be done about that.
    """

    files: tuple[Leaf, ...] = ()
    pictures: tuple[Leaf, ...] = ()
    verdict: str = ""
    headline: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    remedy: str = ""


class JobScan(_Record):
    """A scan of a job.

    Attributes:
        label: What its owner calls it: to be shown, never to be opened.
        leaf: What it is called in the job's folder.
        size: Bytes.
        outcome: What became of it, once that is known.
    """

    label: str
    leaf: Leaf
    size: int
    outcome: Outcome | None = None


class Job(_Record):
    """A job as it is kept on disk.

    Attributes:
        format: Version of this record.
        id: Made here, never by a browser.
        created: Seconds since 1970; the queue's order.
        target: File or included name of the target model.
        target_name: What to call it.
        together: Whether the scans are of one scanner and fitted together.
        scans: The scans.
        state: Where it stands.
        started: When it was begun last.
        finished: When it was over.
        reason: Why it failed as a whole.
        remedy: What can be done about that.
        interrupted: How often the program was killed while it ran.
    """

    format: int = FORMAT
    id: JobId
    created: float
    target: str
    target_name: str
    together: bool = False
    scans: tuple[JobScan, ...] = Field(min_length=1)
    state: State = State.QUEUED
    started: float | None = None
    finished: float | None = None
    reason: str = ""
    remedy: str = ""
    interrupted: int = Field(default=0, ge=0)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all results."""
        return tuple(file for scan in self.scans if scan.outcome for file in scan.outcome.files)

    def again(self) -> Job:
        """The same job, as if it had not been begun."""
        fresh = tuple(scan.model_copy(update={"outcome": None}) for scan in self.scans)
        nothing = {"started": None, "finished": None, "reason": "", "remedy": ""}
        return self.model_copy(update={"scans": fresh, "state": State.QUEUED, **nothing})


def new_id() -> str:
    """A name that nobody can guess.

    Example:
        >>> len(new_id()), new_id() == new_id()
        (16, False)
    """
    return secrets.token_hex(8)


_ROOM = 2**30
# Of a DICOM folder: a visit has some thousands.
_MOST_FILES = 20_000
_LEVEL = 6  # of gzip
_LOOK_EVERY = 2**26
_FORGOTTEN_S = 6 * 3600


@dataclass(frozen=True)
class Upload:
    """A scan that was received and can be read.

    Attributes:
        id: Made here.
        label: What its owner calls it.
        leaf: A safe file name.
        size: Bytes.
        path: Where it is.
        came: When, by the clock of this process.
    """

    id: str
    label: str
    leaf: str
    size: int
    path: Path
    came: float = 0.0


@dataclass
class Series:
    """A DICOM folder that is being received, file by file.

    Attributes:
        label: What its owner calls it.
        place: Where its files are.
        came: When it began.
        size: Bytes so far.
        files: How many so far.
    """

    label: str
    place: Path
    came: float
    size: int = 0
    files: int = 0


class Uploads:
    """Received scans that are not part of a job yet; they do not outlive the program.

    Args:
        folder: Emptied at the start.
        most_bytes: Of one scan.
        most: How many may wait at once.
        room: Bytes that have to stay free on the disk.
        clock: Seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = 500 * 2**20,
        most: int = 200,
        room: int = _ROOM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.most_bytes, self.most, self.room, self._clock = folder, most_bytes, most, room, clock
        shutil.rmtree(folder, ignore_errors=True)
        private(folder.parent)
        private(folder)
        self._waiting: dict[str, Upload] = {}
        self._series: dict[str, Series] = {}
        self._coming = 0

    def get(self, upload_id: str) -> Upload | None:
        """A received scan."""
        return self._waiting.get(upload_id)

    def forget(self, upload_id: str) -> None:
        """Remove a received scan, or what is left of it after it became part of a job."""
        if self._waiting.pop(upload_id, None) or self._series.pop(upload_id, None):
            shutil.rmtree(self.folder / upload_id, ignore_errors=True)

    async def receive(self, name: str, pieces: AsyncIterator[bytes], declared: int | None) -> Upload:
        """Write a scan to disk as it comes; nothing stays if anything goes wrong.

        Args:
            name: As the browser says; only its last part is shown, and only washed is it used.
            pieces: The bytes.
            declared: How many the browser promised.

        Raises:
            InputError: If the name is not a scan's, or it is empty or too large.
            OutputError: If the disk has too little room.
            UsageError: If too many wait already.
        """
        leaf, label = safe_leaf(name), shown_name(name)
        self._check_number()
        self._check_size(declared or 0)
        self._check_room(declared or 0)
        upload_id = new_id()
        place = self.folder / upload_id
        self._coming += 1
        try:
            place.mkdir(mode=0o700)
            size = await self._written(place / leaf, pieces)
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, OSError):
                raise OutputError("the disk does not take it", remedy="free some space") from error
            raise
        finally:
            self._coming -= 1
        upload = self._waiting[upload_id] = Upload(upload_id, label, leaf, size, place / leaf, self._clock())
        return upload

    def begin_series(self, name: str) -> str:
        """A DICOM folder is going to come, file by file.

        Raises:
            UsageError: If too many scans wait already.
        """
        self._check_number()
        series_id = new_id()
        place = self.folder / series_id / "dicom"
        private(place.parent)
        private(place)
        self._series[series_id] = Series(shown_name(name), place, self._clock())
        return series_id

    async def receive_file(self, series_id: str, pieces: AsyncIterator[bytes], declared: int | None) -> None:
        """Write one file of such a folder; what is no DICOM is left out.

        Raises:
            InputError: If the folder is too large, or has too many files.
            OutputError: If the disk has too little room.
            UsageError: If there is no such folder.
        """
        series = self._series.get(series_id)
        if series is None:
            raise UsageError("this folder is not there any more", remedy="add it again")
        series.files += 1
        if series.files > _MOST_FILES:
            self.forget(series_id)
            raise TooLargeError(f"it has more than {_MOST_FILES} files", remedy="give the folder of one visit")
        self._check_size(series.size + (declared or 0))
        self._check_room(declared or 0)
        # A browser's name is nobody's file name.
        file = series.place / f"{series.files:06d}.dcm"
        try:
            series.size += await self._written(file, pieces, before=series.size)
        except InputError:
            file.unlink(missing_ok=True)
            if series.size > self.most_bytes:
                raise
        except OSError as error:
            raise OutputError("the disk does not take it", remedy="free some space") from error
        if file.exists() and not begins_as_dicom(file):
            file.unlink()

    def converted(self, series_id: str) -> Upload:
        """The T1-weighted volume of a DICOM folder that has come, made by dcm2niix; the DICOM files go.

        Raises:
            InputError: If it has no such volume, or several that could be meant, or dcm2niix is not installed.
            UsageError: If there is no such folder.
        """
        series = self._series.get(series_id)
        if series is None:
            raise UsageError("this folder is not there any more", remedy="add it again")
        made = series.place.with_name("made")
        try:
            if not any(series.place.iterdir()):
                raise InputError("no file of this folder is DICOM", remedy="give scans, or a folder of DICOM files")
            private(made)
            chosen = choose(convert(series.place, made), series.place)
            leaf = safe_leaf(f"{slug(series.label, 'scan', longest=_LONGEST // 2)}_{chosen.name}.nii.gz")
            path = made.parent / leaf
            with chosen.file.open("rb") as source, gzip.GzipFile(path, "wb", _LEVEL, mtime=0) as sink:
                shutil.copyfileobj(source, sink, 2**20)
            check_scan(path)
        except BlindHarmonyError as error:
            self.forget(series_id)
            # There are no options on a page.
            if "--" in error.remedy:
                raise type(error)(error.what, remedy="give the folder of the series that is meant") from None
            raise
        except OSError as error:
            self.forget(series_id)
            raise OutputError("the disk does not take it", remedy="free some space") from error
        del self._series[series_id]
        for folder in (series.place, made):
            shutil.rmtree(folder, ignore_errors=True)
        label = f"{series.label}, series {chosen.number} {one_line(chosen.description)}"[:_SHOWN]
        upload = Upload(series_id, label, leaf, path.stat().st_size, path, self._clock())
        self._waiting[series_id] = upload
        return upload

    def _check_number(self) -> None:
        # The page that sent it is gone: nobody can start or remove it any more. A page that is there sends it again.
        came = {**{u.id: u.came for u in self._waiting.values()}, **{key: s.came for key, s in self._series.items()}}
        for old in [key for key, when in came.items() if self._clock() - when > _FORGOTTEN_S]:
            self.forget(old)
        if len(self._waiting) + len(self._series) + self._coming >= self.most:
            raise UsageError(f"{self.most} scans are waiting already", remedy="start or remove them first")

    async def _written(self, path: Path, pieces: AsyncIterator[bytes], before: int = 0) -> int:
        size, looked = 0, 0
        with path.open("xb") as file:
            async for piece in pieces:
                size += len(piece)
                self._check_size(before + size)
                if size - looked > _LOOK_EVERY:
                    looked = size
                    self._check_room(0)
                file.write(piece)
        if size == 0:
            raise InputError("the file is empty", remedy="convert or download it again")
        return size

    def _check_size(self, size: int) -> None:
        if size > self.most_bytes:
            raise TooLargeError(
                f"it is larger than {self.most_bytes >> 20} MB",
                remedy="check that it is one scan; whoever started this page can allow more with --max-upload-mb",
            )

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free - size < self.room:
            raise OutputError("the disk is nearly full", remedy="delete old results or free some space")


def private(folder: Path) -> None:
    """Make a folder, if it is missing, that only its owner can look into."""
    # Scans are patients' data: on a shared computer they are nobody else's business.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


class TooLargeError(InputError):
    """An upload beyond the limit."""


def check_scan(path: Path) -> None:
    """Read a scan's header and count its bytes, without holding its voxels in memory.

    Raises:
        InputError: If it is no scan, damaged, or not a single volume.
    """
    image, _ = open_image(path)
    placed(image, path)
    check_voxels_stored(image, path)


def in_words(error: BlindHarmonyError) -> dict[str, str]:
    """What went wrong and what to do, without the server's folders.

    Example:
        >>> in_words(InputError("the file is empty", remedy="convert it again", path="study/a.nii"))
        {'what': 'the file is empty', 'remedy': 'convert it again'}
    """
    return {"what": error.what, "remedy": error.remedy}


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
