"""What lies on disk, looked at before nibabel does."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from blindharmony.errors import InputError
from blindharmony.image.names import IMAGE_EXTENSIONS, split_name

_CHUNK = 2**20
# Trailing bytes beyond the voxels that are still read to reach the checksum (MGH tags, padding).
_SLACK = 2**24


def check_file(path: Path) -> None:
    """Refuse what cannot be a scan from its name and first bytes.

    Raises:
        InputError: If the file is missing, empty, a folder, DICOM, of an unknown extension, lacks its
            ``.img``/``.hdr`` partner, or is named ``.gz`` without being compressed or the other way round.
    """
    if path.is_symlink() and not path.exists():
        raise InputError("the link points to nothing", remedy="fetch the content, e.g. with datalad get", path=path)
    if path.is_dir():
        raise InputError("this is a folder", remedy="name one scan in it", path=path)
    if not path.exists():
        raise InputError("no such file", remedy="check the path", path=path)
    if not path.is_file():  # opening a pipe would wait for ever
        raise InputError("this is no regular file", remedy="save the scan to disk first", path=path)
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", remedy="check its permissions", path=path) from error
    if start[128:] == b"DICM":
        raise InputError("this is a DICOM file", remedy="convert its series with dcm2niix", path=path)
    stem, extension = split_name(path)
    if extension.lower() not in IMAGE_EXTENSIONS:
        raise InputError(
            f"{extension or 'a name without extension'} is not a known image type",
            remedy=f"give one of {', '.join(IMAGE_EXTENSIONS)}",
            path=path,
        )
    if not start:
        raise InputError("the file is empty", remedy="convert or download it again", path=path)
    _check_compression(path, extension.lower(), start)
    _check_partner(path, stem, extension)


def _check_compression(path: Path, extension: str, start: bytes) -> None:
    named, packed = extension.endswith((".gz", ".mgz")), start[:2] == b"\x1f\x8b"
    if named and not packed:
        raise InputError(f"named {extension} but not compressed", remedy="rename it or download it again", path=path)
    if packed and not named:
        raise InputError(f"compressed but named {extension}", remedy=f"rename it to {extension}.gz", path=path)


def _check_partner(path: Path, stem: str, extension: str) -> None:
    swap = {".img": ".hdr", ".hdr": ".img", ".IMG": ".HDR", ".HDR": ".IMG"}
    if extension in swap and not path.with_name(stem + swap[extension]).exists():
        raise InputError(
            f"its other half {stem}{swap[extension]} is missing",
            remedy="keep the .img and .hdr files together",
            path=path,
        )


def stored_bytes(path: Path, needed: int) -> int:
    """Count the bytes a file holds once uncompressed, reading it through in small pieces.

    A compressed file is read to its end even when ``needed`` bytes are there, because only its end
    holds the checksum; it never takes more than 1 MiB of memory.

    Raises:
        InputError: If compressed data are cut off, damaged, or go on far beyond ``needed``.
    """
    if not path.name.lower().endswith((".gz", ".mgz")):
        return path.stat().st_size
    held, remedy = 0, "convert or download it again"
    try:
        with gzip.open(path) as file:
            while piece := file.read(_CHUNK):
                held += len(piece)
                if held > needed + _SLACK:
                    raise InputError("holds far more than its header declares", remedy=remedy, path=path)
    except EOFError as error:
        raise InputError("truncated: the compressed data are cut off", remedy=remedy, path=path) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"damaged: {error}", remedy=remedy, path=path) from error
    return held
