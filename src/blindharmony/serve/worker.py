"""A worker process: one job in as a line of JSON, lines of JSON out, then it ends."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from blindharmony.errors import BlindHarmonyError


def main() -> None:
    """Do one job."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from blindharmony.serve.work import failure, run

    try:
        run(asked, tell)
        tell({"end": True})
    except BlindHarmonyError as error:
        found = failure(error)
        tell({"end": True, "reason": found.reason, "remedy": found.remedy})
    except MemoryError:
        why = "there is not enough memory"
        tell({"end": True, "reason": why, "remedy": "close other programs and press Try again"})


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread that holds its lock would make Python's own end wait, then abort.
    while os.read(0, 4096):
        pass
    # The parent is gone, killed perhaps: its successor will do this job again.
    os._exit(1)


if __name__ == "__main__":
    main()
