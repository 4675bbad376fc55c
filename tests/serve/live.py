"""A server in a process of its own, and a plain client with the link."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

FAKE_SERVER = (sys.executable, str(Path(__file__).with_name("fake_server.py")))
REAL_SERVER = (sys.executable, "-m", "blindharmony.cli.main", "serve", "--port", "0", "--folder")


class Live:
    """A running server; ``words`` go behind its command."""

    def __init__(self, command, folder, *words):
        source = os.pathsep.join([str(Path(__file__).parents[2] / "src"), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": source}
        self.folder = folder
        self.process = subprocess.Popen(
            [*command, str(folder), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.link = self.process.stdout.readline().strip()
        parts = urlsplit(self.link)
        self.site = f"http://{parts.netloc}"
        self.cookie = f"blindharmony-{parts.port}={parts.query.removeprefix('token=')}"

    def ask(self, path, method="GET", content=None, kind="application/octet-stream"):
        """Status and content of an answer."""
        headers = {"Cookie": self.cookie, "Origin": self.site, "Content-Type": kind}
        try:
            with urlopen(Request(self.site + path, content, headers, method=method), timeout=90) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def add(self, files, *, target="ds002748", together=False):
        """A job; its id."""
        ids = []
        for name, content in files.items():
            status, said = self.ask(f"/api/uploads?name={quote(name)}", "PUT", content)
            assert status == 201, said
            ids.append(json.loads(said)["id"])
        asked = json.dumps({"uploads": ids, "target": target, "together": together}).encode()
        status, said = self.ask("/api/jobs", "POST", asked, "application/json")
        assert status == 201, said
        return json.loads(said)["id"]

    def jobs(self):
        return {job["id"]: job for job in json.loads(self.ask("/api/jobs")[1])["jobs"]}

    def until(self, job_id, *states, seconds=90.0, share=0.0):
        """The job, once it is there."""
        end = time.time() + seconds
        while time.time() < end:
            job = self.jobs()[job_id]
            if job["state"] in states and job["share"] >= share:
                return job
            time.sleep(0.02 if seconds < 100 else 0.5)
        raise AssertionError(f"still {job}")

    def end(self, signal):
        """Send a signal; what it said until the end."""
        self.process.send_signal(signal)
        said = self.process.stdout.read()
        self.process.wait(60)
        self.process.stdout.close()
        self.process.stderr.close()
        return said

    def peak_mb(self):
        """Most memory that the server itself ever held."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
