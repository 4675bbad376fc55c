"""The folder beside a model in which it is made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blindharmony.lock import locked

_LOCK = "lock"
_BEGUN = ("checkpoint.safetensors", "log.jsonl", "slices.safetensors", "restorer.safetensors")


@contextmanager
def work_folder(model: Path, *, resume: bool, first: bool = True) -> Iterator[Path]:
    """Held by one run at a time; removed when the block ends well, kept for the next run when it does not.

    Prepared scans in it are named by what is in them and always serve again; what an earlier run has learnt only if
    ``resume`` is true. Of several processes that train together the ``first`` one holds it for all.

    Raises:
        OutputError: If another run works there, or it cannot be made.
    """
    work = model.with_name(f"{model.name}.work")
    if not first:
        yield work
        return
    with locked(work / _LOCK, folder=work, optional=True):
        for old in () if resume else _BEGUN:
            work.joinpath(old).unlink(missing_ok=True)
        yield work
        for made in work.iterdir():
            if made.is_dir():
                shutil.rmtree(made)
            elif made.name != _LOCK:
                made.unlink()
    # On a network's disk a file that is open cannot go.
    with suppress(OSError):
        work.joinpath(_LOCK).unlink()
        work.rmdir()
