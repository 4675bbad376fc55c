"""One worker process, seen from outside: what it says, and how to end it at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blindharmony.cores import THREADS
from blindharmony.image import parse_json

WORKER = (sys.executable, "-m", "blindharmony.serve.worker")
_LONGEST_LINE = 2**20


class WorkerProcess:
    """A fresh Python that does one job (no fork: torch and ITK have threads, which do not survive one).

    Args:
        asked: The job.
        log: File for what it prints.
        command: The program.
        threads: How many it may use; as it likes if None.
    """

    def __init__(
        self, asked: Mapping[str, Any], log: Path, *, command: Sequence[str] = WORKER, threads: int | None = None
    ) -> None:
        paths = os.pathsep.join(p for p in sys.path if p)
        limits = {} if threads is None else dict.fromkeys(THREADS, str(threads))
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": paths, **limits},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        assert self._process.stdin is not None
        # One that died at once is noticed by its silence.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it is gone."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(_LONGEST_LINE):
            with contextlib.suppress(ValueError):
                message = parse_json(line)
                if isinstance(message, dict):
                    yield message
        self._close()

    def kill(self) -> None:
        """End it and whatever it started, at once; nothing happens if it has ended."""
        # After wait() its number may be another process's.
        if self._process.returncode is not None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    @property
    def code(self) -> int | None:
        """How it ended: its exit code, or minus the signal that killed it."""
        return self._process.returncode
