"""What nibabel silently mends in a header while it opens a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from nibabel import imageglobals


@contextmanager
def header_repairs() -> Iterator[list[str]]:
    """Collect the values nibabel replaces in damaged headers, one sentence each, instead of printing them.

    Example:
        >>> with header_repairs() as repairs:
        ...     imageglobals.logger.warning("sform_code 99 not valid; setting to 0")
        >>> repairs
        ['the header was repaired: sform_code 99 not valid; setting to 0']
    """
    collector, logger = _Collector(), imageglobals.logger
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [collector], False
    try:
        yield collector.repairs
    finally:
        logger.handlers, logger.propagate = before


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.repairs: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = f"the header was repaired: {record.getMessage()}"
        # Other messages, such as an offset that old SPM disliked, change nothing; and each format tried
        # may say the same again.
        if "setting" in message and message not in self.repairs:
            self.repairs.append(message)
