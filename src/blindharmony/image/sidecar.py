"""The JSON file beside an image."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.image.atomic import write_text


def file_sha256(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sidecar(path: str | PathLike[str], mapping: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write a mapping as JSON, keys sorted, so that equal content gives equal bytes.

    NumPy values become numbers and lists, paths become strings, NaN and infinity become null.

    Raises:
        OutputError: If the file exists already or cannot be written.
        TypeError: If a value has no JSON form.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_sidecar(f"{folder}/a.json", {"b": np.float32(1.5), "a": float("nan")}).read_text().split()
        ['{', '"a":', 'null,', '"b":', '1.5', '}']
    """
    text = json.dumps(_plain(mapping), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n", overwrite=overwrite)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
