"""Files that belong together: all of one run, or all of the run before."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from blindharmony.errors import OutputError
from blindharmony.image.atomic import move, taken, translated


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
        OutputError: If a place is taken or is an input, or the folder or disk does not take the files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with written_together([folder / "a.txt", folder / "a.json"]) as staged:
        ...     _ = (staged / "a.json").write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['a.json']
    """
    first, last, folder = places[0], places[-1], places[-1].parent
    used = {path.resolve() for path in inputs}
    for place in places:
        if place.resolve() in used:
            raise OutputError("this is an input of the run", remedy="choose another folder or name", path=place)
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
            raise OutputError(error.what, remedy=error.remedy, path=folder / Path(error.path).name) from None
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
