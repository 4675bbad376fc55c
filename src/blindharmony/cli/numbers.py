"""Numbers on the command line, refused where they make no sense before any work begins."""

from __future__ import annotations

import argparse
import math


def whole(text: str) -> int:
    """A whole number that is not negative, such as a seed.

    Example:
        >>> whole("0")
        0
        >>> whole("-1")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: '-1' is no whole number from 0 to 9223372036854775807
    """
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0 to {2**63 - 1}")
    return int(text)


def count(text: str) -> int:
    """A whole number above zero, such as a number of steps.

    Example:
        >>> count("0")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: '0' is no whole number above zero
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above zero")
    return int(text)


def amount(text: str) -> float:
    """A finite number above zero, such as minutes.

    Example:
        >>> amount("0.5")
        0.5
        >>> amount("nan")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: 'nan' is no number above zero
    """
    if (value := _finite(text)) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above zero")
    return value


def gigabytes(text: str) -> float:
    """A finite number that is not negative, such as room on a disk.

    Example:
        >>> gigabytes("0")
        0.0
        >>> gigabytes("inf")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: 'inf' is no number from 0 up
    """
    if (value := _finite(text)) < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 up")
    return value


def _finite(text: str) -> float:
    """The number, or one below zero for what is none: every caller refuses that."""
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0
