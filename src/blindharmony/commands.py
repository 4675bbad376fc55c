"""Programs of others, run without a shell and within a time: brain extractor, segmenter, dcm2niix, BIDS validator."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from blindharmony.errors import BlindHarmonyError, PreprocessingError, TimeLimitError


def filled(command: str, places: Mapping[str, Path]) -> list[str]:
    """The words of a command line, with paths for its placeholders: a path with a space stays one argument.

    Raises:
        ValueError: If a quotation mark is not closed.

    Example:
        >>> filled("hd-bet -i {input} -o {output}", {"input": Path("my head.nii"), "output": Path("b.nii")})
        ['hd-bet', '-i', 'my head.nii', '-o', 'b.nii']
    """
    words = shlex.split(command)
    for name, path in places.items():
        # Not str.format: other braces belong to the command.
        words = [word.replace("{" + name + "}", str(path)) for word in words]
    return words


def run_command(
    command: str | Sequence[str],
    places: Mapping[str, Path] | None = None,
    *,
    called: str,
    seconds: float,
    remedy: str,
    folder: Path | None = None,
    error: type[BlindHarmonyError] = PreprocessingError,
    path: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; it and what it started end when the time is up.

    Args:
        command: A command line with ``{input}`` and ``{output}`` and the like, or its words.
        places: What stands for the placeholders; of ``output`` it is checked that the program made it.
        called: The program in the words of a message, e.g. ``the mask command``.
        seconds: The time it has.
        remedy: What to do when it fails.
        folder: Where it runs.
        error: What to raise.
        path: The file that the message is about.
        check: Whether an exit code other than 0 is an error.

    Raises:
        BlindHarmonyError: If it does not start, fails, or writes no ``output``.
        TimeLimitError: If it does not end in time.
    """
    try:
        words = filled(command, places or {}) if isinstance(command, str) else list(command)
        done = _run(words, seconds, folder)
    except subprocess.TimeoutExpired as problem:
        raise TimeLimitError(f"{called} did not end ({problem})", remedy=remedy, path=path) from None
    except (OSError, ValueError, IndexError) as problem:
        raise error(f"{called} did not run ({problem})", remedy=remedy, path=path) from None
    if check and done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        what = f"{called} failed with code {done.returncode} ({last[0][:200]})"
        raise error(what, remedy=remedy, path=path)
    made = (places or {}).get("output")
    if made is not None and not made.exists():
        raise error(f"{called} wrote nothing to {{output}}", remedy=remedy, path=path)
    return done


# Process groups of programs that run now: a worker that is ended ends them too.
_RUNNING: set[int] = set()
_STARTING = threading.Lock()


def end_programs() -> None:
    """End every program of this process and what it has started; none starts afterwards, since the process ends too."""
    # A program exists a moment before its group is known here. One whose file lies on a dead disk is not waited for.
    _STARTING.acquire(timeout=5)
    for group in list(_RUNNING):
        with suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def _run(words: Sequence[str], seconds: float, folder: Path | None) -> subprocess.CompletedProcess[str]:
    # A session of its own: what the program starts ends with it.
    with _STARTING:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=folder,
            start_new_session=True,
        )
        _RUNNING.add(process.pid)
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException:  # the time is up, or the user has enough
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    finally:
        _RUNNING.discard(process.pid)
    return subprocess.CompletedProcess(words, process.returncode, out, err)
