"""What a person sees: progress on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from blindharmony.errors import one_line


class Screen:
    """Progress and messages of one command.

    Args:
        quiet: Print only results and problems.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A name that is no text on this terminal is shown with escapes, not answered with a crash.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        # Results go to standard output, everything about the way there to standard error.
        self.out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.quiet = quiet

    def result(self, text: str) -> None:
        """A result, on standard output."""
        self.out.print(text)

    def note(self, text: str) -> None:
        """Something worth knowing, on standard error."""
        if not self.quiet:
            self.err.print(one_line(text))

    def problem(self, text: str) -> None:
        """A warning or an error, always shown."""
        self.err.print(one_line(text), style="red" if self.err.is_terminal else None)

    def failures(self, failed: int, scans: int) -> None:
        """How many of several scans failed; a single one has said so itself."""
        if failed and scans > 1:
            self.problem(f"blindharmony: {failed} of {scans} scans failed")

    @contextmanager
    def progress(self, title: str, *, left: bool = True, lines: bool = False) -> Iterator[Stage]:
        """A bar on a terminal; nothing moves elsewhere.

        Args:
            title: What stands before the stage.
            left: Whether the bar estimates the time left; else the stage's own words do.
            lines: Whether every new stage is a line where there is no terminal: for stages that take minutes.
        """
        if self.quiet or not self.err.is_terminal:
            yield Stage(None, title, self.note if lines else None)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            *((TimeRemainingColumn(),) if left else ()),
        )
        with Progress(*columns, console=self.err, transient=True) as bars:
            yield Stage(bars, title)


class Stage:
    """One moving line: a stage and the share of it that is done."""

    def __init__(self, bars: Progress | None, title: str = "", say: Callable[[str], None] | None = None) -> None:
        self.bars, self.title, self._say, self._last = bars, title, say, ""
        self.task = None if bars is None else bars.add_task(title, total=1.0)

    def __call__(self, stage: str, share: float) -> None:
        """Show where the work stands."""
        line = f"{self.title}: {stage}" if self.title else stage
        if self.bars is not None and self.task is not None:
            self.bars.update(self.task, description=line, completed=share)
        elif self._say is not None and line != self._last:
            self._last = line
            self._say(line)
