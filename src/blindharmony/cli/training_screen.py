"""What a person sees while a target is trained: stage, held-out curve, time left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from blindharmony.cli.console import Screen, Stage

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 12


def spark(values: list[float]) -> str:
    """Values as a line of small bars, lowest to highest.

    Example:
        >>> spark([3.0, 2.0, 1.0])
        '█▅▁'
    """
    low, high = min(values), max(values)
    return "".join(_BARS[round(7 * (v - low) / (high - low))] if high > low else _BARS[0] for v in values)


def duration(seconds: float) -> str:
    """A time people read at a glance.

    Example:
        >>> duration(42), duration(754), duration(7300)
        ('42 s', '12 min 34 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class TrainingScreen:
    """Turns the reports of a training run into a moving line on a terminal and into plain lines elsewhere.

    Args:
        screen: Where to.
        stage: The moving line.
        clock: Seconds, for tests.
        as_json: Whether standard output gets one JSON object where a plain line would stand.
    """

    def __init__(
        self, screen: Screen, stage: Stage, clock: Callable[[], float] = time.monotonic, *, as_json: bool = False
    ) -> None:
        self.screen, self.stage, self.clock, self.as_json = screen, stage, clock, as_json
        self.name = self.group = ""
        self.costs: list[float] = []
        self.since = self.start = 0.0

    def __call__(self, name: str, done: float, numbers: dict[str, float]) -> None:
        """Show one report: a stage, the share of its group that is done, numbers."""
        terminal = self.screen.err.is_terminal
        # Levels of the flow share one scale from 0 to 1; every other stage has its own.
        group = "flow" if "step" in numbers else name.split(" ")[0]
        if group != self.group:
            self.group, self.since, self.start = group, self.clock(), done
        if name != self.name:
            self.name, self.costs = name, []
            if "held_out" not in numbers:
                self._object(name, done, numbers)
            if not terminal:
                self.screen.note(f"{name}{self._left(done)}")
        if "held_out" in numbers:
            self.costs.append(numbers["held_out"])
            self._object(name, done, numbers)
            if not terminal:
                self.screen.note(f"{name}: step {numbers['step']:.0f}{self._cost()}{self._left(done)}")
        self.stage(f"{name}{self._cost()}{self._left(done)}", done)

    def _cost(self) -> str:
        if not self.costs:
            return ""
        return f", held out {self.costs[-1]:.4f} nats {spark(self.costs[-_SHOWN:])}"

    def _left(self, done: float) -> str:
        seconds = self._seconds_left(done)
        return "" if seconds is None else f", {duration(seconds)} left"

    def _seconds_left(self, done: float) -> float | None:
        """Of the present group; None where nothing is known yet, or where stages are too short to ask."""
        share = done - self.start
        if self.group not in ("flow", "preparing") or share < 0.005 or done >= 1:
            return None
        return (self.clock() - self.since) * (1 - done) / share

    def _object(self, name: str, done: float, numbers: dict[str, float]) -> None:
        if self.as_json:
            seconds = self._seconds_left(done)
            left = None if seconds is None else round(seconds)
            content = {"stage": name, "done": round(done, 4), "seconds_left": left, **numbers}
            self.screen.result(json.dumps({k: v for k, v in content.items() if v == v}))
