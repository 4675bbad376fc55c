"""What is in the input files, without reading again what has not been touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blindharmony.image import parse_json, write_text

_THREADS = 4


def key_of(*parts: Any) -> str:
    """A short name of any JSON content: SHA-256, first 24 digits.

    Example:
        >>> key_of({"a": 1, "b": None}) == key_of({"b": None, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:24]


def hashed(paths: Iterable[Path], store: Path) -> dict[Path, str | None]:
    """SHA-256 of files, None for those that cannot be read.

    Hashes are kept with size, inode and times of modification and change; a file whose four are the same is not read
    again. (No program can set the time of change, so an exchanged file is noticed even if it was given the old date.)

    Args:
        paths: The files.
        store: Where hashes are kept.

    Raises:
        OutputError: If they cannot be kept.
    """
    known = _kept(store)
    wanted = sorted(set(paths))
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(wanted, pool.map(lambda p: _look(p, known), wanted), strict=True))
    fresh = {**known, **{str(p): entry for p, entry in found.items() if entry}}
    if fresh != known:
        write_text(store, json.dumps(fresh, indent=0, sort_keys=True) + "\n", overwrite=True)
    return {p: entry[-1] if entry else None for p, entry in found.items()}


def _look(path: Path, known: Mapping[str, list[Any]]) -> list[Any] | None:
    try:
        s = path.stat()
        # An inode can be larger than a number of JSON.
        state = [s.st_size, str(s.st_ino), s.st_mtime_ns, s.st_ctime_ns]
        old = known.get(str(path))
        if old and old[:-1] == state:
            return old
        with path.open("rb") as file:
            return [*state, hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError:
        return None


def _kept(store: Path) -> dict[str, list[Any]]:
    try:
        content = parse_json(store.read_text())
    except (OSError, ValueError):
        return {}  # a lost or damaged store costs time, nothing else
    return content if isinstance(content, dict) else {}
