"""A worker process: a line of JSON in, a line of JSON out, until the one who asks is gone."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from queue import SimpleQueue

from blindharmony.jobs.engine import call


def main() -> None:
    """Work until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        asked = json.loads(lines.get())
        answer = call(asked["function"], asked["arguments"])
        if detail := answer.pop("detail", ""):
            print(detail, file=sys.stderr, flush=True)
        try:
            text = json.dumps(answer)
        except (TypeError, ValueError):
            traceback.print_exc()
            text = json.dumps({"error": f"{asked['function']} returned no JSON", "kind": "TypeError"})
        answers.write(text.encode() + b"\n")
        answers.flush()


def _listen(lines: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    # The parent is gone, killed perhaps: nobody waits for this work, and a new run may already be doing it.
    os._exit(1)


if __name__ == "__main__":
    main()
