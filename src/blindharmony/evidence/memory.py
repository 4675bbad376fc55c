"""The most memory that a piece of work needed."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_KILO = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Seconds and the process's peak resident memory between entering and leaving.

    Linux forgets earlier peaks when asked; elsewhere the figure is the peak since the process began.

    Attributes:
        seconds: Wall clock.
        megabytes: Peak; NaN where the system does not tell.

    Example:
        >>> with Meter() as meter:
        ...     _ = bytearray(10)
        >>> meter.seconds >= 0
        True
    """

    seconds = float("nan")
    megabytes = float("nan")

    def __enter__(self) -> Meter:
        with suppress(OSError):
            _RESET.write_text("5")
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.megabytes = _peak()


def _peak() -> float:
    try:
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILO / 1024**2
