"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blindharmony.errors import OutputError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: bool = False, optional: bool = False, folder: Path | None = None
) -> Iterator[None]:
    """Hold a lock while the block runs; the system lets go of it when the process ends, however it ends.

    Args:
        path: The lock file; it stays, its content says who was the last.
        shared: Whether others may hold it too, if they share it as well.
        wait: Whether to wait for another holder instead of giving up.
        optional: Whether to go on unlocked where the file system knows no locks.
        folder: What is locked, in the words of a message; two levels above the file by default.

    Raises:
        OutputError: If another run holds it, or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise OutputError(what, remedy="choose an output folder you may write to", path=path) from None
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "unknown"
            raise OutputError(
                f"another run is working here ({owner})",
                remedy="wait for it, stop it, or choose another output folder",
                path=folder or path.parent.parent,
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if not optional:
                what = "the file system knows no locks, so two runs could not be told apart"
                raise OutputError(what, remedy="choose an output folder on another disk", path=path) from None
        os.ftruncate(handle, 0)
        # A disk without room for a name still has room for the lock itself.
        try:
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        yield
    finally:
        os.close(handle)
