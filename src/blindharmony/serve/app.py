"""What can be asked of the page's server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from blindharmony.errors import BlindHarmonyError, OutputError, UsageError
from blindharmony.serve.job import Job, JobId
from blindharmony.serve.page import Page, refused_html, script, style
from blindharmony.serve.queue import Queue
from blindharmony.serve.security import RESULT_POLICY, Door, Guard
from blindharmony.serve.shown import bundle, shown, title
from blindharmony.serve.store import Store
from blindharmony.serve.uploads import TooLargeError, check_scan, in_words
from blindharmony.serve.zips import zipped

_MONTH = 30 * 24 * 3600
# A result's page has an origin of its own, which the page's opener policy would forbid.
_RESULT_HEADERS = {"content-security-policy": RESULT_POLICY, "cross-origin-opener-policy": "unsafe-none"}


class Wanted(BaseModel):
    """A job as a browser asks for it."""

    model_config = ConfigDict(extra="forbid")

    uploads: list[JobId] = Field(min_length=1)
    target: str = Field(max_length=100)
    together: bool = False


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


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, BlindHarmonyError)
    kinds = ((TooLargeError, 413), (MissingError, 404), (UsageError, 409), (OutputError, 507))
    code = next((code for kind, code in kinds if isinstance(error, kind)), 422)
    return JSONResponse(in_words(error), status_code=code)


def _not_understood(request: Request, error: Exception) -> Response:
    # The framework's own answer repeats what was sent.
    return JSONResponse({"what": "this was not understood", "remedy": "load the page again"}, status_code=422)
