"""Which files are scans: folders, BIDS data sets, masks beside them, filters.

Brain masks that another program has made of the same scans.

Find the scans meant by files, folders and BIDS data sets.

Which scans are wanted: a BIDS filter file, as other BIDS programs take it.

The scans of a BIDS data set, by name alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from blindharmony.errors import InputError, NothingFoundError, UsageError
from blindharmony.files import IMAGE_EXTENSIONS, entities, mask_name, output_name, parse_json, read_text, split_name


def find_mask(folder: Path, scan: Path) -> Path | None:
    """A scan's own brain mask in a folder of derivatives (fMRIPrep, sMRIPrep, ...), in the scan's own space.

    Looked for is ``sub-01[/ses-1]/anat/sub-01[_ses-1][...]_desc-brain_mask.nii[.gz]`` with the scan's entities and no
    ``space-``; a mask of the participant as a whole is taken if it has no entity that the scan has not. For a scan
    that has no BIDS name it is ``NAME_desc-brain_mask.nii.gz``. Whether it lies on the scan's grid is checked when it
    is used.

    Args:
        folder: The derivatives.
        scan: The scan.
    """
    own = {k: v for k, v in entities(scan).items() if k not in ("suffix", "desc")}
    if "sub" not in own:
        plain = folder / mask_name(scan)
        return plain if plain.exists() else None
    sub = f"sub-{own['sub']}"
    best: tuple[int, str] | None = None
    for below in (*([f"{sub}/ses-{own['ses']}/anat"] if "ses" in own else []), f"{sub}/anat"):
        for file in sorted((folder / below).glob(f"{sub}_*desc-brain_mask.nii*")):
            words = entities(file)
            rest = {k: v for k, v in words.items() if k not in ("suffix", "desc")}
            if words.get("desc") != "brain" or any(own.get(k) != v for k, v in rest.items()):
                continue
            # The more entities agree, the more surely it is this scan's.
            best = max(best or (0, ""), (len(rest), str(file)))
    return Path(best[1]) if best else None


def find_masks(scans: Sequence[Path], folder: Path | None, *, command: str | None = None) -> dict[Path, Path]:
    """The brain mask of every scan in a folder of derivatives, see :func:`find_mask`.

    Args:
        scans: Files.
        folder: Where their masks are; there are none if it is None.
        command: What finds the brain of those without.

    Raises:
        UsageError: If there is no such folder.
        InputError: If a scan has no mask there, and no ``command`` makes one: the included network would find its
            brain, which is not what was asked for.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", remedy="check --mask-dir")
    found = {scan: mask for scan in scans if (mask := find_mask(folder, scan))}
    without = [scan for scan in scans if scan not in found]
    if without and command is None:
        raise InputError(
            f"no brain mask for this scan in {folder}" + (f", and for {len(without) - 1} more" if without[1:] else ""),
            remedy="add it, or give --mask-command for scans without",
            path=without[0],
        )
    return found


# Of an .img/.hdr pair only one half is listed.
_LISTED = frozenset(IMAGE_EXTENSIONS) - {".hdr"}
_NOT_SCANS = {"mask", "dseg", "desc-harmonized", "desc-harmonizedSD"}


def find_scans(
    inputs: Sequence[str | PathLike[str]],
    *,
    participant_labels: Sequence[str] | None = None,
    suffix: str = "T1w",
) -> list[Path]:
    """List the scans meant by each input: a file, a folder of images, or a BIDS data set.

    A folder is a BIDS data set when it has a ``dataset_description.json`` or ``sub-*`` folders; there,
    ``sub-*/[ses-*/]anat/*_<suffix>.nii[.gz]`` are taken. In other folders all images are taken, without
    subfolders. Masks, segmentations and earlier results are passed over unless named as files.

    Args:
        inputs: Files and folders, in the order wanted.
        participant_labels: Participants of BIDS data sets to keep, with or without ``sub-``.
        suffix: Last word of the BIDS names wanted.

    Returns:
        Each scan once, sorted within its input.

    Raises:
        NothingFoundError: If an input, a participant or any scan is missing.
        UsageError: If participants are asked for where no input is a BIDS data set.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("a.nii.gz", "a_mask.nii.gz", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     find_scans([folder])[0].name
        'a.nii.gz'
    """
    folders = [Path(item) for item in inputs]
    if not folders:
        raise NothingFoundError("no input was given", remedy="name a scan, a folder or a BIDS data set")
    try:
        wanted = _labels(folders, participant_labels)
    except OSError as error:
        raise NothingFoundError(f"cannot be read ({error})", remedy="check the path") from None
    # A scan may be named directly and through its folder; links and spelling do not make it another.
    scans: dict[Path, Path] = {}
    for item in folders:
        for scan in _scans(item, suffix, wanted):
            scans.setdefault(scan.resolve(), scan)
    return list(scans.values())


def is_bids(folder: Path) -> bool:
    """Say whether a folder is a BIDS data set."""
    return (folder / "dataset_description.json").is_file() or any(_participants(folder))


def _labels(inputs: list[Path], labels: Sequence[str] | None) -> set[str] | None:
    if labels is None:
        return None
    sets = [item for item in inputs if item.is_dir() and is_bids(item)]
    if not sets:
        raise UsageError("participant labels need a BIDS data set", remedy="leave them out or name one")
    wanted = {label.removeprefix("sub-") for label in labels}
    known = {label for folder in sets for label in _participants(folder)}
    if unknown := sorted(wanted - known):
        raise NothingFoundError(
            f"no participant {', '.join(unknown)}",
            remedy=f"there are {_some(sorted(known))}",
            path=sets[0],
        )
    return wanted


def _scans(item: Path, suffix: str, wanted: set[str] | None) -> list[Path]:
    try:
        return _listed(item, suffix, wanted)
    except OSError as error:
        raise NothingFoundError(f"cannot be read ({error.strerror})", remedy="check the path", path=item) from None


def _listed(item: Path, suffix: str, wanted: set[str] | None) -> list[Path]:
    if item.is_file() or (item.is_symlink() and not item.is_dir()):
        return [item]
    if not item.exists():
        raise NothingFoundError("no such file or folder", remedy="check the path", path=item)
    if is_bids(item):
        looked = f"sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]"
        found = _bids_scans(item, suffix, wanted)
    else:
        looked = f"images ({', '.join(sorted(_LISTED))})"
        found = [file for file in sorted(item.iterdir()) if _is_scan(file)]
    if not found:
        raise NothingFoundError(
            f"no scan found, looked for {looked}", remedy="check the folder and the suffix", path=item
        )
    return found


def _bids_scans(root: Path, suffix: str, wanted: set[str] | None) -> list[Path]:
    labels = [label for label in _participants(root) if wanted is None or label in wanted]
    anats = [
        anat
        for label in labels
        for pattern in ("anat", "ses-*/anat")
        for anat in sorted((root / f"sub-{label}").glob(pattern))
    ]
    files = (file for anat in anats for file in sorted(anat.glob(f"sub-*_{suffix}.nii*")))
    return [file for file in files if _is_scan(file)]


def _participants(root: Path) -> list[str]:
    folders = (item for item in root.glob("sub-*") if item.is_dir())
    return sorted(folder.name.removeprefix("sub-") for folder in folders)


def _is_scan(file: Path) -> bool:
    # Hidden files are leftovers: macOS writes "._scan.nii.gz" beside each scan on a shared disk.
    stem, extension = split_name(file)
    shown = not stem.startswith(".") and extension.lower() in _LISTED and not file.is_dir()
    return shown and _NOT_SCANS.isdisjoint(stem.split("_"))


def _some(labels: Iterable[str]) -> str:
    first = list(labels)
    return ", ".join(first[:10]) + (f" and {len(first) - 10} more" if len(first) > 10 else "")


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
