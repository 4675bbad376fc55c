"""Text and bytes on the disk: safe names, bounded reading, atomic writing.

Every name that a stranger chose passes :func:`slug`, every text passes :func:`read_text`, and every result passes
:func:`atomic_path` (one file) or :func:`written_together` (all files of one run): it appears whole or not at all, and
no input is ever replaced (:func:`check_outputs`).
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike, fspath
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import FULL, DiskFullError, InputError, OutputError

#: What results can be written as.
WRITABLE = (".nii.gz", ".nii", ".mgz", ".mgh")
IMAGE_EXTENSIONS = (".nii", ".nii.gz", ".mgz", ".mgh", ".img", ".hdr")
_DOUBLE = (".nii.gz", ".img.gz", ".hdr.gz")
# Separators of any system, what Windows forbids, and control characters.
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]+')
# What needs quotes in a shell: everything but letters and digits of any language, and "_", "." and "+".
_UNQUOTED = re.compile(r"[^\w.+]+")
# Bytes; file systems take 255. What a result is called ends its name: cut is what comes before.
_LONGEST, _LONGEST_SOURCE = 200, 140
# A folder that is lent until all of its files are there.
_LENT, _LENT_FOR_S = re.compile(r"\.\d+-[0-9a-f]{8}\.tmp$"), 3600.0


def slug(
    text: str, empty: str, *, risky: re.Pattern[str] = _UNQUOTED, longest: int = _LONGEST, ends: str = "-."
) -> str:
    r"""Text of a stranger as part of a file name: each run of risky characters becomes one ``-``.

    Args:
        text: A file's stem, a scanner's name, ...
        empty: The answer if nothing is left.
        risky: What is replaced. By default everything that a shell or a URL would ask to quote.
        longest: Bytes at most, as UTF-8; file systems take 255 for a whole name.
        ends: Characters that neither begin nor end it: a name that begins with a dot is hidden.

    Example:
        >>> slug("../Site A: 3T", "scanner"), slug("...", "scan")
        ('Site-A-3T', 'scan')
    """
    # Names that are no valid text (old disks) get "?" here, then "-" like other risky characters.
    washed = risky.sub("-", text.encode("utf-8", "replace").decode())
    return washed.strip(ends).encode()[:longest].decode(errors="ignore").strip(ends) or empty


def split_name(path: str | PurePath) -> tuple[str, str]:
    """Split a file name into stem and extension, ``.nii.gz`` counting as one.

    Example:
        >>> split_name("data/sub-01_T1w.nii.gz")
        ('sub-01_T1w', '.nii.gz')
    """
    name = PurePath(path).name
    for extension in _DOUBLE:
        if name.lower().endswith(extension):
            return name[: -len(extension)], name[-len(extension) :]
    extension = PurePath(name).suffix
    return name.removesuffix(extension), extension


def entities(path: str | PurePath) -> dict[str, str]:
    """Return the BIDS entities of a name, with its last word as ``suffix``; empty for other names.

    Example:
        >>> entities("sub-01_ses-2_T1w.nii.gz")
        {'sub': '01', 'ses': '2', 'suffix': 'T1w'}
        >>> entities("scan.nii")
        {}
    """
    *pairs, suffix = split_name(path)[0].split("_")
    if not pairs or not pairs[0].startswith("sub-") or "-" in suffix:
        return {}
    return {**dict(pair.split("-", 1) for pair in pairs if "-" in pair), "suffix": suffix}


def real_path(path: Path) -> Path:
    """The path without links; as it stands if they lead back to themselves.

    Example:
        >>> real_path(Path("/")) == Path("/")
        True
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def scan_name(path: str | PurePath) -> str:
    """The name that results are called after: the file's own, for FreeSurfer's volumes with the subject before it.

    Example:
        >>> scan_name("subjects/sub-01/mri/orig.mgz"), scan_name("a/scan.mgz")
        ('sub-01_orig.mgz', 'scan.mgz')
    """
    pure = PurePath(path)
    subject = pure.parent.parent.name
    return f"{subject}_{pure.name}" if pure.suffix == ".mgz" and pure.parent.name == "mri" and subject else pure.name


def output_name(path: str | PurePath, desc: str, *, suffix_ext: str | None = None) -> str:
    """Name a result after its source: ``desc-<desc>`` goes last, before a BIDS suffix.

    Only the file's name counts (:func:`scan_name`), and no result can lie outside the output folder.

    Args:
        path: The source scan.
        desc: What the result is, letters and digits only.
        suffix_ext: The result's extension, ``.nii.gz`` when not given.

    Raises:
        ValueError: If ``desc`` is not plain letters and digits.

    Example:
        >>> output_name("in/sub-01_desc-preproc_T1w.nii.gz", "harmonized")
        'sub-01_desc-harmonized_T1w.nii.gz'
        >>> output_name("scan.mgz", "harmonized", suffix_ext=".json")
        'scan_desc-harmonized.json'
    """
    return _named(path, desc, suffix=None) + (".nii.gz" if suffix_ext is None else suffix_ext)


def mask_name(path: str | PurePath) -> str:
    """Name a brain mask after its source scan.

    Example:
        >>> mask_name("sub-01_T1w.nii.gz"), mask_name("scan.nii")
        ('sub-01_desc-brain_mask.nii.gz', 'scan_desc-brain_mask.nii.gz')
    """
    return _named(path, "brain", suffix="mask") + ".nii.gz"


def sidecar_name(path: str | PurePath) -> str:
    """Name the JSON file beside an image.

    Example:
        >>> sidecar_name("sub-01_desc-harmonized_T1w.nii.gz")
        'sub-01_desc-harmonized_T1w.json'
    """
    return _leaf(split_name(path)[0]) + ".json"


def report_name(path: str | PurePath) -> str:
    """Name the report of a scan.

    Example:
        >>> report_name("sub-01_T1w.nii.gz")
        'sub-01_T1w.html'
    """
    return _leaf(split_name(path)[0]) + ".html"


def viewer_name(path: str | PurePath) -> str:
    """Name the page with both volumes of a harmonized scan.

    Example:
        >>> viewer_name("sub-01_desc-harmonized_T1w.nii.gz")
        'sub-01_desc-harmonized_T1w.viewer.html'
    """
    return _leaf(split_name(path)[0]) + ".viewer.html"


def result_names(path: str | PurePath, named: str | None = None) -> dict[str, str]:
    """Name everything that may be written for a scan; the sidecar, which makes the others count, last.

    Args:
        path: The source scan.
        named: A name of the user's own for the harmonized scan; the others are called after it.

    Example:
        >>> list(result_names("scan.nii"))
        ['scan', 'mask', 'error', 'report', 'viewer', 'sidecar']
        >>> result_names("scan.nii", "new.nii.gz")["sidecar"], result_names("scan.nii", "new.nii.gz")["mask"]
        ('new.json', 'new_desc-brain_mask.nii.gz')
        >>> len(result_names("x" * 250 + ".nii")["viewer"]) < 256
        True
    """
    scan, source = named or output_name(path, "harmonized"), named or path
    return {
        "scan": scan,
        "mask": mask_name(source),
        "error": output_name(source, "harmonizedSD"),
        "report": report_name(scan),
        "viewer": viewer_name(scan),
        "sidecar": sidecar_name(scan),
    }


def _named(path: str | PurePath, desc: str, *, suffix: str | None) -> str:
    if not (desc.isascii() and desc.isalnum()):
        raise ValueError(f"desc must be letters and digits, not {desc!r}")
    name = scan_name(path)
    parts = split_name(name)[0].split("_")
    # Only in a BIDS name is the last word a suffix; a plain name is kept whole.
    last = [_leaf(parts.pop())] if entities(name) else []
    stem = _leaf("_".join(part for part in parts if not part.startswith("desc-")), _LONGEST_SOURCE)
    return "_".join([stem, f"desc-{desc}", *([suffix] if suffix else last)])


def _leaf(stem: str, longest: int = _LONGEST) -> str:
    return slug(stem, "scan", risky=_UNSAFE, longest=longest, ends=" .")


MAX_TEXT = 2**23
_BEYOND = 2**63


def read_text(path: Path, error: type[InputError] = InputError, *, other_letters: bool = False) -> str:
    """A text file of at most 8 MiB: UTF-8, or UTF-16 that says so by its byte order mark.

    Args:
        path: The file.
        error: What to raise.
        other_letters: Take what is neither for Latin-1, as spreadsheet programs and old converters write it.

    Raises:
        InputError: If it cannot be read, is no regular file, no such text, or larger.
    """
    try:
        if path.exists() and not path.is_file():
            raise error("this is no regular file", remedy="give a text file", path=path)
        if path.stat().st_size > MAX_TEXT:
            raise error(f"more than {MAX_TEXT >> 20} MiB of text", remedy="give another file", path=path)
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"cannot be read ({problem.strerror})", remedy="check the path", path=path) from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        if other_letters and not wide:
            return content.decode("latin-1")
        raise error("cannot be read: this is no text", remedy="give a text file (UTF-8)", path=path) from None


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of a JSON document.

    Args:
        text: The document.
        finite: Whether NaN, infinity and numbers beyond any float are refused; whole ones of more than 64 bits always
            are.

    Raises:
        ValueError: If it is no JSON, nested too deeply, or holds numbers that are none.

    Example:
        >>> parse_json('{"a": [1, 2.5]}')
        {'a': [1, 2.5]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        if finite:
            return json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_whole)
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number")
    return value


def _whole(text: str) -> int:
    # 10**400 is a legal JSON number: what is computed with it would overflow.
    value = int(text) if len(text) <= 20 else _BEYOND
    if not -_BEYOND <= value < _BEYOND:
        raise ValueError(f"{text[:20]} is too large")
    return value


def bytes_there(path: Path) -> bytes | None:
    """A file's bytes, None if there is none; a pipe or a device, which would be waited for, is none.

    Raises:
        OSError: If the disk does not give them.

    Example:
        >>> bytes_there(Path("/dev/null")) is None
        True
    """
    try:
        return path.read_bytes() if path.is_file() else None
    except FileNotFoundError:
        return None


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a safetensors file and the words beside them.

    It is read, not mapped into memory: a disk that fails behind a map ends the process.

    Raises:
        OSError: If the disk does not give it.
        ValueError: If it is no such file, not whole, or not as :func:`write_tensors` has written it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = path.read_bytes()
    try:
        arrays = {name: array.copy() for name, array in load(content).items()}  # of bytes, they may not be written to
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    words = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    checksum = arrays.pop(_SUM, None)  # earlier versions wrote none
    if checksum is not None and checksum != _checksum(arrays, words):
        raise ValueError("it is not as it was written")
    return arrays, words


def write_tensors(path: Path, arrays: dict[str, NDArray[Any]], words: dict[str, str]) -> Path:
    r"""Write arrays and words as a safetensors file that knows when it was damaged; one that is there is replaced.

    Raises:
        OutputError: As :func:`atomic_path`.

    Example:
        >>> import tempfile
        >>> file = write_tensors(Path(tempfile.mkdtemp(), "a.safetensors"), {"a": np.ones(2)}, {"b": "c"})
        >>> read_tensors(file)
        ({'a': array([1., 1.])}, {'b': 'c'})
        >>> _ = file.write_bytes(file.read_bytes().replace(b"\x3f", b"\x40"))
        >>> read_tensors(file)
        Traceback (most recent call last):
        ValueError: it is not as it was written
    """
    from safetensors.numpy import save

    return write_bytes(path, save({**arrays, _SUM: _checksum(arrays, words)}, words), overwrite=True)


# Among the arrays: the order of several words changes from run to run.
_SUM = "crc32"


def _checksum(arrays: Mapping[str, NDArray[Any]], words: Mapping[str, str]) -> NDArray[np.uint32]:
    total = zlib.crc32(json.dumps(words, sort_keys=True).encode())
    for name in sorted(arrays):
        content = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
        total = zlib.crc32(content.tobytes(), zlib.crc32(name.encode(), total))
    return np.array(total, np.uint32)


_LOST = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def check_outputs(outputs: Iterable[str | PathLike[str]], inputs: Iterable[str | PathLike[str] | None] = ()) -> None:
    """Refuse outputs that are inputs (by path, link or inode), or that are no regular files.

    Every command asks this before its work begins; ``overwrite`` is no permission to replace a scan.

    Args:
        outputs: Files that will be written.
        inputs: Files that are read; None and what is not there count nothing.

    Raises:
        OutputError: If one is, or is a folder, pipe or device.

    Example:
        >>> check_outputs(["out/a.nii"], ["b.nii", None])
        >>> check_outputs(["x/../b.nii"], ["b.nii"])
        Traceback (most recent call last):
        blindharmony.errors.OutputError: x/../b.nii: this is an input of the run; choose another folder or name
    """
    read = {identity for path in inputs if path is not None for identity in _identities(Path(path))}
    for path in map(Path, outputs):
        if read & _identities(path):
            raise OutputError("this is an input of the run", remedy="choose another folder or name", path=path)
        if path.exists() and not path.is_file():
            what = (
                "a file and a folder have the same name"
                if path.is_dir()
                else "this is a pipe or a device, no regular file"
            )
            raise OutputError(what, remedy="choose another folder or name", path=path)


def _identities(path: Path) -> set[object]:
    """What tells a file from all others: its real path, and its inode if it is there (hard links share it)."""
    identities: set[object] = set()
    with suppress(OSError, RuntimeError):
        identities.add(path.resolve())
    with suppress(OSError):
        status = path.stat()
        identities.add((status.st_dev, status.st_ino))
    return identities


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Lend a temporary file in the same folder that becomes ``path`` when the block succeeds.

    The folder is made if missing. When the block fails nothing is left behind, and without
    ``overwrite`` the first of two writers wins.

    Raises:
        OutputError: If ``path`` exists already, or the folder or disk does not take the file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    stem, extension = split_name(path)
    # Hidden, so that no one lists it as a scan; cut, so that a long name stays a legal one.
    temporary = path.with_name(f".{stem[:32]}.{os.getpid()}-{secrets.token_hex(4)}.tmp{extension}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not overwrite and os.path.lexists(path):
            raise taken(path)
        check_outputs([path])
        yield temporary
        _flush(temporary)
        move(temporary, path, overwrite=overwrite)
    except OSError as error:
        if not _about(error, path, temporary):
            raise
        raise translated(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False) -> Path:
    """Write a whole file of bytes, or nothing.

    Raises:
        OutputError: As :func:`atomic_path`.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | os.PathLike[str], content: str, *, overwrite: bool = False) -> Path:
    """Write a whole UTF-8 text file, or nothing; what is no text in a file name is written with escapes.

    Raises:
        OutputError: As :func:`atomic_path`.
    """
    return write_bytes(path, content.encode(errors="backslashreplace"), overwrite=overwrite)


def _flush(temporary: Path) -> None:
    # Without it, a power cut after the rename can leave a complete name with no content. Some network and user-space
    # file systems have no such call: only what says that content is lost counts.
    with temporary.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno in _LOST:
                raise


def move(temporary: Path, path: Path, *, overwrite: bool = False) -> None:
    """Give a finished file its name; without ``overwrite`` the first of two writers wins.

    Raises:
        OutputError: If the name is taken.
        OSError: If the disk does not take it.
    """
    if overwrite:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise taken(path) from error
    except OSError:
        # File systems without hard links (exFAT, network shares, FUSE) answer with nearly any number. What is really
        # wrong with the disk is wrong with the next call too.
        _claim(path)
        try:
            temporary.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _claim(path: Path) -> None:
    try:
        path.open("x").close()
    except FileExistsError as error:
        raise taken(path) from error


def _about(error: OSError, path: Path, temporary: Path) -> bool:
    # A block may also read its own inputs: their trouble is not the output's. A failed write names none.
    if error.filename is None:
        return True
    name = Path(os.fsdecode(error.filename))
    return name in {path, temporary} or name == path.parent or name in path.parent.parents


def taken(path: Path) -> OutputError:
    """What is said of a name that another file has."""
    return OutputError("exists already", remedy="pass --overwrite or choose another folder", path=path)


def translated(error: OSError, path: Path) -> OutputError:
    """What a disk does not take, in words."""
    if error.errno in FULL:
        return DiskFullError("the disk is full", remedy="free some space or choose another folder", path=path)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return OutputError("the folder is read-only", remedy="choose a folder you may write to", path=path)
    if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}:
        return OutputError("a file and a folder have the same name", remedy="choose another folder", path=path)
    return OutputError(f"cannot be written ({error.strerror or error})", remedy="choose another folder", path=path)


@contextmanager
def written_together(places: Sequence[Path], *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Lend a folder; the files that the block writes into it get their places when it succeeds.

    Until then what an earlier run wrote stays as it is. Then it goes, all of it: a report of another run must not lie
    beside a scan. The last place comes last and its forerunner goes first: where it is, everything is.

    Args:
        places: All that a run can write, in one folder; the block uses the same names.
        overwrite: Whether the files of an earlier run may be replaced.
        inputs: Files that are never replaced.

    Raises:
        OutputError: If a place is taken, is an input or lies in another folder, or the folder or disk does not take
            the files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with written_together([folder / "a.txt", folder / "a.json"]) as staged:
        ...     _ = (staged / "a.json").write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['a.json']
    """
    first, last, folder = places[0], places[-1], places[-1].parent
    for place in places:
        if place.parent != folder:
            raise OutputError("the name leads into another folder", remedy="give the name of a file only", path=place)
    check_outputs(places, inputs)
    for place in places:
        if os.path.lexists(place) and not overwrite:
            raise taken(place)
    staged = folder / f".{last.name[:32]}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        try:
            staged.mkdir(parents=True)
        except OSError as error:
            raise translated(error, first) from error
        try:
            yield staged
        except OutputError as error:
            if error.path is None or Path(error.path).parent != staged:
                raise
            # Nobody knows the lent folder.
            raise type(error)(error.what, remedy=error.remedy, path=folder / Path(error.path).name) from None
        try:
            if overwrite:
                last.unlink(missing_ok=True)
            for place in places:
                if (staged / place.name).exists():
                    move(staged / place.name, place, overwrite=overwrite)
                elif overwrite:
                    place.unlink(missing_ok=True)
        except OSError as error:
            raise translated(error, first) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def sweep_lent(folder: Path) -> int:
    """Remove folders that :func:`written_together` lent to runs that were killed: half of a patient's results.

    Nobody tells whether a run on another machine is alive, but a result is put together in seconds.

    Returns:
        How many are gone: all that were not written to for an hour.
    """
    swept = 0
    for staged in folder.glob(".*.tmp"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            old = time.time() - staged.lstat().st_mtime > _LENT_FOR_S
            if old and _LENT.search(staged.name) and staged.is_dir() and not staged.is_symlink():
                shutil.rmtree(staged, ignore_errors=True)
                swept += not staged.exists()
    return swept


def file_sha256(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sidecar(path: str | PathLike[str], mapping: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write a mapping as JSON, keys sorted, so that equal content gives equal bytes.

    NumPy values become numbers and lists, paths become strings, NaN and infinity become null.

    Raises:
        OutputError: If the file exists already or cannot be written.
        TypeError: If a value has no JSON form.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_sidecar(f"{folder}/a.json", {"b": np.float32(1.5), "a": float("nan")}).read_text().split()
        ['{', '"a":', 'null,', '"b":', '1.5', '}']
    """
    text = json.dumps(_plain(mapping), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n", overwrite=overwrite)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
