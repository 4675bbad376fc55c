"""What preparation found about a scan, kept in a folder: a scan that is needed twice is prepared once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from blindharmony.image import write_bytes
from blindharmony.prep.step import Params
from blindharmony.version import VERSION


def kept_name(*parts: NDArray[Any] | str | float | None) -> str:
    """A file name that changes with any of the inputs of preparation, and with the version of this package.

    Example:
        >>> kept_name(np.zeros(3), "recipe") == kept_name(np.zeros(3), "another")
        False
    """
    digest = hashlib.sha256(VERSION.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return f"{digest.hexdigest()[:24]}.safetensors"


def keep(path: Path, steps: Sequence[Params]) -> None:
    """Write the numbers of every step, in order."""
    arrays, plain = {}, []
    for index, params in enumerate(steps):
        rest = {}
        for name, value in params.items():
            if isinstance(value, np.ndarray):
                arrays[f"{index}.{name}"] = np.ascontiguousarray(value)
            else:
                rest[name] = value
        plain.append(rest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(arrays, {"steps": json.dumps(plain)}), overwrite=True)


def kept(path: Path) -> list[Params] | None:
    """The numbers of every step, or None if they are not there or damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "np") as file:
            plain: list[dict[str, Any]] = json.loads(file.metadata()["steps"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                index, name = key.split(".", 1)
                plain[int(index)][name] = file.get_tensor(key)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError):
        return None
    return list(plain)
