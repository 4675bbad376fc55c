"""DICOM among the inputs: converted first, and the NIfTI kept beside the results."""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path

from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, InputError, NothingFoundError, OutputError, UsageError
from blindharmony.image import find_scans, output_name, write_bytes
from blindharmony.image.dicom import choose, convert, is_dicom

FOLDER = "converted"
_LEVEL = 6


def add_options(p: argparse.ArgumentParser) -> None:
    """Options about DICOM."""
    p.add_argument("--series", type=int, metavar="NUMBER", help="which series of a DICOM folder, if several fit")


def with_dicom_converted(
    arguments: argparse.Namespace, screen: Screen
) -> tuple[list[str | Path], list[BlindHarmonyError]]:
    """The inputs with NIfTI files in the place of DICOM, and DICOM inputs that could not be converted.

    Raises:
        BlindHarmonyError: If no input is left.
    """
    inputs: list[str | Path] = []
    failed: list[BlindHarmonyError] = []
    made: dict[Path, Path] = {}
    for item in arguments.scans:
        path = Path(item)
        if not _only_dicom(path):
            inputs.append(item)
            continue
        try:
            inputs.append(_converted(path, made, arguments, screen))
        except BlindHarmonyError as error:
            failed.append(error)
    if not inputs:
        raise failed[0]
    if arguments.series is not None and not made and not failed:
        raise UsageError("--series is for DICOM, and no DICOM was given", remedy="leave it out")
    return inputs, failed


def _only_dicom(path: Path) -> bool:
    """Whether this is a DICOM file, or a folder with DICOM and no scan that can be read as it is."""
    try:
        if not path.is_dir():
            return path.is_file() and is_dicom(path)
        find_scans([path])
    except NothingFoundError:
        return is_dicom(path)
    except OSError:
        pass  # what cannot be read is named as every other scan is
    return False


def _converted(path: Path, made: dict[Path, Path], arguments: argparse.Namespace, screen: Screen) -> Path:
    out: Path = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dicom-", dir=out) as folder:
            chosen = choose(convert(path, Path(folder)), path, arguments.series)
            whole = path.resolve() if path.is_dir() else path.resolve().parent
            # As a result's name it is safe in every folder; a result is called after it.
            stem = output_name(f"{whole.name}_{chosen.name}.nii", "x", suffix_ext="").removesuffix("_desc-x")
            kept = out / FOLDER / f"{stem}.nii.gz"
            if kept in made:
                raise InputError(
                    f"its scan would be called {kept.name}, as that of {made[kept]}",
                    remedy="give the folders other names, or harmonize them into different --out",
                    path=path,
                )
            image = gzip.compress(chosen.file.read_bytes(), _LEVEL, mtime=0)
            if not (kept.is_file() and kept.read_bytes() == image):  # the same series once more is no conflict
                write_bytes(kept, image, overwrite=arguments.overwrite)
            about = chosen.file.with_suffix(".json")
            if about.is_file():
                write_bytes(kept.with_name(f"{stem}.json"), about.read_bytes(), overwrite=True)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", remedy="choose another --out", path=out) from None
    made[kept] = path
    screen.note(f"{path.name}: series {chosen} converted to {kept}")
    return kept
