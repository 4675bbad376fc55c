"""Text and JSON of strangers: read within limits, and every way to be wrong is one exception."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from blindharmony.errors import InputError

MAX_TEXT = 2**23
_BEYOND = 2**63


def read_text(path: Path, error: type[InputError] = InputError, *, other_letters: bool = False) -> str:
    """A text file of at most 8 MiB, with or without a byte order mark.

    Args:
        path: The file.
        error: What to raise.
        other_letters: Take what is no UTF-8 for Latin-1.

    Raises:
        InputError: If it cannot be read, is no regular file, no UTF-8 text, or larger.
    """
    try:
        if path.exists() and not path.is_file():
            raise error("this is no regular file", remedy="give a text file", path=path)
        if path.stat().st_size > MAX_TEXT:
            raise error(f"more than {MAX_TEXT >> 20} MiB of text", remedy="give another file", path=path)
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"cannot be read ({problem.strerror})", remedy="check the path", path=path) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if other_letters:
            return content.decode("latin-1")
        raise error("cannot be read: this is no text", remedy="give a text file (UTF-8)", path=path) from None


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of a JSON document.

    Args:
        text: The document.
        finite: Whether NaN, infinity and numbers beyond any float are refused; whole ones of more than 64 bits always
            are.

    Raises:
        ValueError: If it is no JSON, nested too deeply, or holds numbers that are none.

    Example:
        >>> parse_json('{"a": [1, 2.5]}')
        {'a': [1, 2.5]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        if finite:
            return json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_whole)
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number")
    return value


def _whole(text: str) -> int:
    # 10**400 is a legal JSON number: what is computed with it would overflow.
    value = int(text) if len(text) <= 20 else _BEYOND
    if not -_BEYOND <= value < _BEYOND:
        raise ValueError(f"{text[:20]} is too large")
    return value
