"""One run at a time, or several that agree to share: locks that no end of a process leaves behind.

Where the file system has locks of its own (``flock``), the system lets go of them however a process ends. Where it has
none, as some network and user-space file systems, a run lays a ticket into a folder and looks who else has one: of two
runs that come together at least one sees the other, and steps back. That needs no more than that a new file is seen by
whoever lists its folder next. A ticket is touched while its run lives; one that was not for some minutes is nobody's.
So a job that is started again after a kill gets in: at once on the same machine, which knows that the process is gone;
on another one it waits until the ticket is touched, and is refused, or has grown old.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from blindharmony.errors import FULL, OutputError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# Seconds. A run is not taken for dead while its machine is only slow.
_BEAT, _DEAD = 20.0, 300.0
_TRIES, _PAUSE = 5, 0.1


@contextmanager
def locked(path: Path, *, shared: bool = False, fleeting: bool = False, folder: Path | None = None) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: The lock file; its content says who was the last.
        shared: Whether others may hold it too, if they share it as well.
        fleeting: Whether the file goes with the lock, where there would be one for each of very many things.
        folder: What is locked, in the words of a message; two levels above the file by default.

    Raises:
        OutputError: If another run holds it, or it cannot be made.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "work" / "lock"
        >>> with locked(file, fleeting=True):
        ...     file.exists()
        True
        >>> file.exists()
        False
    """
    place = folder or path.parent.parent
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _opened(path, shared=shared, place=place)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise OutputError(what, remedy="choose an output folder you may write to", path=path) from None
    if handle is None:
        if fleeting:  # the file was only there to be asked for a lock
            with suppress(OSError):
                path.unlink(missing_ok=True)
        with _ticket(path, shared=shared, place=place):
            yield
        return
    try:
        os.ftruncate(handle, 0)
        # A disk without room for a name still has room for the lock itself.
        try:
            os.pwrite(handle, _owner().encode(), 0)
        except OSError as error:
            if error.errno not in FULL:
                raise
        yield
    finally:
        if fleeting:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(handle)


def _owner() -> str:
    return f"process {os.getpid()} on {platform.node()}\n"


def _taken(owner: str, place: Path) -> OutputError:
    return OutputError(
        f"another run is working here ({owner.strip() or 'unknown'})",
        remedy="wait for it, stop it, or choose another output folder",
        path=place,
    )


def _opened(path: Path, *, shared: bool, place: Path) -> int | None:
    """The locked file; None where the file system knows no locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # A file that went with its lock is nobody's: whoever comes next makes a new one.
            if _same(handle, path):
                return handle
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            raise _taken(owner, place) from None
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise
            return None
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


@contextmanager
def _ticket(path: Path, *, shared: bool, place: Path) -> Iterator[None]:
    """The same on a file system without locks."""
    tickets = path.with_name(f"{path.name}.tickets")
    kind = "shared" if shared else "alone"
    own = tickets / f"{kind}-{os.getpid()}-{secrets.token_hex(8)}"
    first: dict[str, float] = {}
    try:
        for attempt in count(1):
            try:
                tickets.mkdir(parents=True, exist_ok=True)
                own.write_text(f"{_owner()}{_here()}\n")
                other = _holder(tickets, own, shared=shared)
            except (FileNotFoundError, FileExistsError):  # the folder has just gone with the ticket of another
                if tickets.exists() and not tickets.is_dir():
                    raise
                continue
            if not other:
                break
            own.unlink(missing_ok=True)
            alive = other.here or first.setdefault(other.name, other.touched) != other.touched
            if alive and attempt >= _TRIES:
                raise _taken(other.owner, place)
            # Two that have seen each other are not to meet again.
            time.sleep(random.uniform(_PAUSE, _PAUSE * min(2**attempt, 50)))
        stop = threading.Event()
        beat = threading.Thread(target=_touch, args=(own, stop), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
    finally:
        with suppress(OSError):
            own.unlink(missing_ok=True)
            tickets.rmdir()


@dataclass(frozen=True)
class _Holder:
    """Who has a ticket: its name, when it was touched last, and whether its run lives on this machine."""

    owner: str
    name: str
    touched: float
    here: bool


def _holder(tickets: Path, own: Path, *, shared: bool) -> _Holder | None:
    """Who has a ticket that this one cannot be beside."""
    now = own.stat().st_mtime  # by the clock of the disk, which is one for all
    for ticket in tickets.iterdir():
        if ticket.name == own.name or (shared and ticket.name.startswith("shared-")):
            continue
        try:
            touched = ticket.stat().st_mtime
            owner, _, place = ticket.read_text().partition("\n")
            here = place.strip() == _here() != ""
            if now - touched < _DEAD and not (here and _ended(ticket.name)):
                return _Holder(owner, ticket.name, touched, here)
            ticket.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
    return None


def _here() -> str:
    """This machine since its start, and whose numbers its processes have; empty where the system does not tell."""
    with suppress(OSError):
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _ended(name: str) -> bool:
    """Whether the process of a ticket of this machine is gone."""
    try:
        os.kill(int(name.split("-")[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, IndexError):
        pass
    return False


def _touch(ticket: Path, stop: threading.Event) -> None:
    while not stop.wait(_BEAT):
        with suppress(OSError):
            os.utime(ticket)
