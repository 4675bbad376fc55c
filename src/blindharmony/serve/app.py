"""The page's server as an application: what can be asked of it, and what it answers.

In reading order: the target models that can be chosen (told from the head of their files, since loading one would load
torch); the page itself, one template, one style and one script from inside the package; jobs as the page sees them, in
words, links and sizes without folders; results as a zip that is made while it is sent; the routes; and the limit on
half-sent requests (:class:`PatientProtocol`).
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.parse import quote
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import h11
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from blindharmony.errors import BlindHarmonyError, OutputError, TargetError, UsageError, one_line
from blindharmony.files import parse_json, split_name
from blindharmony.report.html import asset_text, page_environment
from blindharmony.serve.queue import Queue
from blindharmony.serve.security import RESULT_POLICY, Door, Guard
from blindharmony.serve.store import EXTENSIONS, Job, JobId, JobScan, State, Store, TooLargeError, check_scan, in_words
from blindharmony.version import VERSION

_LONGEST_HEAD = 2**24


@dataclass(frozen=True)
class Choice:
    """A target model that can be chosen.

    Attributes:
        key: What a browser sends.
        name: What people call it.
        about: Where it comes from, one line.
        model: Its file or included name.
        suffix: The contrast it knows, such as T1w.
    """

    key: str
    name: str
    about: str
    model: str
    suffix: str


def choices(files: Sequence[str] = ()) -> tuple[Choice, ...]:
    """The included models, or before them those in ``files``.

    Raises:
        TargetError: If a file is missing or no target model.

    Example:
        >>> [choice.name for choice in choices()]
        ['ds002748']
    """
    # Not through blindharmony.models, which imports torch: this process lives long and shall stay small.
    assets = Path(str(resources.files("blindharmony").joinpath("models", "assets")))
    included = {path.stem: path for path in sorted(assets.glob("*.safetensors"))}
    own = [_choice(Path(f).resolve(), "") for f in files if f not in included]
    return (*own, *(_choice(path, name) for name, path in included.items()))


def _choice(path: Path, included: str) -> Choice:
    if path.exists() and not path.is_file():
        raise TargetError("this is no regular file", remedy="give a model file with --target", path=path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(min(length, _LONGEST_HEAD))
        said = parse_json(parse_json(head)["__metadata__"]["blindharmony"])
        name, data = str(said["name"]), str(said.get("data", ""))
        scans = int(said["scans"]) + int(said.get("held_out", {}).get("scans", 0))
        suffix = str(said.get("suffix", "T1w"))
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise TargetError(what, remedy="give a model file with --target", path=path) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        remedy = "give a file made by 'blindharmony train'"
        raise TargetError("this is not a target model", remedy=remedy, path=path) from None
    key = included or hashlib.sha256(str(path).encode()).hexdigest()[:12]
    about = f"learned from {scans} {suffix} scans" + (f": {data}" if data else "")
    return Choice(key, one_line(name)[:80], one_line(about)[:200], included or str(path), one_line(suffix)[:20])


@dataclass(frozen=True)
class Page:
    """What the page says about itself.

    Attributes:
        targets: Models to choose from.
        folder: Where results lie, to be told.
        most_bytes: Of one scan.
        most_scans: Of one job.
        shared: Whether other computers can reach it.
    """

    targets: Sequence[Choice]
    folder: str
    most_bytes: int
    most_scans: int
    shared: bool = False

    def html(self) -> str:
        """The page."""
        return (
            page_environment()
            .get_template("serve/page.html")
            .render(page=self, extensions=EXTENSIONS, version=VERSION, most_mb=self.most_bytes >> 20)
        )


def refused_html() -> str:
    """What a browser without the link sees."""
    return page_environment().get_template("serve/refused.html").render()


def style() -> str:
    """The reports' style and this page's own."""
    return asset_text("style.css", "serve/serve.css")


def script() -> str:
    """The page's script: what its parts share, adding scans, and the jobs."""
    return asset_text("serve/common.js", "serve/add.js", "serve/jobs.js")


_PIECE = 2**18


class _Outbox(io.RawIOBase):
    """Keeps what was written until it is fetched."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: object) -> int:
        data = bytes(piece)  # type: ignore[call-overload]
        self._parts.append(data)
        return len(data)

    def fetch(self) -> bytes:
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def zipped(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """A zip of files under given names, piece by piece; equal files give equal bytes.

    What is in it is compressed already, so it is only put together.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.txt")
        >>> _ = file.write_text("hello")
        >>> ZipFile(io.BytesIO(b"".join(zipped([("b/a.txt", file)])))).read("b/a.txt")
        b'hello'
    """
    outbox = _Outbox()
    with ZipFile(outbox, "w", ZIP_STORED) as archive:
        for name, path in files:
            entry = ZipInfo(name)
            entry.file_size = path.stat().st_size
            entry.external_attr = 0o600 << 16
            with path.open("rb") as source, archive.open(entry, "w") as sink:
                while piece := source.read(_PIECE):
                    sink.write(piece)
                    yield outbox.fetch()
    yield outbox.fetch()


_KINDS = (
    (".viewer.html", "The viewer"),
    (".html", "The report"),
    (".json", "How it was made"),
    ("_mask.nii.gz", "The brain that was found"),
)
_SCAN = "The harmonized scan"


def shown(store: Store, queue: Queue) -> dict[str, Any]:
    """All jobs, newest first, and the revision they are of."""
    with store.changed:
        revision, jobs = store.revision, store.all()
    shares = {job_id: share for job_id, (_, share) in dict(queue.progress).items()}
    left = time_left(jobs, shares, queue.lanes, time.time())
    return {
        "revision": revision,
        "scan_seconds": round(scan_seconds(jobs)),
        "jobs": [_job(job, store, queue, left) for job in sorted(jobs, key=lambda j: j.created, reverse=True)],
    }


# A scan on two idle cores; and what fitting a scanner adds to each of its scans.
_SCAN_S, _TOGETHER = 45.0, 1.6
_REMEMBERED = 10


def scan_seconds(jobs: Sequence[Job]) -> float:
    """What a scan takes here: the median of the last jobs, a guess as long as there are none.

    Example:
        >>> scan_seconds([])
        45.0
    """
    over = sorted((job for job in jobs if job.state is State.DONE and job.started and job.finished), key=_ended)
    times = [(_ended(job) - (job.started or 0)) / _scans_worth(job) for job in over[-_REMEMBERED:]]
    return median(times) if times else _SCAN_S


def _ended(job: Job) -> float:
    return job.finished or 0.0


def _scans_worth(job: Job) -> float:
    return len(job.scans) * (_TOGETHER if job.together else 1.0)


def time_left(jobs: Sequence[Job], shares: Mapping[str, float], lanes: int, now: float) -> dict[str, float]:
    """Seconds until each job that waits or runs is done, about.

    Args:
        jobs: In the queue's order.
        shares: How much of a running job is done.
        lanes: How many run at a time.
        now: Seconds since 1970.

    Example:
        >>> scan = JobScan(label="a.nii", leaf="a.nii", size=1)
        >>> job = Job(id="0" * 16, created=1, target="t", target_name="t", scans=[scan])
        >>> going = job.model_copy(update={"id": "1" * 16, "state": State.RUNNING, "started": 0.0})
        >>> time_left([going, job], {going.id: 0.5}, 1, 30.0)
        {'1111111111111111': 27.5, '0000000000000000': 72.5}
    """
    each = scan_seconds(jobs)
    left: dict[str, float] = {}
    for job in jobs:
        if job.state is State.RUNNING:
            # The guess counts as a quarter of the job, so that a quick beginning promises no quick end.
            share, guess = shares.get(job.id, 0.0), each * _scans_worth(job)
            whole = (now - (now if job.started is None else job.started) + 0.25 * guess) / (share + 0.25)
            left[job.id] = round(whole * (1 - share), 1)
    free = sorted([*left.values(), *[0.0] * (lanes - len(left))])[:lanes] or [0.0]
    for job in jobs:
        if job.state is State.QUEUED:
            begins = free.pop(0)
            left[job.id] = round(begins + each * _scans_worth(job), 1)
            free = sorted([*free, left[job.id]])
    return left


def title(job: Job) -> str:
    """What to call a job.

    Example:
        >>> scans = [JobScan(label=f"{n}.nii", leaf=f"{n}.nii", size=1) for n in "abc"]
        >>> title(Job(id="0" * 16, created=1, target="t", target_name="t", scans=scans))
        'a.nii and 2 more'
    """
    first, more = job.scans[0].label, len(job.scans) - 1
    return f"{first} and {more} more" if more else first


def bundle(store: Store, jobs: Sequence[Job]) -> Iterator[tuple[str, Path]]:
    """Names in a zip, and files, of the jobs' results; a folder for each job if there are several."""
    taken: set[str] = set()
    for job in jobs:
        folder = stem = split_name(job.scans[0].leaf)[0]
        number = 1
        while folder.casefold() in taken:
            number += 1
            folder = f"{stem}-{number}"
        taken.add(folder.casefold())
        for file in job.files:
            yield (f"{folder}/{file}" if len(jobs) > 1 else file), store.results(job.id) / file


def _job(job: Job, store: Store, queue: Queue, left: Mapping[str, float]) -> dict[str, Any]:
    waiting = [job_id for job_id in left if (other := store.get(job_id)) and other.state is State.QUEUED]
    stage, share = queue.progress.get(job.id, ("", 0.0)) if job.state is State.RUNNING else ("", 0.0)
    return {
        "id": job.id,
        "title": title(job),
        "state": job.state.value,
        "target": job.target_name,
        "together": job.together,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "before": waiting.index(job.id) if job.id in waiting else 0,
        "left": left.get(job.id, 0.0),
        "stage": stage,
        "share": share,
        "reason": job.reason,
        "remedy": job.remedy,
        "zip": f"/jobs/{job.id}/results.zip" if job.files else "",
        "scans": [_scan(job, scan, store) for scan in job.scans],
    }


def _scan(job: Job, scan: JobScan, store: Store) -> dict[str, Any]:
    found = scan.outcome
    if found is None:
        return {"name": scan.label, "size": scan.size, "files": [], "report": "", "viewer": ""}
    files = [
        {
            "name": file,
            "what": next((words for end, words in _KINDS if file.endswith(end)), _SCAN),
            "url": f"/jobs/{job.id}/files/{quote(file)}",
            "size": _size(store.results(job.id) / file),
        }
        for file in found.files
    ]
    pages = [file for file in found.files if file.endswith(".html")]
    report, viewer = (
        next((f"/jobs/{job.id}/pages/{quote(p)}" for p in pages if p.endswith(".viewer.html") is wanted), "")
        for wanted in (False, True)
    )
    return {
        "name": scan.label,
        "size": scan.size,
        "files": files,
        "report": report,
        "viewer": viewer,
        "pictures": [f"/jobs/{job.id}/pictures/{quote(name)}" for name in found.pictures],
        "verdict": found.verdict,
        "headline": found.headline,
        "warnings": list(found.warnings),
        "reason": found.reason,
        "remedy": found.remedy,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


_MONTH = 30 * 24 * 3600
# A result's page has an origin of its own, which the page's opener policy would forbid.
_RESULT_HEADERS = {"content-security-policy": RESULT_POLICY, "cross-origin-opener-policy": "unsafe-none"}


class Wanted(BaseModel):
    """A job as a browser asks for it."""

    model_config = ConfigDict(extra="forbid")

    uploads: list[JobId] = Field(min_length=1)
    target: str = Field(max_length=100)
    together: bool = False


class Folder(BaseModel):
    """A DICOM folder that a browser is going to send."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=1000)


class MissingError(BlindHarmonyError):
    """Something that is not there, or no longer."""


@dataclass(frozen=True, eq=False)
class Desk:
    """Everything the answers need."""

    store: Store
    queue: Queue
    page: Page
    door: Door

    def job(self, job_id: str) -> Job:
        """A job.

        Raises:
            MissingError: If there is none.
        """
        job = self.store.get(job_id)
        if job is None:
            raise MissingError("this job is not there any more", remedy="load the page again")
        return job

    def picture(self, job_id: str, name: str) -> Path:
        """A picture of a scan of a job, of those that the job itself lists.

        Raises:
            MissingError: If it lists none of this name, or it is gone.
        """
        job = self.job(job_id)
        listed = {picture for scan in job.scans if scan.outcome for picture in scan.outcome.pictures}
        path = self.store.results(job.id) / name if name in listed else None
        if path is None or not path.is_file():
            raise MissingError("this picture is not there any more", remedy="load the page again")
        return path

    def file(self, job_id: str, name: str) -> Path:
        """A result: only names that the job itself lists are ever opened.

        Raises:
            MissingError: If it lists no such file, or it is gone.
        """
        job = self.job(job_id)
        path = self.store.results(job.id) / name if name in job.files else None
        if path is None or not path.is_file():
            raise MissingError("this file is not there any more", remedy="load the page again")
        return path


def make_app(desk: Desk) -> FastAPI:
    """The server's application; its queue works while it runs."""

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        desk.queue.start()
        try:
            yield
        finally:
            app.state.stopped = await run_in_threadpool(desk.queue.stop)

    # Its own documentation pages would be loaded from elsewhere.
    app = FastAPI(lifespan=working, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, door=desk.door)
    app.add_exception_handler(BlindHarmonyError, _problem)
    app.add_exception_handler(RequestValidationError, _not_understood)
    _add_page(app, desk)
    _add_jobs(app, desk)
    _add_results(app, desk)
    return app


def _add_page(app: FastAPI, desk: Desk) -> None:
    @app.get("/")
    def page(request: Request, token: str = "") -> Response:
        if token and desk.door.knows(token):
            # The link works once more from the history; the address bar does not show it.
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(desk.door.cookie, token, max_age=_MONTH, httponly=True, samesite="lax")
            return answer
        if not desk.door.admits(dict(request.headers)):
            return HTMLResponse(refused_html(), status_code=403)
        return HTMLResponse(desk.page.html())

    @app.get("/style.css")
    def style_() -> Response:
        return Response(style(), media_type="text/css")

    @app.get("/script.js")
    def script_() -> Response:
        return Response(script(), media_type="text/javascript")


def _add_jobs(app: FastAPI, desk: Desk) -> None:
    store, uploads = desk.store, desk.store.uploads

    @app.get("/api/jobs")
    def jobs(after: int = -1) -> dict[str, Any]:
        return {"revision": after} if after == store.revision else shown(store, desk.queue)

    @app.put("/api/uploads", status_code=201)
    async def upload(request: Request, name: Annotated[str, Query(min_length=1, max_length=1000)]) -> Response:
        declared = request.headers.get("content-length", "")
        try:
            found = await uploads.receive(name, request.stream(), int(declared) if declared.isdecimal() else None)
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            await run_in_threadpool(check_scan, found.path)
        except BaseException:
            uploads.forget(found.id)
            raise
        return JSONResponse({"id": found.id, "name": found.label}, status_code=201)

    @app.post("/api/series", status_code=201)
    def begin(folder: Folder) -> dict[str, str]:
        return {"id": uploads.begin_series(folder.name)}

    @app.put("/api/series/{series_id}", status_code=204)
    async def receive(request: Request, series_id: JobId) -> Response:
        declared = request.headers.get("content-length", "")
        try:
            await uploads.receive_file(series_id, request.stream(), int(declared) if declared.isdecimal() else None)
        except ClientDisconnect:
            return Response(status_code=400)
        return Response(status_code=204)

    @app.post("/api/series/{series_id}/scan", status_code=201)
    def convert(series_id: JobId) -> dict[str, str]:
        found = uploads.converted(series_id)
        return {"id": found.id, "name": found.label}

    @app.delete("/api/uploads/{upload_id}", status_code=204)
    def forget(upload_id: JobId) -> None:
        uploads.forget(upload_id)

    @app.post("/api/jobs", status_code=201)
    def add(wanted: Wanted) -> dict[str, str]:
        target = next((t for t in desk.page.targets if t.key == wanted.target), None)
        if target is None:
            raise UsageError("this target model is not offered here", remedy="load the page again")
        if len(wanted.uploads) > desk.page.most_scans or len(set(wanted.uploads)) < len(wanted.uploads):
            raise UsageError(f"a job has at most {desk.page.most_scans} scans, each once", remedy="make several jobs")
        found = [uploads.get(upload_id) for upload_id in wanted.uploads]
        ready = [upload for upload in found if upload is not None]
        if len(ready) < len(found):
            raise MissingError("a scan is not there any more", remedy="add it again")
        together = wanted.together and len(ready) > 1
        return {"id": store.add(ready, target=target.model, target_name=target.name, together=together).id}

    @app.post("/api/jobs/{job_id}/cancel", status_code=204)
    def cancel(job_id: JobId) -> None:
        desk.queue.cancel(desk.job(job_id).id)

    @app.post("/api/jobs/{job_id}/again", status_code=204)
    def again(job_id: JobId) -> None:
        desk.queue.again(desk.job(job_id).id)

    @app.delete("/api/jobs/{job_id}", status_code=204)
    def delete(job_id: JobId) -> None:
        if not store.delete(desk.job(job_id).id):
            raise UsageError("this job is being worked on", remedy="cancel it first")


def _add_results(app: FastAPI, desk: Desk) -> None:
    @app.get("/jobs/{job_id}/files/{name}")
    def file(job_id: JobId, name: str) -> Response:
        return FileResponse(desk.file(job_id, name), filename=name, media_type="application/octet-stream")

    @app.get("/jobs/{job_id}/pages/{name}")
    def result_page(job_id: JobId, name: str) -> Response:
        path = desk.file(job_id, name)
        if path.suffix != ".html":
            raise MissingError("this is no page", remedy="download it")
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=_RESULT_HEADERS)

    @app.get("/jobs/{job_id}/pictures/{name}")
    def picture(job_id: JobId, name: str) -> Response:
        return FileResponse(desk.picture(job_id, name), media_type="image/jpeg")

    @app.get("/jobs/{job_id}/results.zip")
    def one(job_id: JobId) -> Response:
        job = desk.job(job_id)
        return _zip([job], f"harmonized {title(job)}" if len(job.scans) == 1 else f"harmonized {len(job.scans)} scans")

    @app.get("/results.zip")
    def every() -> Response:
        return _zip([job for job in desk.store.all() if job.files], "harmonized scans")

    def _zip(jobs: list[Job], name: str) -> Response:
        files = [(place, path) for place, path in bundle(desk.store, jobs) if path.is_file()]
        if not files:
            raise MissingError("there are no results", remedy="wait until they are there")
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)[:100]
        headers = {"content-disposition": f'attachment; filename="{plain}.zip"'}
        return StreamingResponse(zipped(files), media_type="application/zip", headers=headers)


class PatientProtocol(H11Protocol):
    """HTTP that waits for a browser, but not for ever: half-sent requests must not lock out everybody else.

    A head has to be whole within ``head_s`` seconds; a body may take as long as it needs, if something comes at least
    every ``body_s`` seconds. When more than ``most_waiting`` connections have sent no whole head, the oldest goes.
    """

    head_s = 10.0
    body_s = 30.0
    most_waiting = 50

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the head."""
        waiting = [c for c in self.connections if isinstance(c, PatientProtocol) and c.waits_for_head]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self.head_s, self._look)
        if len(waiting) >= self.most_waiting:
            min(waiting, key=lambda c: c._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        before = self.conn.their_state
        super().data_received(data)
        # Single bytes of a head give no more time.
        if self.conn.their_state is not before or not self.waits_for_head:
            self._since = self.loop.time()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        self._since = self.loop.time()
        super().on_response_complete()

    @property
    def waits_for_head(self) -> bool:
        """Whether no request has come yet, or none since the last answer."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def _look(self) -> None:
        waits_for_body = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        again = self.head_s
        if self.waits_for_head or waits_for_body:
            limit = self.head_s if self.waits_for_head else self.body_s
            again = self._since + limit - self.loop.time()
            if again <= 0:
                self.transport.abort()
                return
        self._timer = self.loop.call_later(again, self._look)


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, BlindHarmonyError)
    kinds = ((TooLargeError, 413), (MissingError, 404), (UsageError, 409), (OutputError, 507))
    code = next((code for kind, code in kinds if isinstance(error, kind)), 422)
    return JSONResponse(in_words(error), status_code=code)


def _not_understood(request: Request, error: Exception) -> Response:
    # The framework's own answer repeats what was sent.
    return JSONResponse({"what": "this was not understood", "remedy": "load the page again"}, status_code=422)
