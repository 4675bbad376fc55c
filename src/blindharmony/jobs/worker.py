"""A worker process: a line of work in, lines of JSON out, until the one who asks is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from queue import SimpleQueue

from blindharmony.commands import end_programs
from blindharmony.jobs.engine import Progress, done_line, packed_reply
from blindharmony.jobs.processes import give_memory_back, keep_memory


def main() -> None:
    """Work until standard input ends."""
    keep_memory()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    def say(line: bytes) -> None:
        answers.write(line)
        answers.flush()

    while True:
        say(done_line(lines.get(), lambda stage, share: say(packed_reply(Progress(stage=stage, share=share)))))
        give_memory_back()


def _listen(lines: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    # The parent is gone, killed perhaps, or has enough: nobody waits for this work, and a new run may already be doing
    # it. What the work has started ends too.
    end_programs()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
