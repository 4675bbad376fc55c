"""What a person sees: progress on a terminal, plain lines elsewhere; :class:`Pace` knows how long the rest takes."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from blindharmony.errors import one_line

#: Seconds after which a silent command says where it stands, where there is no terminal.
SILENT = 30.0


def duration(seconds: float) -> str:
    """A time people read at a glance.

    Example:
        >>> duration(42), duration(754), duration(7300)
        ('42 s', '12 min 34 s', '2 h 1 min')
    """
    minutes, left = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def counted(number: int, what: str = "scan") -> str:
    """So many of something.

    Example:
        >>> counted(1), counted(3), counted(2, "process")
        ('1 scan', '3 scans', '2 processes')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"


class Screen:
    """Progress and messages of one command.

    Args:
        quiet: Print only results and problems.
        verbose: Print every stage as it begins.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A name that is no text on this terminal is shown with escapes, not answered with a crash.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        # Results go to standard output, everything about the way there to standard error.
        self.out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.quiet, self.verbose = quiet, verbose
        self.spoke = time.monotonic()

    def result(self, text: str) -> None:
        """A result, on standard output."""
        self.spoke = time.monotonic()
        self.out.print(text)

    def note(self, text: str) -> None:
        """Something worth knowing, on standard error."""
        if not self.quiet:
            self.spoke = time.monotonic()
            self.err.print(one_line(text))

    def detail(self, text: str) -> None:
        """Something that only those want to know who asked for it (``--verbose``)."""
        if self.verbose:
            self.note(text)

    def problem(self, text: str) -> None:
        """A warning or an error, always shown."""
        self.spoke = time.monotonic()
        self.err.print(one_line(text), style="red" if self.err.is_terminal else None)

    def failures(self, failed: int, scans: int) -> None:
        """How many of several scans failed; a single one has said so itself."""
        if failed and scans > 1:
            self.problem(f"blindharmony: {failed} of {scans} scans failed")

    @contextmanager
    def progress(self, title: str, *, left: bool = True) -> Iterator[Stage]:
        """A bar on a terminal; elsewhere a line whenever nothing was said for half a minute.

        Args:
            title: What stands before the stage.
            left: Whether the bar estimates the time left; else the stage's own words do.
        """
        if self.quiet or not self.err.is_terminal:
            stage = Stage(None, title, self.detail)
            with self._lines(stage):
                yield stage
            return
        columns = (
            _Words(),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            *((TimeRemainingColumn(),) if left else ()),
        )
        with Progress(*columns, console=self.err, transient=True) as bars:
            yield Stage(bars, title, self.detail)

    @contextmanager
    def _lines(self, stage: Stage) -> Iterator[None]:
        """Within it, a silent command says where it stands; from a thread, because the work does not look at clocks."""
        ended = threading.Event()

        def speak() -> None:
            while not ended.wait(max(0.05, self.spoke + SILENT - time.monotonic())):
                if stage.line and time.monotonic() - self.spoke >= SILENT:
                    self.note(stage.line)
                elif not stage.line:
                    self.spoke = time.monotonic()

        if self.quiet:
            yield
            return
        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            ended.set()
            speaker.join()


# Seconds that no estimate is exact to.
_FEW = 5.0


class _Words(ProgressColumn):
    """The words of the stage as they are when the bar is drawn, so that the time left goes down in between."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["stage"].line or task.description)


class Stage:
    """One moving line: a stage and the share of it that is done."""

    def __init__(self, bars: Progress | None, title: str = "", say: Callable[[str], None] = lambda line: None) -> None:
        self.bars, self.title, self._say = bars, title, say
        self._stage = self._words = ""
        self._began = time.monotonic()
        self._left: tuple[float, float] | None = None
        self.task = None if bars is None else bars.add_task(title, total=1.0, stage=self)

    @property
    def line(self) -> str:
        """Where the work stands now, in words; the time left goes down while nothing is heard, until it is over."""
        if self._left is None:
            return self._words
        now = time.monotonic()
        seconds = self._left[0] - (now - self._left[1])
        if seconds >= _FEW:
            return f"{self._words}, {duration(seconds)} left"
        if seconds > -_FEW:
            return f"{self._words}, a few seconds left"
        return f"{self._words} for {duration(now - self._began)}, slower than expected"

    def __call__(self, stage: str, share: float, *, left: float | None = None) -> None:
        """Show where the work stands.

        Args:
            stage: What is being done.
            share: Of all, from 0 to 1.
            left: Seconds until all is done, if that is known.
        """
        self._words = f"{self.title}: {stage}" if self.title else stage
        self._left = None if left is None else (left, time.monotonic())
        if begins := stage != self._stage:
            self._stage, self._began = stage, time.monotonic()
        if self.bars is not None and self.task is not None:
            self.bars.update(self.task, completed=share)
        if begins:
            self._say(self.line)


#: Units of work that the guessed pace counts as much as.
GUESSED = 5.0


class Pace:
    """How much of several pieces of work is done, and how long the rest takes.

    The first guess, a second a unit, counts as much as :data:`GUESSED` units that were measured; so there is an answer
    from the beginning, and a quick first step does not promise a quick end.

    Args:
        units: All work, in seconds of one core, about.
        workers: How many work at the same time.
        clock: Seconds, for tests.

    Example:
        >>> seconds = iter([0.0, 0.0, 70.0])
        >>> pace = Pace(40, clock=lambda: next(seconds))
        >>> pace.left()
        40.0
        >>> pace.done += 20
        >>> pace.share(), pace.left()
        (0.5, 60.0)
    """

    def __init__(self, units: float, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.units, self.done, self._workers, self._clock = units, 0.0, workers, clock
        self._began = clock()

    def share(self, begun: float = 0.0) -> float:
        """The share of all work that is done; ``begun`` units of the present piece are."""
        return min(1.0, (self.done + begun) / self.units) if self.units else 1.0

    def left(self, begun: float = 0.0) -> float | None:
        """Seconds left; None if nothing is."""
        done = self.done + begun
        if done >= self.units:
            return None
        return (self._clock() - self._began + GUESSED / self._workers) / (done + GUESSED) * (self.units - done)
