"""Jobs as the page sees them: words, links and sizes, no folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from blindharmony.image import split_name
from blindharmony.serve.job import Job, JobScan, State
from blindharmony.serve.queue import Queue
from blindharmony.serve.store import Store

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
    waiting = [job.id for job in jobs if job.state is State.QUEUED]
    return {
        "revision": revision,
        "jobs": [_job(job, store, queue, waiting) for job in sorted(jobs, key=lambda j: j.created, reverse=True)],
    }


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


def _job(job: Job, store: Store, queue: Queue, waiting: Sequence[str]) -> dict[str, Any]:
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
        "before": waiting.index(job.id) if job.state is State.QUEUED else 0,
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
