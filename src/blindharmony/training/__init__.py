"""Learn a target scanner from its scans."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from blindharmony.image import find_scans
from blindharmony.target import Target


def train(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    suffix: str = "T1w",
    device: str = "cpu",
    **options: Any,
) -> Target:
    """Train a target model from files, folders or a BIDS study.

    Args:
        inputs: Where the target's scans are.
        out: File of the model.
        suffix: Which scans of a BIDS study are meant.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        options: See :func:`~blindharmony.training.target_fit.train_target`.

    Raises:
        BlindHarmonyError: As there; one line that names the file, what is wrong and what to do.

    Example:
        >>> train("study/", "mysite.safetensors", minutes=10)                     # doctest: +SKIP
    """
    from blindharmony.device import resolved_device
    from blindharmony.training.target_fit import train_target
    from blindharmony.training.team import Compute

    given = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    scans = find_scans([Path(p) for p in given], suffix=suffix)
    options.setdefault("compute", Compute(device=resolved_device(device)))
    return train_target(scans, Path(out), suffix=suffix, **options)
