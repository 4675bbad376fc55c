"""Which files are scans: one lister for files, folders, BIDS data sets and FreeSurfer subjects; masks beside them.

Its law: every image that was named or found is either listed as a scan or passed over with a reason
(:class:`Listing`), so that the counts add up. Passed over are images that are no T1-weighted magnitude of their own:
masks and label images, earlier results, phase images (``part-phase``), the single echoes and inversions of one
acquisition (``echo-``, ``inv-``), and names that do not fit their folder. A link without content stays a scan: an
annexed file that was not fetched is to be reported as failed, not forgotten.

Source: BIDS specification 1.10, "Entities" and "Anatomy imaging data".
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from blindharmony.errors import InputError, NothingFoundError, UsageError
from blindharmony.files import (
    IMAGE_EXTENSIONS,
    entities,
    mask_name,
    output_name,
    parse_json,
    read_text,
    real_path,
    split_name,
)
from blindharmony.io.headers import begins_as_dicom, foreign_format

# Of an .img/.hdr pair only one half is listed.
_LISTED = frozenset(IMAGE_EXTENSIONS) - {".hdr"}
_NIFTI = (".nii", ".nii.gz")
_MASKS = frozenset({"mask", "dseg"})
_RESULTS = frozenset({"desc-harmonized", "desc-harmonizedSD"})
_ORIG = Path("mri", "orig.mgz")
# BIDS labels are letters and digits (since 1.9 also "+"): nothing that could lead out of a folder.
_LABEL = re.compile(r"[A-Za-z0-9+]+")


@dataclass(frozen=True)
class PassedOver:
    """A file that looks like a scan and is not taken.

    Attributes:
        path: The file.
        why: The reason, a few words.
    """

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}; passed over"


@dataclass(frozen=True)
class Listing:
    """What was found: every image is in one of the two.

    Attributes:
        scans: Each scan once.
        passed_over: The other images, with the reason.
    """

    scans: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...] = ()

    def lines(self) -> list[str]:
        """The files passed over, one line for each reason."""
        return summarized(self.passed_over)


def summarized(passed_over: Iterable[PassedOver]) -> list[str]:
    """Files passed over, one line for each reason.

    Example:
        >>> summarized([PassedOver(Path("a_mask.nii"), "a mask"), PassedOver(Path("b_mask.nii"), "a mask")])
        ['2 files passed over (a mask): a_mask.nii, b_mask.nii']
    """
    of_reason: dict[str, list[str]] = {}
    for item in passed_over:
        of_reason.setdefault(item.why, []).append(item.path.name)
    return [
        f"{len(names)} {'file' if len(names) == 1 else 'files'} passed over ({why}): {named(names)}"
        for why, names in of_reason.items()
    ]


def named(names: Iterable[str], most: int = 10) -> str:
    """The first names of many, and how many more there are.

    Example:
        >>> named("abc", most=2)
        'a, b and 1 more'
    """
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


# Files, folders, data sets.


def find_scans(
    inputs: Sequence[str | PathLike[str]],
    *,
    participant_labels: Sequence[str] | None = None,
    suffix: str = "T1w",
) -> list[Path]:
    """List the scans meant by each input: a file, a folder of images, or a BIDS data set; see :func:`list_scans`.

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
    return list(list_scans(inputs, participant_labels=participant_labels, suffix=suffix).scans)


def list_scans(
    inputs: Sequence[str | PathLike[str]],
    *,
    participant_labels: Sequence[str] | None = None,
    suffix: str = "T1w",
) -> Listing:
    """The scans meant by each input, and the images passed over.

    A folder is a BIDS data set when it has a ``dataset_description.json`` or ``sub-*`` folders; there,
    ``sub-*/[ses-*/]anat/*_<suffix>.nii[.gz]`` are taken (:func:`bids_scans`). In other folders all images are taken,
    without subfolders (those with DICOM or images are said), or the ``mri/orig.mgz`` of FreeSurfer subjects. A file is
    taken whatever its name says.

    Args:
        inputs: Files and folders, in the order wanted.
        participant_labels: Participants of BIDS data sets to keep, with or without ``sub-``.
        suffix: Last word of the BIDS names wanted.

    Raises:
        NothingFoundError: If an input, a participant or any scan is missing.
        UsageError: If participants are asked for where no input is a BIDS data set.
    """
    paths = [Path(item) for item in inputs]
    if not paths:
        raise NothingFoundError("no input was given", remedy="name a scan, a folder or a BIDS data set")
    listings: list[Listing] = []
    sets = 0
    for path in paths:
        try:
            sets += _is_data_set(path)
            listings.append(_listed(path, suffix, participant_labels))
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise NothingFoundError(what, remedy="check the path", path=path) from None
    if participant_labels is not None and not sets:
        raise UsageError("participant labels need a BIDS data set", remedy="leave them out or name one")
    return joined(listings)


def joined(listings: Iterable[Listing]) -> Listing:
    """Several listings as one: a scan named directly and through its folder, a link or another spelling counts once."""
    scans: dict[Path, Path] = {}
    passed_over: dict[Path, PassedOver] = {}
    for listing in listings:
        for scan in listing.scans:
            first = scans.setdefault(real_path(scan), scan)
            if first.name != scan.name:  # as two annexed files of equal content are
                passed_over.setdefault(_entry(scan), PassedOver(scan, f"another name of {first.name}"))
        for item in listing.passed_over:
            passed_over.setdefault(_entry(item.path), item)
    # A folder that was named as well is not passed over.
    taken = {folder for scan in scans for folder in (scan, *scan.parents)}
    return Listing(tuple(scans.values()), tuple(item for key, item in passed_over.items() if key not in taken))


def _entry(path: Path) -> Path:
    """A name in a folder, whatever a link of this name leads to."""
    return real_path(path.parent) / path.name


def is_bids(folder: Path) -> bool:
    """Say whether a folder is a BIDS data set."""
    return (folder / "dataset_description.json").is_file() or bool(participants_of(folder))


def _is_data_set(path: Path) -> bool:
    return path.is_dir() and is_bids(path)


def _listed(path: Path, suffix: str, participants: Sequence[str] | None) -> Listing:
    if path.is_symlink() and not path.is_dir():
        return Listing((path,))
    if not path.exists():
        raise NothingFoundError("no such file or folder", remedy="check the path", path=path)
    if not path.is_dir():
        return Listing((path,))
    if is_bids(path):
        scans, passed_over = bids_scans(path, suffix=suffix, participants=participants)
        return Listing(tuple(scan.path for scan in scans), tuple(passed_over))
    listing = _freesurfer(path) or _plain_folder(path)
    if not listing.scans:
        raise _nothing(path, f"images ({', '.join(sorted(_LISTED))})", listing.passed_over, "the folder and the suffix")
    return listing


def _freesurfer(folder: Path) -> Listing | None:
    """The volumes of FreeSurfer subjects: of one, or of a ``$SUBJECTS_DIR``; None if the folder is neither."""
    own = folder / _ORIG
    if own.is_file():
        return Listing((own,))
    scans = sorted(subject / _ORIG for subject in folder.iterdir() if (subject / _ORIG).is_file())
    # The average subjects that come with FreeSurfer are nobody's scans.
    averages = [scan for scan in scans if scan.parent.parent.name.startswith("fsaverage")]
    listing = Listing(
        tuple(scan for scan in scans if scan not in averages),
        tuple(PassedOver(scan, "an average of many people") for scan in averages),
    )
    return listing if listing.scans else None


def _plain_folder(folder: Path) -> Listing:
    scans: list[Path] = []
    passed_over: list[PassedOver] = []
    for file in sorted(folder.iterdir()):
        stem, extension = split_name(file)
        # Hidden files are leftovers: macOS writes "._scan.nii.gz" beside each scan on a shared disk.
        if stem.startswith(".") or file.is_dir():
            continue
        if file.is_symlink() and not file.exists() and _leads_back(file):
            passed_over.append(PassedOver(file, "a link that leads back to itself"))
        elif file.exists() and not file.is_file():
            if extension.lower() in _LISTED:
                passed_over.append(PassedOver(file, "no regular file"))
        elif begins_as_dicom(file):  # whatever its name says
            passed_over.append(PassedOver(file, "DICOM beside other images; give its series in a folder of their own"))
        elif extension.lower() not in _LISTED:
            if foreign := foreign_format(file):
                what, remedy = foreign
                passed_over.append(PassedOver(file, f"{what}; {remedy}"))
        elif why := _no_scan(file, entities(file)):
            passed_over.append(PassedOver(file, why))
        else:
            scans.append(file)
    whole, parts = _without_parts(scans)
    below = _folders_with_images(folder) if whole else []
    return Listing(tuple(whole), tuple(passed_over + parts + below))


# Folders are not searched for scans, only looked into: what lies there is said, not taken.
_DEPTH, _LOOKED_AT = 5, 1000


def _folders_with_images(folder: Path) -> list[PassedOver]:
    """Folders below one of images that have DICOM or images of their own; the first thousand files are looked at."""
    kinds: dict[Path, str] = {}
    left = _LOOKED_AT
    for place, folders, names in os.walk(folder):
        parts = Path(place).relative_to(folder).parts
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if len(parts) < _DEPTH else []
        for name in sorted(names) if parts else ():
            left -= 1
            if left < 0:
                break
            file, top = Path(place, name), folder / parts[0]
            if top in kinds or name.startswith(".") or not file.is_file():
                continue
            if begins_as_dicom(file):
                kinds[top] = "a folder with DICOM"
            elif split_name(file)[1].lower() in _LISTED and not _no_scan(file, entities(file)):
                kinds[top] = "a folder with images"
    return [PassedOver(top, f"{kind}; name it as well if it is meant") for top, kind in kinds.items()]


def _nothing(folder: Path, looked_for: str, passed_over: Sequence[PassedOver], check: str) -> NothingFoundError:
    lines = "".join(f"; {line}" for line in summarized(passed_over)[:3])
    return NothingFoundError(f"no scan found, looked for {looked_for}{lines}", remedy=f"check {check}", path=folder)


def _leads_back(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _no_scan(file: Path, words: Mapping[str, str]) -> str:
    """Why an image is no scan to be harmonized, by its name; empty if nothing speaks against it."""
    parts = set(split_name(file)[0].split("_"))
    if parts & _MASKS:
        return "a mask or label image by its name"
    if parts & _RESULTS:
        return "a result of an earlier run"
    if words.get("part", "mag") != "mag":
        return f"part-{words['part']} is no magnitude image"
    return ""


def _without_parts(files: Sequence[Path]) -> tuple[list[Path], list[PassedOver]]:
    """The files without echoes and inversions of which one acquisition has several."""
    acquisitions: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        words = entities(file)
        whole = "_".join(f"{k}-{v}" for k, v in words.items() if k not in ("echo", "inv")) if words else file.name
        acquisitions.setdefault((file.parent, whole), []).append(file)
    pieces: dict[Path, str] = {}
    for members in acquisitions.values():
        for key, name in (("echo", "echo"), ("inv", "inversion")):
            single = [file for file in members if key in entities(file)]
            if len({entities(file)[key] for file in single}) > 1:
                combined = "the image combined from all"
                pieces |= dict.fromkeys(
                    single, f"one {name} of several; harmonize {combined}, or choose one by a filter"
                )
    return [f for f in files if f not in pieces], [PassedOver(f, pieces[f]) for f in files if f in pieces]


# BIDS data sets.


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


Filter = Callable[[Mapping[str, str]], bool]


def bids_scans(
    root: Path,
    *,
    suffix: str = "T1w",
    participants: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    only: Filter | None = None,
) -> tuple[list[Scan], list[PassedOver]]:
    """List ``sub-*/[ses-*/]anat/*_<suffix>.nii[.gz]``, sorted; capital letters of suffix and extension do not count.

    Args:
        root: The data set's folder.
        suffix: Last word of the names.
        participants: Labels wanted, with or without ``sub-``; all if None.
        sessions: Labels wanted, with or without ``ses-``; all if None. Scans without session are kept only if None.
        only: Further conditions on the names.

    Returns:
        The scans, and the files of this suffix that cannot be taken. What labels and ``only`` leave out is in neither.

    Raises:
        NothingFoundError: If a participant or any scan is missing.
        UsageError: If a label is none.
    """
    labels, visits = bare(participants, "sub"), bare(sessions, "ses")
    if not root.is_dir():
        raise NothingFoundError("no such folder", remedy="give a BIDS data set", path=root)
    # A job of an array asks for its own participants and does not look at all others.
    people = participants_of(root) if labels is None else sorted(labels)
    if labels and (missing := [label for label in people if not (root / f"sub-{label}").is_dir()]):
        there = named(participants_of(root))
        raise NothingFoundError(f"no participant {', '.join(missing)}", remedy=f"there are {there}", path=root)
    scans: dict[str, Scan] = {}
    passed_over: list[PassedOver] = []
    candidates: list[Path] = []
    for label in people:
        for file in _images(root / f"sub-{label}", suffix):
            scan = Scan(root, file.relative_to(root).as_posix(), entities(file))
            if not _wanted(scan, visits, only):
                continue
            if why := _no_bids_scan(scan) or _no_scan(file, scan.words):
                passed_over.append(PassedOver(file, why))
            else:
                candidates.append(file)
    whole, parts = _without_parts(candidates)
    for file in whole:
        scan = Scan(root, file.relative_to(root).as_posix(), entities(file))
        first = scans.setdefault(scan.result, scan)
        if first is not scan:
            why = f"its result would have the name of that of {first.place}"
            passed_over.append(PassedOver(file, why))
    passed_over += parts
    if not scans:
        raise _nothing(root, f"sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]", passed_over, "labels and filters")
    return list(scans.values()), passed_over


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
    without = {label.removeprefix(f"{prefix}-") for label in labels}
    for label in sorted(without):
        if not _LABEL.fullmatch(label):
            raise UsageError(f"'{label}' is no BIDS label", remedy="labels are letters and digits")
    return without


def participants_of(root: Path) -> list[str]:
    """Labels of all participants of a data set, sorted.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("sub-02", "sub-01", "code"):
        ...     (root / name).mkdir()
        >>> participants_of(root)
        ['01', '02']
    """
    return sorted(item.name.removeprefix("sub-") for item in _inside(root, "sub-") if item.is_dir())


def _inside(folder: Path, prefix: str) -> list[Path]:
    """What a folder holds by a prefix; a glob would take one that may not be read for empty."""
    return sorted(item for item in folder.iterdir() if item.name.startswith(prefix))


def _images(participant: Path, suffix: str) -> list[Path]:
    """The NIfTI files of a suffix, links without content included."""
    visits = [visit / "anat" for visit in _inside(participant, "ses-") if visit.is_dir()]
    folders = [folder for folder in (participant / "anat", *visits) if folder.is_dir()]
    return [
        file
        for folder in folders
        for file in _inside(folder, "sub-")
        if split_name(file)[1].lower() in _NIFTI
        and split_name(file)[0].lower().endswith(f"_{suffix.lower()}")
        and not file.is_dir()
    ]


def _wanted(scan: Scan, visits: set[str] | None, only: Filter | None) -> bool:
    return (visits is None or scan.words.get("ses") in visits) and (only is None or only(scan.words))


def _no_bids_scan(scan: Scan) -> str:
    """Why a file is no scan of the data set, if so."""
    if not all(_LABEL.fullmatch(value) for value in scan.words.values()) or not scan.words:
        return "no BIDS name"
    folders = [f"{k}-{scan.words[k]}" for k in ("sub", "ses") if k in scan.words]
    if scan.place.split("/")[:-2] != folders:
        return "the name does not fit the folder"
    # A link to nothing is a file that was not fetched; anything else that is no file would be waited for.
    return "no regular file" if scan.path.exists() and not scan.path.is_file() else ""


# BIDS 1.10, appendix "Entities": what other programs call them → what names have.
_ENTITIES = {
    **{"subject": "sub", "session": "ses", "sample": "sample", "task": "task", "tracksys": "tracksys"},
    **{"acquisition": "acq", "nucleus": "nuc", "volume": "voi", "ceagent": "ce", "tracer": "trc", "staining": "stain"},
    **{"reconstruction": "rec", "direction": "dir", "run": "run", "modality": "mod", "echo": "echo", "flip": "flip"},
    **{"inversion": "inv", "mtransfer": "mt", "part": "part", "processing": "proc", "hemisphere": "hemi"},
    **{"space": "space", "split": "split", "recording": "recording", "chunk": "chunk", "segmentation": "seg"},
    **{"scale": "scale", "resolution": "res", "density": "den", "label": "label", "description": "desc"},
    "suffix": "suffix",
}
_ALWAYS = {"datatype": "anat", "extension": ("nii", "nii.gz", ".nii", ".nii.gz")}
# Indices are written with or without leading zeros.
_NUMBERED = frozenset({"run", "echo", "inv", "flip", "split", "chunk"})


def read_filter(path: Path, suffix: str = "T1w") -> Filter:
    """Read a filter file: ``{"t1w": {"session": "02", "acquisition": null, "run": [1, 2]}}``.

    A value must be equal, a list must hold it, and null (or ``"Query.NONE"``) means that the name has no such word;
    ``"Query.ANY"`` that it has one. Indices (run, echo, ...) are compared as numbers. Other parts of the file
    (``bold``, ...) are for other programs.

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
        short = _ENTITIES.get(str(name), str(name))
        if short not in _ENTITIES.values():
            raise InputError(f"'{name}' is no BIDS entity", remedy=f"use {', '.join(_ENTITIES)}", path=path)
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
    same_index = short in _NUMBERED and word.isdigit() and text.isdigit() and int(word) == int(text)
    return wanted == "Query.ANY" or word == text or same_index


# Brain masks beside scans.


def find_mask(folder: Path, scan: Path, label: str = "desc-brain") -> Path | None:
    """A scan's own mask in a folder of derivatives (fMRIPrep, sMRIPrep, ...), in the scan's own space.

    Looked for is ``sub-01[/ses-1]/anat/sub-01[_ses-1][...]_desc-brain_mask.nii[.gz]`` with the scan's entities and no
    ``space-``; a mask of the participant as a whole is taken if it has no entity that the scan has not. For a scan
    that has no BIDS name it is ``NAME_desc-brain_mask.nii.gz``. Whether it lies on the scan's grid is checked when it
    is used.

    Args:
        folder: The derivatives.
        scan: The scan.
        label: What the mask is of, as BIDS writes it: ``desc-brain`` or ``label-lesion``.
    """
    key, _, value = label.partition("-")
    words = {k: v for k, v in entities(scan).items() if k not in ("suffix", "desc")}
    if "sub" not in words:
        plain = folder / mask_name(scan).replace("desc-brain", label)
        return plain if plain.exists() else None
    sub = f"sub-{words['sub']}"
    best: tuple[int, str] | None = None
    for below in (*([f"{sub}/ses-{words['ses']}/anat"] if "ses" in words else []), f"{sub}/anat"):
        for file in sorted((folder / below).glob(f"{sub}_*{label}_mask.nii*")):
            mask_words = {k: v for k, v in entities(file).items() if k != "suffix"}
            if mask_words.pop(key, "") != value or any(words.get(k) != v for k, v in mask_words.items()):
                continue
            # The more entities agree, the more surely it is this scan's.
            best = max(best or (0, ""), (len(mask_words), str(file)))
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
    masks = {scan: mask for scan in scans if (mask := find_mask(folder, scan))}
    without = [scan for scan in scans if scan not in masks]
    if without and command is None:
        raise InputError(
            f"no brain mask for this scan in {folder}" + (f", and for {len(without) - 1} more" if without[1:] else ""),
            remedy="add it, or give --mask-command for scans without",
            path=without[0],
        )
    return masks


LESION = "label-lesion"


def find_lesions(scans: Sequence[Path], folder: Path | None) -> dict[Path, Path]:
    """The lesion masks of scans in a folder of derivatives, ``..._label-lesion_mask.nii.gz``; see :func:`find_mask`.

    Args:
        scans: Files; those without lesions have no mask.
        folder: Where the masks are; there are none if it is None.

    Raises:
        UsageError: If there is no such folder, or no mask of any of these scans in it.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", remedy="check --lesion-dir")
    masks = {scan: mask for scan in scans if (mask := find_mask(folder, scan, LESION))}
    if not masks:
        raise UsageError(
            f"{folder} has no lesion mask of these scans", remedy=f"name them sub-01_{LESION}_mask.nii.gz, as BIDS does"
        )
    return masks
