"""What can go wrong for a user: every message says which file, what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path


def one_line(text: str) -> str:
    r"""Text that stays one line on any terminal: names of strangers may hold line breaks and control codes.

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

    def __init__(self, what: str, *, remedy: str = "", path: str | Path | None = None) -> None:
        self.what, self.remedy, self.path = what, remedy, path
        parts = f"{what}; {remedy}" if remedy else what
        super().__init__(one_line(f"{path}: {parts}" if path is not None else parts))


class InputError(BlindHarmonyError):
    """A scan or mask that cannot be read or makes no sense."""


class NothingFoundError(BlindHarmonyError):
    """No scan where scans were expected."""

    exit_code = 66


class TargetError(BlindHarmonyError):
    """A target model that is missing, damaged, or written by a newer version."""

    exit_code = 2


class ScannerError(InputError):
    """A scanner model or a table of scanners that is missing, damaged, or for another target: no scan was begun."""

    exit_code = 2


class OutputError(BlindHarmonyError):
    """A result that cannot be written: exists already, folder read-only, disk full."""


class UsageError(BlindHarmonyError):
    """Options that contradict each other or are out of range."""

    exit_code = 2


class PreprocessingError(BlindHarmonyError):
    """A step between scan and flow that failed: no brain found, registration lost."""


class InternalError(BlindHarmonyError):
    """A mistake of this program, met by one scan of several."""

    exit_code = 70


def out_of_memory(error: BaseException) -> bool:
    """Whether that was it: PyTorch has own names for it.

    Example:
        >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
        True
        >>> out_of_memory(RuntimeError("shape mismatch"))
        False
    """
    named = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and named)


def reportable(error: Exception, path: Path | None = None) -> BlindHarmonyError:
    """Anything that went wrong with a scan as something that can be said, so that the next scan has its turn."""
    if isinstance(error, BlindHarmonyError):
        return error
    if out_of_memory(error):
        return InputError("not enough memory", remedy="close other programs or use a larger machine", path=path)
    said, remedy = f"{type(error).__name__}: {error}", "report it, with what 'blindharmony --debug VERB ...' shows"
    return InternalError(f"internal error ({said[:300]})", remedy=remedy, path=path)
