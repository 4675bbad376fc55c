"""A browser that drops a data set on the page, and what the page's server has to do with it.

The server is the command itself, in this process, with real requests over a socket. The law: every file is received or
refused with a reason that tells no folder of the server, every scan of a job has a result or a reason, half-sent and
senseless requests stop nobody, and a request to end is answered with a last line.
"""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from unittest import mock
from urllib.parse import quote, urlsplit

import numpy as np

from blindharmony.jobs.engine import Failure

_MOST_FILES, _MOST_BYTES = 8, 2**20
_ID = "0123456789abcdef"


class WorkHere:
    """A worker that is no process of its own, as starting one takes longer than all the rest."""

    returncode, pid = 0, None

    def __init__(self, environment=None, *, log=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def kill(self):
        pass

    def do(self, work, tell):
        try:
            return work.do(tell)
        except Exception as error:
            return Failure.of(error)


def earlier_jobs(folder, rng):
    """A page's folder as an earlier run, a full disk or a stranger may have left it."""
    (folder / "server").mkdir(parents=True)
    (folder / "server/lock").touch()
    scan = {"label": "a.nii.gz", "leaf": "a.nii.gz", "size": 1}
    job = {"id": _ID, "created": 1.0, "target": "ds002748", "target_name": "t", "scans": [scan]}
    records = [
        *(json.dumps({**job, **more}) for more in ({}, {"state": "running"}, {"state": "running", "interrupted": 9})),
        *(json.dumps({**job, **more}) for more in ({"format": 99}, {"scans": []}, {"state": "done", "created": 1e400})),
        *("", "{", "[" * 50_000, "null"),
    ]
    place = folder / "jobs" / _ID
    place.parent.mkdir()
    match rng.integers(6):
        case 0:
            place.touch()
        case 1:
            place.symlink_to("/nowhere")
        case 2:
            place.mkdir()
            os.mkfifo(place / "job.json")
        case 3:
            place.mkdir()
            (place / "job.json").symlink_to("/dev/zero")
        case _:
            place.mkdir()
            (place / "job.json").write_text(str(rng.choice(records)))
    match rng.integers(8):
        case 0:
            os.mkfifo(folder / "server/token")
        case 1:
            (folder / "server/token").write_text("short")
        case 2:
            (folder / "incoming").touch()
        case 3:
            (folder / "removed").symlink_to(folder)
        case 4:
            (folder / "jobs/notes.txt").write_text("mine")


class Visitor(threading.Thread):
    """Looks at the page as soon as there is a link, drops files, waits for a job, and asks the server to end.

    Args:
        root: The data set.
        link: Gives what the command has printed so far.
        seed: What is done.
    """

    def __init__(self, root, link, seed):
        super().__init__(daemon=True)
        self.root, self.link, self.rng = root, link, np.random.default_rng((seed, 27))
        self.broken, self.over, self.came = [], threading.Event(), False

    def run(self):
        while not (found := re.search(r"http://\S+", self.link())):
            if self.over.wait(0.005):
                return
        self.came = True
        try:
            self._visit(urlsplit(found[0]))
        except Exception as error:
            self.broken.append(f"the page did not answer: {type(error).__name__}: {error}")
        finally:
            os.kill(os.getpid(), self.rng.choice([signal.SIGTERM, signal.SIGINT]))

    def _visit(self, link):
        self.place, self.cookie = link.netloc, f"blindharmony-{link.port}={link.query.removeprefix('token=')}"
        half = socket.create_connection((link.hostname, link.port))
        half.sendall(self.rng.choice([b"GET / HTTP/1.1\r\nHost: x", b"\x16\x03\x01\x00\xa5", b"\r\n", b"PUT /api/upl"]))
        with half:
            if self.ask("GET", "/")[0] != 200:
                self.broken.append("no page")
            ids = self._dropped()
            self._senseless()
            if ids:
                self._job(ids)
            for path in ("/", "/api/jobs", "/results.zip"):
                if (code := self.ask("GET", path)[0]) not in (200, 404):
                    self.broken.append(f"{path} is answered with {code}")

    def ask(self, method, path, content=None, kind="application/octet-stream"):
        """Status and content of an answer."""
        connection = http.client.HTTPConnection(self.place, timeout=30)
        headers = {"Cookie": self.cookie, "Origin": f"http://{self.place}", "Content-Type": kind}
        connection.request(method, path, content, {**headers, "Connection": "close"})
        with connection.getresponse() as answer:
            body = answer.read()
        if answer.status >= 500 and answer.status != 507:
            self.broken.append(f"{method} {path[:80]} is answered with {answer.status}: {body[:200]!r}")
        return answer.status, body

    def _refused(self, what, body):
        """The law of a refusal."""
        said = json.loads(body)
        if not said.get("what") or not said.get("remedy"):
            self.broken.append(f"{what} is refused without a reason: {said}")
        if str(self.root.parent) in body.decode():
            self.broken.append(f"{what}: a folder of the server is told: {said}")

    def _dropped(self):
        """What a browser sends of a folder: plain files, and DICOM as a series."""
        files = [
            path
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.is_symlink() and path.stat().st_size < _MOST_BYTES
        ]
        dicom = [path for path in files if path.name.startswith("IM")]
        ids = []
        for path in [path for path in files if path not in dicom][:_MOST_FILES]:
            name = quote(path.name.encode("utf-8", "surrogateescape"))
            code, body = self.ask("PUT", f"/api/uploads?name={name}", path.read_bytes())
            if code == 201:
                ids.append(json.loads(body)["id"])
            else:
                self._refused(path.name, body)
        if dicom:
            asked = json.dumps({"name": "visit"}).encode()
            series = json.loads(self.ask("POST", "/api/series", asked, "application/json")[1])["id"]
            for path in dicom:
                self.ask("PUT", f"/api/series/{series}", path.read_bytes())
            code, body = self.ask("POST", f"/api/series/{series}/scan", b"", "application/json")
            if code != 201:
                self._refused("visit", body)
        return ids

    def _senseless(self):
        texts = [b"", b"[]", b"{", b"[" * 50_000, b'{"uploads": ["../.."], "target": "x"}', b"\xff" * 100]
        requests = [
            ("POST", "/api/jobs", texts[self.rng.integers(len(texts))]),
            ("GET", "/jobs/../../etc/passwd", None),
            ("GET", f"/jobs/{_ID}/files/..%2F..%2Fjob.json", None),
            ("DELETE", f"/api/uploads/{_ID}", None),
            ("POST", f"/api/jobs/{_ID}/again", b""),
            ("PUT", "/api/uploads?name=%00.nii", b"x"),
            ("PUT", "/api/uploads", b"x"),
        ]
        for number in self.rng.choice(len(requests), 2, replace=False):
            method, path, content = requests[number]
            self.ask(method, path, content, "application/json")

    def _job(self, ids):
        wanted = {"uploads": ids[:10], "target": "ds002748", "together": bool(self.rng.random() < 0.3)}
        code, body = self.ask("POST", "/api/jobs", json.dumps(wanted).encode(), "application/json")
        if code != 201:
            self.broken.append(f"a job of received scans is answered with {code}: {body[:200]!r}")
            return
        job_id, end = json.loads(body)["id"], time.monotonic() + 30
        job = None
        while time.monotonic() < end:
            jobs = json.loads(self.ask("GET", "/api/jobs")[1])["jobs"]
            job = next(job for job in jobs if job["id"] == job_id)
            if job["state"] in ("done", "failed"):
                break
            time.sleep(0.005)
        else:
            self.broken.append(f"a job is still {job['state']}")
        self.broken += [
            f"{scan['name']}: neither a result nor a reason"
            for scan in job["scans"]
            if not scan["files"] and not (scan.get("reason") or job["reason"])
        ]


@contextmanager
def visited(root, link, seed):
    """Somebody comes to the page while the block serves it; what was broken is in the visitor's ``broken``."""
    visitor = Visitor(root, link, seed)
    with mock.patch("blindharmony.serve.queue.WorkerProcess", WorkHere), suppress(KeyboardInterrupt):
        visitor.start()
        try:
            yield visitor
        finally:
            visitor.over.set()
            visitor.join(30)
