"""The scans of a BIDS data set, by name alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindharmony.errors import NothingFoundError, UsageError
from blindharmony.image import entities, output_name, split_name
from blindharmony.study.filters import Filter

# BIDS labels are letters and digits (since 1.9 also "+"): nothing that could lead out of a folder.
_LABEL = re.compile(r"[A-Za-z0-9+]+")


@dataclass(frozen=True)
class Scan:
    """One scan and where it stands in the data set.

    Attributes:
        root: The data set's folder.
        place: Path below it, POSIX.
        words: BIDS entities of the name, with ``suffix``.
    """

    root: Path
    place: str
    words: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.place

    @property
    def folder(self) -> str:
        """Where its results go below the output folder: ``sub-01/ses-1/anat``."""
        return self.place.rpartition("/")[0]

    @property
    def id(self) -> str:
        """A name that no other scan of the data set has: ``sub-01_ses-1_T1w``."""
        return split_name(self.place)[0]

    @property
    def result(self) -> str:
        """The harmonized scan's place below the output folder."""
        return f"{self.folder}/{output_name(self.place, 'harmonized')}"


def bare(labels: Sequence[str] | None, prefix: str) -> set[str] | None:
    """Labels as people write them, without prefix.

    Raises:
        UsageError: If one is no BIDS label.

    Example:
        >>> sorted(bare(["sub-01", "02"], "sub"))
        ['01', '02']
    """
    if labels is None:
        return None
    found = {label.removeprefix(f"{prefix}-") for label in labels}
    for label in sorted(found):
        if not _LABEL.fullmatch(label):
            raise UsageError(f"'{label}' is no BIDS label", remedy="labels are letters and digits")
    return found


def bids_scans(
    root: Path,
    *,
    suffix: str = "T1w",
    participants: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    only: Filter | None = None,
) -> tuple[list[Scan], list[str]]:
    """List ``sub-*/[ses-*/]anat/*_<suffix>.nii[.gz]``, sorted.

    Args:
        root: The data set's folder.
        suffix: Last word of the names.
        participants: Labels wanted, with or without ``sub-``; all if None.
        sessions: Labels wanted, with or without ``ses-``; all if None. Scans without session are kept only if None.
        only: Further conditions on the names.

    Returns:
        The scans, and a line for each file that looks like a scan but cannot be taken.

    Raises:
        NothingFoundError: If a participant or any scan is missing.
        UsageError: If a label is none.
    """
    wanted, visits = bare(participants, "sub"), bare(sessions, "ses")
    if not root.is_dir():
        raise NothingFoundError("no such folder", remedy="give a BIDS data set", path=root)
    known = sorted(p.name.removeprefix("sub-") for p in root.glob("sub-*") if p.is_dir())
    if missing := sorted((wanted or set()) - set(known)):
        some = ", ".join(known[:10]) + (" ..." if len(known) > 10 else "")
        raise NothingFoundError(f"no participant {', '.join(missing)}", remedy=f"there are {some}", path=root)
    scans: dict[str, Scan] = {}
    odd: list[str] = []
    for label in known:
        if wanted is not None and label not in wanted:
            continue
        for file in _images(root / f"sub-{label}", suffix):
            scan = Scan(root, file.relative_to(root).as_posix(), entities(file))
            if why := _misplaced(scan):
                odd.append(f"{scan.place}: {why}; passed over")
            elif (visits is None or scan.words.get("ses") in visits) and (only is None or only(scan.words)):
                first = scans.setdefault(scan.result, scan)
                if first is not scan:
                    odd.append(f"{scan.place}: its result would have the name of that of {first.place}; passed over")
    if not scans:
        looked = f"sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]"
        raise NothingFoundError(f"no scan found, looked for {looked}", remedy="check labels and filters", path=root)
    return list(scans.values()), odd


def _images(participant: Path, suffix: str) -> list[Path]:
    folders = [participant / "anat", *sorted(participant.glob("ses-*/anat"))]
    found = (file for folder in folders for file in sorted(folder.glob(f"sub-*_{suffix}.nii*")))
    # A broken link is kept: annexed files that were not fetched are to be reported, not forgotten.
    return [f for f in found if split_name(f)[1] in (".nii", ".nii.gz") and not f.is_dir()]


def _misplaced(scan: Scan) -> str:
    """Why a name does not fit its folder, if so."""
    if not all(_LABEL.fullmatch(value) for value in scan.words.values()) or not scan.words:
        return "no BIDS name"
    names = [f"{k}-{scan.words[k]}" for k in ("sub", "ses") if k in scan.words]
    return "" if scan.place.split("/")[:-2] == names else "the name does not fit the folder"
