"""A page's server in the test's process, with the fake worker, and a browser that was given the link."""

import time

from fake_worker import FakeJob
from fastapi.testclient import TestClient

from blindharmony.serve.app import Desk, Page, choices, make_app
from blindharmony.serve.queue import Queue
from blindharmony.serve.security import Door
from blindharmony.serve.store import Store, Uploads

SITE = "http://127.0.0.1:8642"
MOST = 2**20


class Site:
    """A page's server in this process, and a browser that was given the link."""

    def __init__(self, folder, *, processes=1, room=0, most=20, clock=time.monotonic):
        uploads = Uploads(folder / "incoming", most_bytes=MOST, most=most, room=room, clock=clock)
        self.store = Store(folder, uploads)
        self.queue = Queue(self.store, processes=processes, work=FakeJob)
        self.door = Door("127.0.0.1", 8642, "0" * 32)
        self.app = make_app(Desk(self.store, self.queue, Page(choices(), str(folder), MOST, 10), self.door))
        self.client = TestClient(self.app, base_url=SITE, headers={"origin": SITE}, follow_redirects=False)
        self.client.__enter__()
        assert self.client.get("/", params={"token": self.door.token}).status_code == 303

    def close(self):
        self.client.__exit__(None, None, None)

    def upload(self, name, content):
        return self.client.put("/api/uploads", params={"name": name}, content=content)

    def add(self, content, *names, together=False):
        """A job of scans with these names; its id."""
        ids = [self.upload(name, content).json()["id"] for name in names]
        asked = {"uploads": ids, "target": "ds002748", "together": together}
        answer = self.client.post("/api/jobs", json=asked)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def job(self, job_id):
        return next((j for j in self.client.get("/api/jobs").json()["jobs"] if j["id"] == job_id), None)

    def until(self, job_id, *states):
        """The job, once it is in one of these states."""
        for _ in range(6000):
            job = self.job(job_id)
            if job["state"] in states and (job["state"] != "running" or "running" not in states or job["share"] >= 0.5):
                return job
            time.sleep(0.01)
        raise AssertionError(f"still {job['state']}")
