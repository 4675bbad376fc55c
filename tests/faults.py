"""A file system that fails once: at the k-th call below a folder, with an error of a kind, or with half a write.

What Python code asks of the system passes through here, from ``open`` to ``rmdir`` and from ``read`` to ``fsync``. What
cannot fail for a disk's reasons (where a file stands, a second number of an open one) does not.
"""

import builtins
import errno
import fcntl
import io
import os
from contextlib import contextmanager
from pathlib import Path

KINDS = ("EIO", "ENOSPC", "EACCES", "short")
_ONE_PATH = (
    *("open", "stat", "lstat", "unlink", "remove", "mkdir", "rmdir", "listdir", "readlink", "access"),
    *("chmod", "utime", "truncate"),
)
_TWO_PATHS = ("replace", "rename", "link", "symlink")
_HANDLES = ("fsync", "ftruncate", "write", "pwrite", "read", "fstat", "close")


class Faults:
    """Counts calls and lets one fail.

    Args:
        folders: Calls elsewhere count nothing.
        at: Number of the call that fails, from 0; none if it is None.
        kind: How.
    """

    def __init__(self, folders, at=None, kind="EIO"):
        self.folders = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100 - links are not followed
        self.at, self.kind = at, kind
        self.calls = []
        self.happened = ""
        self._open = {}
        self._real = {}

    def ours(self, path):
        if isinstance(path, int):
            return path in self._open
        try:
            text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        except TypeError:
            return False
        return any(text == folder or text.startswith(folder + "/") for folder in self.folders)

    def call(self, name, path):
        """Count a call; whether it is the one that fails, which of others than writes it does here."""
        number = len(self.calls)
        self.calls.append(name)
        if number != self.at or (self.kind == "short" and name != "write"):
            return False
        self.happened = f"{self.kind} at call {number}, {name} of {self._open.get(path, path)}"
        if name != "write":
            self.fail(path)
        return True

    def fail(self, path):
        code = getattr(errno, self.kind)
        raise OSError(code, os.strerror(code), None if isinstance(path, int) else os.fspath(path))

    def written(self, write, content, path):
        """Half of it, and then the error, or the number that was written."""
        if not self.call("write", path):
            return write(content)
        count = write(bytes(content)[: len(content) // 2]) if len(content) > 1 else 0
        if self.kind != "short":
            # A failed write names no file.
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code))
        return count or write(content)

    @contextmanager
    def active(self):
        """The system fails within the block."""
        faults = self

        class Raw(io.FileIO):
            def __init__(self, path, mode):
                faults.call("open", path)
                super().__init__(path, mode)
                self.place = os.fspath(path)
                faults._open[self.fileno()] = self.place

            def write(self, content):
                return faults.written(super().write, content, self.place)

            def readinto(self, buffer):
                faults.call("read", self.place)
                return super().readinto(buffer)

            def readall(self):
                faults.call("read", self.place)
                return super().readall()

            def close(self):
                if not self.closed:
                    faults._open.pop(self.fileno(), None)
                    super().close()
                    faults.call("close", self.place)

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if isinstance(file, int) or opener or not self.ours(file):
                return self._real["io.open"](file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
            buffer = kind(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

        def one(name, real):
            def call(path=".", *more, **how):
                below = how.get("dir_fd")
                if self.ours(path) or (below is not None and below in self._open):
                    self.call(name, path)
                    if name == "open":
                        handle = real(path, *more, **how)
                        self._open[handle] = os.fsdecode(path)
                        return handle
                return real(path, *more, **how)

            return call

        class Entries:
            """A folder that is listed: the system is asked when it begins, and once more whether that was all."""

            def __init__(self, entries, path):
                self.entries, self.path, self.begun = entries, path, False

            def __iter__(self):
                return self

            def __next__(self):
                if not self.begun:
                    self.begun = True
                    faults.call("readdir", self.path)
                try:
                    return next(self.entries)
                except StopIteration:
                    faults.call("readdir", self.path)
                    raise

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.close()

            def close(self):
                self.entries.close()

        def listed(real):
            def call(path="."):
                if not self.ours(path):
                    return real(path)
                self.call("scandir", path)
                return Entries(real(path), path)

            return call

        def two(name, real):
            def call(source, target, **how):
                if self.ours(source) or self.ours(target):
                    self.call(name, target)
                return real(source, target, **how)

            return call

        def handled(name, real):
            def call(handle, *more):
                if handle in self._open:
                    if name in ("write", "pwrite"):
                        return self.written(lambda part: real(handle, part, *more[1:]), more[0], handle)
                    if name == "close":
                        real(handle)
                        place = self._open.pop(handle)
                        self.call(name, place)
                        return None
                    self.call(name, handle)
                return real(handle, *more)

            return call

        def locked(handle, how, real=fcntl.flock):
            if handle in self._open:
                self.call("flock", handle)
            return real(handle, how)

        makers = {**dict.fromkeys(_ONE_PATH, one), **dict.fromkeys(_TWO_PATHS, two), **dict.fromkeys(_HANDLES, handled)}
        makers["scandir"] = lambda _, real: listed(real)
        before = {name: getattr(os, name) for name in makers}
        self._real["io.open"], flock = io.open, fcntl.flock
        try:
            for name, maker in makers.items():
                setattr(os, name, maker(name, before[name]))
            io.open = builtins.open = opened
            fcntl.flock = locked
            yield self
        finally:
            for name, real in before.items():
                setattr(os, name, real)
            io.open = builtins.open = self._real["io.open"]
            fcntl.flock = flock


def content_of(folder):
    """Every file, link and folder below a folder: place → bytes, where a link leads, or None."""
    content = {}
    for path in sorted(Path(folder).rglob("*")):
        inside = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        content[path.relative_to(folder).as_posix()] = inside
    return content
