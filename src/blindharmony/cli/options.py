"""Options that several commands have.

Numbers on the command line, refused where they make no sense before any work begins.

Scans named on the command line.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from blindharmony.cli.console import Screen
from blindharmony.errors import InputError, NothingFoundError, UsageError
from blindharmony.io.bids import Listing, find_masks, joined, list_scans


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


def found_scans(
    items: Sequence[str | Path], labels: list[str] | None, suffix: str, screen: Screen
) -> tuple[list[Path], list[NothingFoundError]]:
    """The scans, and inputs that hold none; it is an error only if no input holds any. What is passed over is said.

    Args:
        items: Files, folders or BIDS studies.
        labels: BIDS subjects, all if None.
        suffix: Last word of BIDS names.
        screen: Where to say what is passed over.

    Raises:
        NothingFoundError: If there is no scan at all.
    """
    listings: list[Listing] = []
    missing: list[NothingFoundError] = []
    if labels or len(items) == 1:
        listings.append(list_scans(items, participant_labels=labels, suffix=suffix))
    else:
        for item in items:
            try:
                listings.append(list_scans([item], suffix=suffix))
            except NothingFoundError as error:
                missing.append(error)
    listing = joined(listings)
    if not listing.scans:
        raise missing[0]
    for line in listing.lines():
        screen.problem(f"blindharmony: warning: {line}")
    return list(listing.scans), missing


def given_masks(
    mask: Path | None, folder: Path | None, paths: list[Path], *, command: str | None = None
) -> dict[Path, Path]:
    """The brain masks of scans that were given one, by ``--mask`` or ``--mask-dir``.

    Raises:
        InputError: If there is no such file, or a scan has no mask in the folder and no ``command`` makes one.
        UsageError: If one mask is given for several scans, or both options.
    """
    if mask is None:
        return find_masks(paths, folder, command=command)
    if folder is not None:
        raise UsageError("--mask and --mask-dir exclude each other", remedy="use one of them")
    if not mask.exists():
        raise InputError("no such mask", remedy="check the path", path=mask)
    if len(paths) != 1:
        raise UsageError("--mask goes with one scan", remedy="give one scan with it, or leave --mask out")
    return {paths[0]: mask}
