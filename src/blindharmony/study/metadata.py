"""What the sidecars say about a scan, those above it included."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from blindharmony.errors import BlindHarmonyError
from blindharmony.image import entities, parse_json, read_text, split_name
from blindharmony.study.layout import Scan


def metadata(scan: Scan) -> dict[str, Any]:
    """Metadata of a scan by the BIDS inheritance principle: the nearer and the more specific file wins.

    A JSON file applies if it has the scan's suffix, lies in the scan's folder or one above, and has no entity that the
    scan has not. One that cannot be read says nothing (:func:`damaged`).

    Source:
        BIDS specification 1.10, "The Inheritance Principle".
    """
    found: dict[str, Any] = {}
    for file in _applying(scan):
        found |= _content(file) or {}
    return found


def damaged(scan: Scan) -> str:
    """Name of a sidecar that should tell about a scan and cannot be read; empty if all can."""
    return next((file.name for file in _applying(scan) if _content(file) is None), "")


def _applying(scan: Scan) -> list[Path]:
    """The sidecars of a scan, the farthest and least specific first."""
    found: list[Path] = []
    folder = scan.root
    for part in ("", *scan.folder.split("/")):
        folder = folder / part
        applying = [
            (len(words), file)
            for file, words in _sidecars(folder, scan.words["suffix"])
            if all(scan.words.get(k) == v for k, v in words.items())
        ]
        found += [file for _, file in sorted(applying)]
    return found


# Folders near the root are asked for by every scan.
@lru_cache(maxsize=64)
def _sidecars(folder: Path, suffix: str) -> tuple[tuple[Path, dict[str, str]], ...]:
    return tuple((file, _words(file)) for file in sorted(folder.glob(f"*{suffix}.json")) if _ends(file, suffix))


def _ends(file: Path, suffix: str) -> bool:
    return split_name(file)[0].split("_")[-1] == suffix


def _words(file: Path) -> dict[str, str]:
    """Entities of a name that need not begin with ``sub-``.

    Example:
        >>> _words(Path("acq-mprage_T1w.json"))
        {'acq': 'mprage', 'suffix': 'T1w'}
    """
    words = entities(f"sub-x_{file.name}")
    if file.name.startswith("sub-"):
        return entities(file)
    return {k: v for k, v in words.items() if k != "sub"}


@lru_cache(maxsize=64)
def _content(file: Path) -> dict[str, Any] | None:
    try:
        # A name of a hospital in the letters of an old converter, or a NaN in some field, hide no serial number.
        content = parse_json(read_text(file, other_letters=True), finite=False)
    except (BlindHarmonyError, ValueError):
        return None
    return content if isinstance(content, dict) else None
