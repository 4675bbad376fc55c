"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blindharmony.errors import OutputError
from blindharmony.image.names import split_name

# What file systems without hard links (exFAT, some network shares) answer.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


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
    # Without it, a power cut after the rename can leave a complete name with no content.
    with temporary.open("rb") as file:
        os.fsync(file.fileno())


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
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim(path)
        temporary.replace(path)


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
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutputError("the disk is full", remedy="free some space or choose another folder", path=path)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return OutputError("the folder is read-only", remedy="choose a folder you may write to", path=path)
    if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}:
        return OutputError("a file and a folder have the same name", remedy="choose another folder", path=path)
    return OutputError(f"cannot be written ({error.strerror or error})", remedy="choose another folder", path=path)
