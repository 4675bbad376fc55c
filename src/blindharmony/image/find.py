"""Find the scans meant by files, folders and BIDS data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from blindharmony.errors import NothingFoundError, UsageError
from blindharmony.image.names import IMAGE_EXTENSIONS, split_name

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
