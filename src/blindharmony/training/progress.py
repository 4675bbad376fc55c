"""How training says where it stands."""

from __future__ import annotations

from collections.abc import Callable

#: Called with a stage's name, the share of it (or of all levels) that is done, and numbers for a log.
Report = Callable[[str, float, dict[str, float]], None]
