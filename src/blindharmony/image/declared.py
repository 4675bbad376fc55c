"""How much a header declares, looked at before anything is allocated, unpacked or skipped."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from blindharmony.errors import InputError

# The sharpest heads of living people, 0.25 mm, have 5.0e8 (Luesebrink et al. 2017, doi 10.1038/sdata.2017.32).
MAX_VOXELS = 10**9
MAX_BEFORE_VOXELS = 2**24
_AGAIN = "convert or download it again"
_MGH_DIMS = slice(4, 20)


def check_header(path: Path) -> None:
    """Refuse a header that would make a reader allocate, unpack or seek without bound.

    Looked at are the numbers of voxels, and for NIfTI the extensions between header and voxels.

    Raises:
        InputError: If the header declares more than 10**9 voxels, more than 16 MiB of extensions, or extensions that
            run over their end.
    """
    header = _partner(path) if path.suffix in {".img", ".IMG"} else path
    if header.suffix.lower() == ".hdr" and header.stat().st_size > MAX_BEFORE_VOXELS:
        raise InputError(f"more than {MAX_BEFORE_VOXELS >> 20} MiB of header", remedy=_AGAIN, path=path)
    try:
        with gzip.open(path) if path.name.lower().endswith((".gz", ".mgz")) else header.open("rb") as file:
            start = file.read(540 + 4)
            if path.name.lower().endswith((".mgh", ".mgz")):
                _check_mgh(start, path)
            kinds: Any = ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540))
            for kind, size in kinds:
                if kind.may_contain_header(start):
                    _check_nifti(kind(start[:size], check=False), size, file, path)
                    return
    except EOFError:
        raise InputError("truncated: the compressed data are cut off", remedy=_AGAIN, path=path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"damaged: {error}", remedy=_AGAIN, path=path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", remedy="check its permissions", path=path) from None


def check_voxels(count: int, path: Path | None) -> None:
    """Refuse more voxels than the largest head scan has.

    Raises:
        InputError: If ``count`` is above 10**9.

    Example:
        >>> check_voxels(3000**3, None)
        Traceback (most recent call last):
        blindharmony.errors.InputError: the header declares 2.7e+10 voxels, more than the 1.0e+09 of any head scan; ...
    """
    if count > MAX_VOXELS:
        raise InputError(
            f"the header declares {count:.1e} voxels, more than the {MAX_VOXELS:.1e} of any head scan",
            remedy=_AGAIN,
            path=path,
        )


def _partner(path: Path) -> Path:
    return path.with_suffix(".HDR" if path.suffix == ".IMG" else ".hdr")


def _check_mgh(start: bytes, path: Path) -> None:
    if start[:4] != b"\0\0\0\1":
        raise InputError("not a readable image (no FreeSurfer version 1)", remedy=_AGAIN, path=path)
    # FreeSurfer's header goes on behind the voxels: nibabel seeks there before anyone saw the size.
    dims = [int(n) for n in np.frombuffer(start[_MGH_DIMS].ljust(16, b"\0"), ">i4")]
    if min(dims) < 1:
        raise InputError(f"the header declares {' x '.join(map(str, dims))} voxels", remedy=_AGAIN, path=path)
    check_voxels(prod(dims), path)


def _check_nifti(header: Any, size: int, file: Any, path: Path) -> None:
    dims = header["dim"].tolist()
    check_voxels(prod(max(0, n) for n in dims[1 : 1 + max(0, min(7, dims[0]))]), path)
    offset = float(header["vox_offset"])
    if not 0 <= offset <= MAX_BEFORE_VOXELS:
        raise InputError(
            f"the header says that the voxels start at byte {offset:.3g}, not within its first "
            f"{MAX_BEFORE_VOXELS >> 20} MiB",
            remedy=_AGAIN,
            path=path,
        )
    file.seek(size)
    if file.read(4)[:1] in (b"", b"\0"):
        return
    # A detached header is read to its end, which is near.
    left = offset - size - 4 if header["magic"].item()[:2] == b"n+" else MAX_BEFORE_VOXELS
    while left >= 16 and (head := file.read(8)):
        length = int(np.frombuffer(head.ljust(8, b"\0"), np.dtype("i4").newbyteorder(header.endianness))[0])
        if not 16 <= length <= left:
            raise InputError(f"a header extension of {length} bytes does not fit", remedy=_AGAIN, path=path)
        file.seek(length - 8, 1)
        left -= length
