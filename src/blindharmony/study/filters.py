"""Which scans are wanted: a BIDS filter file, as other BIDS programs take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blindharmony.errors import InputError
from blindharmony.image import parse_json, read_text

Filter = Callable[[Mapping[str, str]], bool]

_SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "ceagent": "ce",
    "run": "run",
    "part": "part",
    "suffix": "suffix",
}
_ALWAYS = {"datatype": "anat", "extension": ("nii", "nii.gz", ".nii", ".nii.gz")}


def read_filter(path: Path, suffix: str = "T1w") -> Filter:
    """Read a filter file: ``{"t1w": {"session": "02", "acquisition": null, "run": [1, 2]}}``.

    A value must be equal, a list must hold it, and null (or ``"Query.NONE"``) means that the name has no such word;
    ``"Query.ANY"`` that it has one. Runs are compared as numbers. Other parts of the file (``bold``, ...) are for
    other programs.

    Args:
        path: The file.
        suffix: Whose part counts.

    Raises:
        InputError: If it cannot be read or has words that are no entities.
    """
    try:
        content = parse_json(read_text(path))
        part = content.get(suffix.lower(), {})
        conditions = dict(part.items())
    except (ValueError, AttributeError):
        raise InputError("this is no filter file", remedy='write {"t1w": {"session": "02"}}', path=path) from None
    tests: dict[str, Any] = {}
    for name, value in conditions.items():
        if name in _ALWAYS:
            continue
        short = _SHORT.get(str(name), str(name))
        if short not in _SHORT.values():
            raise InputError(f"'{name}' is no entity of a scan", remedy=f"use {', '.join(_SHORT)}", path=path)
        tests[short] = value
    return lambda words: all(_fits(short, words.get(short), value) for short, value in tests.items())


def _fits(short: str, word: str | None, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_fits(short, word, w) for w in wanted)
    if wanted is None or wanted == "Query.NONE":
        return word is None
    if word is None:
        return False
    text = str(wanted).removeprefix(f"{short}-")
    same_run = short == "run" and word.isdigit() and text.isdigit() and int(word) == int(text)
    return wanted == "Query.ANY" or word == text or same_run
