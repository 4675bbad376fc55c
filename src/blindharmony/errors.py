"""What can go wrong for a user.

A message says which file it is about, what is wrong and what to do; a code says the same to programs. Other parts of
the package decide by the code or by the type of an error, never by the words of its message.
"""

from __future__ import annotations

import errno
import os
from enum import StrEnum
from pathlib import Path


class ErrorCode(StrEnum):
    """The kind of an error; it travels between processes, where the types of errors do not.

    Example:
        >>> DiskFullError("the disk is full").code
        <ErrorCode.DISK_FULL: 'disk full'>
    """

    INPUT = "bad input"
    NOTHING_FOUND = "nothing found"
    TARGET = "bad target model"
    SCANNER = "bad scanner model"
    OUTPUT = "cannot write"
    DISK_FULL = "disk full"
    USAGE = "wrong use"
    PREPROCESSING = "preprocessing failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out of memory"
    KILLED = "killed"
    INTERNAL = "internal error"


#: Errors that the next scan would meet too.
EVERY_SCAN = frozenset({ErrorCode.USAGE, ErrorCode.OUTPUT, ErrorCode.DISK_FULL, ErrorCode.TARGET})
#: Errors that say nothing about a scan: the curve of its scanner must not depend on them.
OF_THE_MACHINE = frozenset({ErrorCode.KILLED, ErrorCode.OUT_OF_MEMORY})


def one_line(text: str) -> str:
    r"""The text as one line on any terminal: a file's name may hold line breaks and control codes.

    Example:
        >>> print(one_line("a\nb\x1b[2J.nii"))
        a\nb\x1b[2J.nii
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class BlindHarmonyError(Exception):
    """A problem the user can act on, printed as one line: ``file: what; remedy``.

    Args:
        what: What is wrong, in a few plain words.
        remedy: What the user can do about it.
        path: The file or folder it is about, if any.

    Example:
        >>> str(InputError("the image is empty", remedy="check the conversion", path="a.nii"))
        'a.nii: the image is empty; check the conversion'
    """

    exit_code = 1
    code = ErrorCode.INTERNAL

    def __init__(self, what: str, *, remedy: str = "", path: str | Path | None = None) -> None:
        self.what, self.remedy, self.path = what, remedy, path
        parts = f"{what}; {remedy}" if remedy else what
        super().__init__(one_line(f"{path}: {parts}" if path is not None else parts))


class InputError(BlindHarmonyError):
    """A scan or mask that cannot be read or makes no sense."""

    code = ErrorCode.INPUT


class NothingFoundError(BlindHarmonyError):
    """No scan where scans were expected."""

    exit_code = 66
    code = ErrorCode.NOTHING_FOUND


class TargetError(BlindHarmonyError):
    """A target model that is missing, damaged, or written by a newer version."""

    exit_code = 2
    code = ErrorCode.TARGET


class ScannerError(InputError):
    """A scanner model or a table of scanners that is missing, damaged, or for another target: no scan was begun."""

    exit_code = 2
    code = ErrorCode.SCANNER


class TooFewScansError(ScannerError):
    """Fewer scans than are needed can be used to learn their scanner."""


class OutputError(BlindHarmonyError):
    """A result that cannot be written: exists already, folder read-only, disk full."""

    code = ErrorCode.OUTPUT


class DiskFullError(OutputError):
    """A result for which there is no room on the disk; it stops every other scan too."""

    code = ErrorCode.DISK_FULL


class UsageError(BlindHarmonyError):
    """Options that contradict each other or are out of range."""

    exit_code = 2
    code = ErrorCode.USAGE


class PreprocessingError(BlindHarmonyError):
    """A step between scan and flow that failed: no brain found, registration lost."""

    code = ErrorCode.PREPROCESSING


class TimeLimitError(PreprocessingError):
    """A program or a piece of work that did not end in time."""

    code = ErrorCode.TIMEOUT


class OutOfMemoryError(InputError):
    """A scan that is too large for this machine or process."""

    code = ErrorCode.OUT_OF_MEMORY


class InternalError(BlindHarmonyError):
    """A mistake of this program, met by one scan of several."""

    exit_code = 70


#: Numbers of system errors that mean a full disk or a used-up quota.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; PyTorch has names of its own for it.

    Example:
        >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
        True
        >>> out_of_memory(RuntimeError("shape mismatch"))
        False
    """
    named = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and named)


def reportable(error: BaseException, path: Path | None = None) -> BlindHarmonyError:
    """Any error as one that can be reported, so that the next scan has its turn.

    Args:
        error: What was raised.
        path: The scan.

    Example:
        >>> reportable(OSError(28, "No space left on device")).code
        <ErrorCode.DISK_FULL: 'disk full'>
        >>> print(reportable(OSError(5, "Input/output error"), Path("a.nii")).what)
        the system cannot read or write it (Input/output error)
        >>> print(reportable(ValueError("odd"), Path("a.nii")).what)
        internal error (ValueError: odd)
    """
    if isinstance(error, BlindHarmonyError):
        return error
    if out_of_memory(error):
        return OutOfMemoryError("not enough memory", remedy="close other programs or use a larger machine", path=path)
    if isinstance(error, OSError) and error.errno in FULL:
        return DiskFullError("the disk is full", remedy="free some space and try again", path=path)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError | BrokenPipeError):
        # A failed read or write names no file, others say which: a disk is no mistake of this program.
        place = path if error.filename is None else Path(os.fsdecode(error.filename))
        what = f"the system cannot read or write it ({error.strerror})"
        return InputError(what, remedy="check the disk and your permissions, and run again", path=place)
    if isinstance(error, RuntimeError) and str(error).startswith(
        "Symlink loop"
    ):  # what pathlib says before Python 3.13
        what = "a link leads back to itself" if path else one_line(str(error))
        return InputError(what, remedy="remove the link", path=path)
    what, remedy = f"{type(error).__name__}: {error}", "report it, with what 'blindharmony --debug VERB ...' shows"
    return InternalError(f"internal error ({what[:300]})", remedy=remedy, path=path)
