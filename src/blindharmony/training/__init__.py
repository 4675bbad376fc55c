"""Learn a target scanner from its scans."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from blindharmony.image import find_scans
from blindharmony.target import Target


def train(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]], out: str | PathLike[str], **options: Any
) -> Target:
    """Train a target model from files, folders or a BIDS study; see the options of :func:`train_target`.

    Example:
        >>> train("study/", "mysite.safetensors", minutes=10)                     # doctest: +SKIP
    """
    from blindharmony.training.target_fit import train_target

    given = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    return train_target(find_scans([Path(p) for p in given]), Path(out), **options)
