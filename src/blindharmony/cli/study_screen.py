"""What a person sees while a cohort runs: stage, scans done, failures, time left; or JSON for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from blindharmony.cli.console import Screen, Stage
from blindharmony.cli.training_screen import duration
from blindharmony.image import split_name

_STAGES = {"look": "looking at scans", "fit": "fitting scanners", "harmonize": "harmonizing"}
# Of a record, what a reader of JSON lines wants; profiles and fingerprints stay in the ledger.
_TOLD = (
    "verdict",
    "headline",
    "warnings",
    "distance_before",
    "distance_after",
    "excess_before",
    "excess_after",
    "seconds",
)


class StudyScreen:
    """Turns what a cohort run says into a moving line on a terminal, plain lines elsewhere, or JSON.

    Args:
        screen: Where to.
        stage: The moving line.
        as_json: Whether standard output gets one JSON object for each scan that ends.
        clock: Seconds, for tests.
    """

    def __init__(
        self, screen: Screen, stage: Stage, *, as_json: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.screen, self.stage, self.as_json, self.clock = screen, stage, as_json, clock
        self.start = clock()
        self.done = 0
        self.failed: set[str] = set()

    def __call__(self, line: str, tally: Any) -> None:
        """Show where the run stands, and a line if there is one."""
        now = f"{tally.finished} of {tally.total} scans{self._failures(tally)}{self._left(tally)}"
        self.stage(f"{_STAGES.get(tally.stage, 'starting')}, {now}", tally.finished / max(1, tally.total))
        if self.as_json:
            self._objects(tally)
        if "failed:" in line:
            self.screen.problem(f"blindharmony: {line}")
        elif line:
            more = "" if self.screen.err.is_terminal else f"{self._failures(tally)}{self._left(tally)}"
            self.screen.note(f"[{tally.finished}/{tally.total}] {line}{more}")

    def _failures(self, tally: Any) -> str:
        return f", {len(tally.failed)} failed" if tally.failed else ""

    def _left(self, tally: Any) -> str:
        finished = tally.pieces[0]
        if finished < 2 or tally.left <= 0:
            return ""
        return f", about {duration((self.clock() - self.start) / finished * tally.left)} left"

    def _objects(self, tally: Any) -> None:
        if tally.done > self.done:
            self.done = tally.done
            record = tally.last
            told = {key: record[key] for key in _TOLD if key in record}
            place = str(record.get("scan", ""))
            self._line(
                scan=split_name(place)[0], place=place, status="done", outputs=sorted(record.get("outputs", {})), **told
            )
        for scan in sorted(set(tally.failed) - self.failed):
            self.failed.add(scan)
            self._line(scan=scan, status="failed", reason=tally.failed[scan])

    def _line(self, **content: Any) -> None:
        self.screen.result(json.dumps(content))

    def end(self, tally: Any) -> None:
        """The last JSON object: how many scans ended how."""
        if self.as_json:
            counts = {"done": tally.done, "done_before": tally.kept, "failed": len(tally.failed), "scans": tally.total}
            self._line(status="end", **counts)
