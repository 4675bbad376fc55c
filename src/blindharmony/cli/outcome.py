"""What came of each scan: words for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, InternalError

if TYPE_CHECKING:
    from blindharmony.result import HarmonizeResult


@dataclass
class Outcomes:
    """Says how each scan ended, as it ends.

    Attributes:
        screen: Where to.
        json: Whether standard output gets JSON; problems go to standard error as words all the same.
        failed: How many scans have failed.
        code: Exit code so far.
    """

    screen: Screen
    json: bool = False
    failed: int = 0
    code: int = 0

    def done(self, path: Path, result: HarmonizeResult, files: Sequence[Path]) -> None:
        """A scan is harmonized and written."""
        seconds = sum(result.seconds.values())
        if self.json:
            self._line(
                scan=path,
                status="done",
                result=files[0],
                files=files,
                verdict=result.trust.level,
                headline=result.trust.headline,
                warnings=result.warnings,
                figures=result.figures,
                seconds=round(seconds, 1),
            )
            return
        self.screen.result(str(files[0]))
        self.screen.note(f"{path.name}: {result.trust.headline} ({seconds:.0f} s)")
        for warning in result.warnings:
            self.screen.problem(f"{path.name}: warning: {warning}")
        for what, ending in (("viewer", ".viewer.html"), ("report", ".html")):
            if file := next((f for f in files if f.name.endswith(ending)), None):
                if what == "report" and file.name.endswith(".viewer.html"):
                    continue
                self.screen.note(f"{path.name}: {what} in {file}")

    def fail(self, error: BlindHarmonyError, path: Path | None = None) -> None:
        """A scan has no result."""
        self.failed += 1
        self.code = max(self.code, InternalError.exit_code if isinstance(error, InternalError) else 1)
        self.screen.problem(f"blindharmony: {error}")
        if self.json:
            self._line(scan=path or error.path, status="failed", what=error.what, remedy=error.remedy)

    def _line(self, **content: Any) -> None:
        # One object a line, whatever the names: a reader may take line by line.
        self.screen.result(json.dumps(content, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.item()
