"""What a run is doing now, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]


class Stages:
    """Announces stages and takes their time.

    Args:
        progress: Called with a stage and the share of it that is done.

    Example:
        >>> stages = Stages(lambda stage, share: print(stage, share))
        >>> with stages("judging") as say:
        ...     say(0.5)
        judging 0.0
        judging 0.5
        >>> list(stages.seconds)
        ['judging']
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or (lambda stage, share: None)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[Callable[[float], None]]:
        """Within it, ``stage`` runs; what it gives tells how much of it is done."""
        began = time.perf_counter()
        self._progress(stage, 0.0)
        yield lambda share: self._progress(stage, share)
        self.seconds[stage] = round(time.perf_counter() - began, 2)
