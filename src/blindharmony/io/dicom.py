"""DICOM files: known by their magic, converted by dcm2niix, one series chosen by rules that can be read."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from blindharmony.commands import run_command
from blindharmony.errors import InputError, NothingFoundError
from blindharmony.files import parse_json, read_text
from blindharmony.io.headers import MIN_VOXELS, begins_as_dicom

_DEPTH, _LOOKED_AT, _SECONDS = 5, 1000, 1800
_T1 = re.compile(r"t1|mp-?rage|spgr|bravo|tfl3d|ir-?fspgr", re.IGNORECASE)
_NOT_T1 = re.compile(r"t2|flair|swi|bold|dwi|dti|local|scout|survey", re.IGNORECASE)
_MADE = {"DERIVED", "PHASE", "P", "MPR", "PROJECTION IMAGE", "MINIP", "MIP"}


@dataclass(frozen=True)
class Series:
    """One converted image.

    Attributes:
        file: The NIfTI file; its ``.json`` lies beside it.
        number: Series number.
        description: Series description.
        shape: Voxels, with frames if there are several.
        made: Whether another image was its source (phase, projection, reformatted).
        modality: ``MR``, ``CT``, ...
    """

    file: Path
    number: int
    description: str
    shape: tuple[int, ...]
    made: bool
    modality: str

    def __str__(self) -> str:
        return f"{self.number} '{self.description}' ({' x '.join(map(str, self.shape))})"

    @property
    def name(self) -> str:
        """Number and description as part of a file name."""
        return "-".join(re.findall("[A-Za-z0-9]+", f"ser-{self.number}-{self.description}"))[:80]


def is_dicom(path: Path) -> bool:
    """Say whether a file is DICOM, or a folder (five levels deep) holds some: by ``DICM`` at byte 128."""
    return any(begins_as_dicom(file) for file in ([path] if path.is_file() else _files(path)))


def _files(folder: Path) -> Iterator[Path]:
    left = _LOOKED_AT
    for root, folders, names in os.walk(folder):
        if len(Path(root).relative_to(folder).parts) >= _DEPTH:
            folders.clear()
        for name in sorted(names):
            left -= 1
            if left < 0:
                return
            if (file := Path(root, name)).is_file():
                yield file


def convert(path: Path, folder: Path) -> list[Series]:
    """Convert a DICOM folder, or the series of one file, with dcm2niix.

    Args:
        path: Folder or file.
        folder: An empty folder for the NIfTI files.

    Raises:
        InputError: If dcm2niix is missing, fails, or makes nothing.
    """
    options = ["-b", "y", "-ba", "y", "-z", "n", "-f", "%s_%d", "-o"]
    command = [_program(path), *options, str(folder.resolve()), str(path.resolve())]
    remedy = "convert the series yourself and give the NIfTI file"
    # It fails with some series and has made others: those count.
    done = run_command(
        command,
        called="dcm2niix",
        seconds=_SECONDS,
        remedy=remedy,
        folder=folder,
        error=InputError,
        path=path,
        check=False,
    )
    series = [_series(file) for file in sorted(folder.glob("*.nii"))]
    if not series:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line] or ["no image"]
        raise InputError(f"dcm2niix made nothing of it ({lines[-1].strip()[:120]})", remedy=remedy, path=path)
    return series


def _program(path: Path) -> str:
    # The wheel puts the program beside Python, which need not be on the PATH.
    beside = Path(sys.executable).with_name("dcm2niix")
    found = shutil.which("dcm2niix") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise InputError(
            "this is DICOM, and dcm2niix, which converts it, is not installed",
            remedy="install it with 'pip install blindharmony[dicom]', or convert the series and give the NIfTI file",
            path=path,
        )
    return found


def _series(file: Path) -> Series:
    try:
        about = parse_json(read_text(file.with_suffix(".json")))
    except (InputError, ValueError):
        about = {}
    about = about if isinstance(about, dict) else {}
    first, _, rest = file.stem.partition("_")
    number = about.get("SeriesNumber", first)
    image: Any = nib.load(file)
    words = about.get("ImageType", [])
    return Series(
        file,
        int(number) if str(number).isdigit() else 0,
        str(about.get("SeriesDescription", rest)),
        tuple(int(n) for n in image.shape),
        bool(_MADE & {str(w) for w in words}) if isinstance(words, list) else False,
        str(about.get("Modality", "MR")),
    )


def choose(found: Sequence[Series], path: Path, number: int | None = None) -> Series:
    """The one T1-weighted volume among converted series.

    Images that are no MR volume are passed over (several frames, fewer than 16 voxels along an axis). With
    ``number``, only that series counts. Images made from others (phase, projections, reformatted) are passed over
    if something is left without them, then images not called T1, if something is. What is left must be one.

    Raises:
        NothingFoundError: If nothing fits.
        InputError: If several do.
    """
    listed = "; ".join(map(str, found))
    left = [s for s in found if s.modality == "MR" and len(s.shape) == 3 and min(s.shape) >= MIN_VOXELS]
    if number is not None:
        left = [s for s in left if s.number == number]
    if not left:
        which = "no series is an MR volume" if number is None else f"no MR volume is in series {number}"
        raise NothingFoundError(f"{which} among {listed}", remedy="give the folder of the T1 series", path=path)
    for rule in (_unmade, _called_t1):
        left = [s for s in left if rule(s)] or left
    if len(left) > 1 and len({s.number for s in left}) == 1:
        raise InputError(
            f"series {left[0].number} gives several images: {', '.join(s.file.name for s in left)}",
            remedy="convert it (dcm2niix) and give the NIfTI file that is meant",
            path=path,
        )
    if len(left) > 1:
        raise InputError(
            f"several series could be meant: {'; '.join(map(str, left))}",
            remedy="choose one with --series NUMBER, or give its folder",
            path=path,
        )
    return left[0]


def _unmade(series: Series) -> bool:
    return not series.made


def _called_t1(series: Series) -> bool:
    return bool(_T1.search(series.description)) and not _NOT_T1.search(series.description)
