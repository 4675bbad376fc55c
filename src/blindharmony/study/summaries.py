"""Scan summaries as files."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from blindharmony.errors import InputError
from blindharmony.harmonization.summary import ScanSummary
from blindharmony.image import write_bytes


def keep_summary(path: Path, summary: ScanSummary) -> Path:
    """Write a summary, about 10 kB, to the last digit.

    Raises:
        OutputError: If it cannot be written.
    """
    arrays = {"quantiles": summary.quantiles, "whole": summary.whole, "person": summary.person}
    return write_bytes(path, save(arrays, {"surprise": float(summary.surprise).hex()}), overwrite=True)


def kept_summary(path: Path) -> ScanSummary:
    """Read a summary.

    Raises:
        InputError: If it is not there or damaged.

    Example:
        >>> import tempfile, numpy as np
        >>> one = ScanSummary(np.arange(2.0), np.arange(3.0), np.ones(2), 0.1)
        >>> kept_summary(keep_summary(Path(tempfile.mkdtemp(), "a.safetensors"), one)).surprise
        0.1
    """
    try:
        content = path.read_bytes()
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        surprise = _surprise(content[8 : 8 + length])
        return ScanSummary(arrays["quantiles"], arrays["whole"], arrays["person"], surprise)
    except (OSError, SafetensorError, KeyError, ValueError):
        raise InputError("this scan summary is damaged", remedy="delete it and run again", path=path) from None


def _surprise(header: bytes) -> float:
    import json

    return float.fromhex(json.loads(header)["__metadata__"]["surprise"])
