"""A scan and its mask as a user gives them, brought to the target's flow space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.image import Volume, file_sha256
from blindharmony.image.volume import Source
from blindharmony.prep.mask import read_mask
from blindharmony.prep.recipe import Prepared, prepare
from blindharmony.target import Target


def prepared_for(
    target: Target,
    source: Volume,
    *,
    mask: Source | None = None,
    mask_command: str | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Prepared:
    """A scan in the target's flow space."""
    given = None if mask is None else read_mask(mask, source.affine)
    recipe = target.info.recipe
    return prepare(source, recipe, mask=given, mask_command=mask_command, device=device, cache=cache, progress=progress)


@contextmanager
def naming(source: Volume) -> Iterator[None]:
    """Errors inside name the scan's file."""
    try:
        yield
    except BlindHarmonyError as error:
        if error.path is None and source.path is not None and not isinstance(error, UsageError):
            raise type(error)(error.what, remedy=error.remedy, path=source.path) from error
        raise


def named_mask(mask: Source | None) -> dict[str, str | None] | None:
    """What a sidecar says about a mask: name and hash of its file; None if none was given."""
    if mask is None:
        return None
    if isinstance(mask, str | PathLike):
        return {"Name": Path(mask).name, "SHA256": file_sha256(mask)}
    return {"Name": None, "SHA256": None}
