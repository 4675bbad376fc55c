"""Scans named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blindharmony.errors import InputError, NothingFoundError, UsageError
from blindharmony.image import find_masks, find_scans


def found_scans(
    items: Sequence[str | Path], labels: list[str] | None, suffix: str = "T1w"
) -> tuple[list[Path], list[NothingFoundError]]:
    """The scans, and inputs that hold none; it is an error only if no input holds any.

    Args:
        items: Files, folders or BIDS studies.
        labels: BIDS subjects, all if None.
        suffix: Last word of BIDS names.

    Raises:
        NothingFoundError: If there is no scan at all.
    """
    if labels or len(items) == 1:
        return find_scans(items, participant_labels=labels, suffix=suffix), []
    paths: list[Path] = []
    missing = []
    for item in items:
        try:
            seen = {p.resolve() for p in paths}
            paths += [p for p in find_scans([item], suffix=suffix) if p.resolve() not in seen]
        except NothingFoundError as error:
            missing.append(error)
    if not paths:
        raise missing[0]
    return paths, missing


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
