"""What an image file declares, looked at before it is believed: storage, size, place, units.

The order in which a file is judged, before any voxel is held in memory:

1. :func:`check_file`: is there a file, is it whole by its name and first bytes, and of a format that can be read;
2. :func:`check_header`: does it declare sizes that would make a reader allocate, unpack or seek without bound;
3. :func:`header_repairs`: what nibabel mends silently while it opens it;
4. :func:`check_shape` and :func:`check_affine`: is this the shape and the place of one head;
5. :func:`orientation_warnings`: what cannot be taken at its word, said and not refused.

:class:`Template` keeps the header for results that lie exactly on their scan.
"""

from __future__ import annotations

import errno
import gzip
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import imageglobals
from nibabel.spatialimages import HeaderDataError, SpatialImage

from blindharmony.errors import InputError
from blindharmony.files import IMAGE_EXTENSIONS, split_name

# A rotation is stored as three parts of a unit quaternion, the fourth follows from their length. Rounding makes that a
# little more than 1 in half turns. ITK reads such files; nibabel's own limits (three roundings) refuse some of them.
for _header in (nib.Nifti1Header, nib.Nifti2Header):
    _header.quaternion_threshold = np.float64(-1e-5)

_CHUNK = 2**20
# Trailing bytes beyond the voxels that are still read to reach the checksum (MGH tags, padding).
_SLACK = 2**24


# "nib-convert" comes with nibabel, so it is there wherever this package is.
_CONVERT = "convert it to NIfTI with 'nib-convert {} {}'"
_SIDES = "and make sure of left and right, which this format does not tell"
# Image formats of others: extension → what it is, and what helps.
_FOREIGN = {
    **dict.fromkeys((".par", ".rec"), ("Philips PAR/REC", "convert it with dcm2niix or nib-convert")),
    ".mnc": ("MINC", "convert it with nib-convert (MINC 1), mnc2nii or mri_convert"),
    **dict.fromkeys((".head", ".brik"), ("AFNI", "convert it with nib-convert or 3dAFNItoNIFTI")),
    **dict.fromkeys(
        (".nrrd", ".nhdr", ".mha", ".mhd"), ("an ITK format", "read it with SimpleITK and give that image")
    ),
    **dict.fromkeys(
        (".dcm", ".ima"), ("DICOM by its name, not by its content", "download it again, then use dcm2niix")
    ),
    ".gii": ("GIFTI, a surface", "give the volume that it was made from"),
    **dict.fromkeys((".img", ".hdr"), ("half of a compressed pair of files", "unpack both with gunzip")),
}
# Formats that nibabel reads and that are no single volume with a place.
_ANALYZE = f"{_CONVERT}, or fslchfiletype, {_SIDES}"
_KINDS = {
    "Analyze": ("Analyze 7.5", _ANALYZE),
    "Spm99Analyze": ("Analyze 7.5 (SPM99)", _ANALYZE),
    "Spm2Analyze": ("Analyze 7.5 (SPM2)", _ANALYZE),
    "Cifti2": ("CIFTI, values on surfaces and not a volume", "give the volume that it was made from"),
}


def foreign_format(path: Path) -> tuple[str, str] | None:
    """What a file of another program is by its name, compressed or not, and what helps; None for other files.

    Example:
        >>> foreign_format(Path("a+orig.BRIK.gz"))
        ('AFNI', 'convert it with nib-convert or 3dAFNItoNIFTI')
        >>> foreign_format(Path("a.nii.gz")), foreign_format(Path("a.img")) is None
        (None, True)
    """
    name = path.name.lower()
    return None if name.endswith(IMAGE_EXTENSIONS) else _FOREIGN.get(PurePath(name.removesuffix(".gz")).suffix)


def no_scan_format(kind: str, path: Path) -> InputError:
    """What is said of a file that nibabel can read and that is no NIfTI or FreeSurfer volume."""
    what, remedy = _KINDS.get(kind, (kind, f"{_CONVERT} {_SIDES}"))
    return InputError(
        f"this is {what}", remedy=remedy.format(path.name, f"{split_name(path)[0]}_converted.nii.gz"), path=path
    )


def check_file(path: Path) -> None:
    """Refuse what cannot be a scan from its name and first bytes.

    Raises:
        InputError: If the file is missing, empty, a folder, a pointer to content that was not fetched, a web page,
            DICOM, of an unknown extension, lacks its ``.img``/``.hdr`` partner, or is named ``.gz`` without being
            compressed or the other way round.
    """
    if path.is_symlink() and not path.exists():
        raise _broken_link(path)
    if path.is_dir():
        raise InputError("this is a folder", remedy="name one scan in it", path=path)
    if not path.exists():
        raise InputError("no such file", remedy="check the path", path=path)
    if not path.is_file():  # opening a pipe would wait for ever
        raise InputError("this is no regular file", remedy="save the scan to disk first", path=path)
    try:
        with path.open("rb") as file:
            start = file.read(348)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", remedy="check its permissions", path=path) from error
    if _is_dicom(start):
        raise InputError("this is a DICOM file", remedy="convert its series with dcm2niix", path=path)
    _check_fetched(path, start)
    stem, extension = split_name(path)
    if extension.lower() not in IMAGE_EXTENSIONS:
        if foreign := foreign_format(path):
            what, remedy = foreign
            raise InputError(f"this is {what}", remedy=remedy, path=path)
        raise InputError(
            f"{extension or 'a name without extension'} is not a known image type",
            remedy=f"give one of {', '.join(IMAGE_EXTENSIONS)}",
            path=path,
        )
    if not start:
        raise InputError("the file is empty", remedy="convert or download it again", path=path)
    _check_compression(path, extension.lower(), start)
    _check_partner(path, stem, extension)


def begins_as_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes; False for what cannot be read."""
    try:
        with path.open("rb") as file:
            return _is_dicom(file.read(132))
    except OSError:
        return False


def _is_dicom(start: bytes) -> bool:
    return start[128:132] == b"DICM"


def _broken_link(path: Path) -> InputError:
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return InputError("the link leads back to itself", remedy="replace it by the scan", path=path)
    leads = os.fsdecode(path.readlink())
    if "annex/objects" in leads:
        return InputError("its content was not fetched", remedy=_FETCH.format(path.name), path=path)
    remedy = "bring the file back, or fetch the content, e.g. with datalad get"
    return InputError("the link points to nothing", remedy=remedy, path=path)


_FETCH = "fetch the content with 'datalad get {0}' or 'git annex get {0}'"


def _check_fetched(path: Path, start: bytes) -> None:
    """Refuse the small text files that stand for a scan whose content is elsewhere."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"/annex/objects/", b"../.git/annex")) or b".git/annex/objects/" in start:
        raise InputError(
            "its content was not fetched (a git-annex pointer)", remedy=_FETCH.format(path.name), path=path
        )
    if text.startswith(b"version https://git-lfs"):
        remedy = f"fetch the content with 'git lfs pull --include={path.name}'"
        raise InputError("its content was not fetched (a git-lfs pointer)", remedy=remedy, path=path)
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        remedy = "download it again; the site may ask for a login first"
        raise InputError("this is a web page, not a scan", remedy=remedy, path=path)


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file, uncompressed."""
    with gzip.open(path) if path.name.lower().endswith((".gz", ".mgz")) else path.open("rb") as file:
        return file.read(count)


def _check_compression(path: Path, extension: str, start: bytes) -> None:
    named, packed = extension.endswith((".gz", ".mgz")), start[:2] == b"\x1f\x8b"
    if named and not packed:
        whole = start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2") or start[:4] == b"\0\0\0\1"
        plain = extension.removesuffix(".gz") if extension != ".mgz" else ".mgh"
        remedy = f"rename it to {plain}" if whole else "it is no image; convert or download it again"
        raise InputError(f"named {extension} but not compressed", remedy=remedy, path=path)
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


@contextmanager
def header_repairs() -> Iterator[list[str]]:
    """Collect the values nibabel replaces in damaged headers, one sentence each, instead of printing them.

    Example:
        >>> with header_repairs() as repairs:
        ...     imageglobals.logger.warning("sform_code 99 not valid; setting to 0")
        >>> repairs
        ['the header was repaired: sform_code 99 not valid; setting to 0']
    """
    collector, logger = _Collector(), imageglobals.logger
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [collector], False
    try:
        yield collector.repairs
    finally:
        logger.handlers, logger.propagate = before


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.repairs: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = f"the header was repaired: {record.getMessage()}"
        # Other messages, such as an offset that old SPM disliked, change nothing; and each format tried
        # may say the same again.
        if "setting" in message and message not in self.repairs:
            self.repairs.append(message)


MIN_VOXELS = 16
MIN_SPACING, MAX_SPACING = 0.05, 20.0
MAX_FAR = 1e5


def check_shape(shape: tuple[int, ...], path: Path | None) -> tuple[int, int, int]:
    """Return the 3-D shape of a single volume.

    Raises:
        InputError: If there are fewer than three axes, several frames, or under 16 voxels on an axis.

    Example:
        >>> check_shape((64, 64, 32, 1), None)
        (64, 64, 32)
    """
    space, frames = tuple(int(n) for n in shape[:3]), int(np.prod(shape[3:], dtype=np.int64))
    if len(space) < 3:
        raise InputError(
            f"the image is {len(space)}-D, not a volume",
            remedy="give the 3-D volume, e.g. converted from the whole DICOM series with dcm2niix",
            path=path,
        )
    if frames != 1:
        raise InputError(
            f"the image is a series of {frames} frames",
            remedy="extract one frame, e.g. with fslroi or mrconvert, and give that",
            path=path,
        )
    i, j, k = space
    if min(space) < MIN_VOXELS:
        raise InputError(
            f"an axis is too short: {i} x {j} x {k} voxels",
            remedy=f"give a whole-head volume with at least {MIN_VOXELS} voxels along each axis",
            path=path,
        )
    return i, j, k


def check_affine(affine: npt.NDArray[np.generic], path: Path | None) -> npt.NDArray[np.float64]:
    """Return the voxel to millimetre map as float64, shape ``(4, 4)``.

    Raises:
        InputError: If it is not finite, not invertible, has voxels outside 0.05 to 20 mm, or lies 100 m away.

    Example:
        >>> check_affine(np.diag([0, 1, 1, 1]), None)
        Traceback (most recent call last):
        blindharmony.errors.InputError: the affine is not invertible; convert the scan again ...
    """
    remedy = "convert the scan again from DICOM, e.g. with dcm2niix"
    matrix = np.array(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise InputError("the affine holds NaN or infinity", remedy=remedy, path=path)
    with np.errstate(over="ignore"):  # an infinite voxel has no direction, which is refused next
        spacing = voxel_size(matrix)
    # The determinant of the directions alone does not depend on the voxel size.
    directions = matrix[:3, :3] / np.where(spacing > 0, spacing, 1)
    if abs(np.linalg.det(directions)) < 1e-3 or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise InputError("the affine is not invertible", remedy=remedy, path=path)
    if spacing.min() <= MIN_SPACING or spacing.max() >= MAX_SPACING:
        sizes = " x ".join(f"{size:.3g}" for size in spacing)
        raise InputError(
            f"the voxel size is impossible for a head: {sizes} mm",
            remedy="correct the voxel size in the header (is it in meters or micrometers?)",
            path=path,
        )
    far = float(np.abs(matrix[:3, 3]).max())
    if far > MAX_FAR:
        # So far away, a millimetre is less than the last digit of the numbers in the header.
        raise InputError(f"the affine places the head {far:.1e} mm from the scanner", remedy=remedy, path=path)
    return matrix


def best_affine(image: SpatialImage) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """The affine to be used, in mm, and what had to be chosen or converted for it.

    It is the image's own, which may have been changed in memory. Where that is the header's sform and no place at all
    (zeros, NaN), the qform is used, as ITK and fMRIPrep do. Metres and micrometres that the header declares are
    converted, unless the numbers make sense only as millimetres.
    """
    header: Any = image.header
    # An image made in memory may leave its affine to the header.
    matrix = np.array(header.get_best_affine() if image.affine is None else image.affine, dtype=np.float64)
    notes: list[str] = []
    if not isinstance(image.header, nib.nifti1.Nifti1Header):
        return matrix, ()
    if not _usable(matrix) and int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        with suppress(HeaderDataError, ValueError, np.linalg.LinAlgError), np.errstate(all="ignore"):
            qform = np.array(header.get_qform(), dtype=np.float64)
            if _usable(qform):
                matrix = qform
                notes.append("the sform is no place (zeros, NaN or without volume); the qform was used")
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit and _usable(matrix):
        name, millimetres = unit
        with np.errstate(all="ignore"):
            size = voxel_size(matrix)
            converted = millimetres * size
        if not _head_sized(size) and _head_sized(converted):
            matrix[:3] *= millimetres
            notes.append(f"the header is in {name}, which were converted to millimeters")
    return matrix, tuple(notes)


def _usable(matrix: npt.NDArray[np.float64]) -> bool:
    if not np.isfinite(matrix).all():
        return False
    with np.errstate(all="ignore"):
        size = voxel_size(matrix)
        return bool((size > 0).all() and np.isfinite(size).all() and abs(np.linalg.det(matrix[:3, :3] / size)) >= 1e-3)


def _head_sized(size: npt.NDArray[np.float64]) -> bool:
    return bool(size.min() > MIN_SPACING and size.max() < MAX_SPACING)


def voxel_size(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the length of a step along each axis in mm, shape ``(3,)``: the affine's column norms."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


MAX_DISAGREEMENT = 1.0
# Cosine of the angle between two axes, and share of a voxel, that are more than rounding.
MAX_SHEAR, MAX_STRETCH = 0.02, 0.05
_UNITS = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}


def orientation_warnings(
    image: SpatialImage, affine: npt.NDArray[np.float64], shape: tuple[int, int, int], *, mended: bool = False
) -> tuple[str, ...]:
    """Say what the header leaves unknown, or says twice and differently, one sentence each.

    Args:
        image: The image with its header.
        affine: The affine that is used, shape ``(4, 4)``.
        shape: Voxels along each axis.
        mended: Whether :func:`best_affine` has chosen or converted it and has said so: then the header disagrees.
    """
    axes = affine[:3, :3] / voxel_size(affine)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    slanted = (f"the axes are {np.degrees(np.arcsin(min(1.0, shear))):.0f} degrees off a right angle",)
    # Wild numbers overflow on the way to a place that is then found to disagree.
    with np.errstate(all="ignore"):
        places = () if mended else _places(image, affine, shape)
    return (*places, *(slanted if shear > MAX_SHEAR else ()))


def _places(image: SpatialImage, affine: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> tuple[str, ...]:
    header: Any = image.header
    if isinstance(image.header, nib.freesurfer.mghformat.MGHHeader):
        return () if header["goodRASFlag"] else (_UNKNOWN,)
    if not isinstance(image.header, nib.nifti1.Nifti1Header):
        return ()
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    units = (f"the header says {unit[0]}; millimeters were assumed",) if unit else ()
    codes = int(header["sform_code"]), int(header["qform_code"])
    if max(codes) <= 0:
        return (*units, _UNKNOWN)
    return (*units, *_disagreement(header, codes, affine, shape))


def _disagreement(
    header: Any, codes: tuple[int, int], affine: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[str, ...]:
    if min(codes) > 0:
        try:
            apart = _farthest(header.get_sform(), header.get_qform(), shape)
        except (HeaderDataError, ValueError, np.linalg.LinAlgError):
            return ("the qform is damaged; the sform was used",)
        # Negated, so that a NaN in the qform also counts as a disagreement.
        if not apart <= MAX_DISAGREEMENT:
            return (f"sform and qform disagree by {apart:.1f} mm; the sform was used",)
    declared = np.abs(header["pixdim"][1:4].astype(np.float64))
    if np.allclose(declared, voxel_size(affine), rtol=MAX_STRETCH):
        return ()
    sizes = " x ".join(f"{size:.3g}" for size in declared)
    return (f"the header's voxel size, {sizes} mm, is not that of its affine; the affine was used",)


_UNKNOWN = "the header has no orientation, so left and right are only assumed"


def _farthest(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> float:
    # The distance between two affine maps is largest at a corner of the box.
    corners = np.array(list(product(*((0, n - 1) for n in shape), (1,))))
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())


Kind: TypeAlias = Literal["nifti1", "nifti2", "mgh", "array"]


@dataclass(frozen=True, eq=False)
class Template:
    """The source's header, kept to write results with the same geometry.

    Attributes:
        kind: File format the header comes from; ``array`` when there was none.
        shape: Shape in the file, with any trailing axes of length 1.
        header: The header, a copy; only its geometry is ever written.
    """

    kind: Kind
    shape: tuple[int, ...]
    header: Any  # nibabel's headers share no typed interface

    @classmethod
    def of(cls, image: nib.spatialimages.SpatialImage, affine: npt.NDArray[np.float64] | None = None) -> Template:
        """Take the template from an image; a NIfTI header gets the affine that is used, if it has another one.

        Args:
            image: The image.
            affine: What is used, in mm, shape ``(4, 4)``; the header's own if None.

        Example:
            >>> import numpy as np
            >>> Template.of(nib.Nifti1Image(np.zeros((4, 4, 4, 1), np.int16), np.eye(4))).shape
            (4, 4, 4, 1)
        """
        header: Any = image.header.copy()
        if affine is not None and isinstance(image.header, nib.nifti1.Nifti1Header):
            _put(header, affine)
        return cls(_kind(image), tuple(int(n) for n in image.shape), header)


def _put(header: Any, affine: npt.NDArray[np.float64]) -> None:
    """Give a NIfTI header the affine that is used, with the codes that it has, if it says anything else."""
    with np.errstate(all="ignore"):
        if np.allclose(header.get_best_affine(), affine, rtol=1e-5, atol=1e-4):
            return
    codes = int(header["sform_code"]), int(header["qform_code"])
    try:
        time = header.get_xyzt_units()[1]
    except KeyError:  # NIfTI-2 has room for codes that mean nothing
        time = "unknown"
    header.set_xyzt_units("mm", time)
    # The qform first: it sets the voxel sizes as well.
    header.set_qform(affine, max(codes[1], 0), strip_shears=True)
    header.set_sform(affine, codes[0] if codes[0] > 0 else max(codes[1], 1))
    if codes[1] > 0 and not np.allclose(header.get_qform(), affine, atol=1e-3):
        header["qform_code"] = 0


def _kind(image: nib.spatialimages.SpatialImage) -> Kind:
    # A NIfTI-2 header is a subclass of a NIfTI-1 header, so it is asked first.
    if isinstance(image.header, nib.nifti2.Nifti2Header):
        return "nifti2"
    if isinstance(image.header, nib.nifti1.Nifti1Header):
        return "nifti1"
    if isinstance(image.header, nib.freesurfer.mghformat.MGHHeader):
        return "mgh"
    return "array"
