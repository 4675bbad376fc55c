"""All scans of a training prepared, each with the brain mask that is meant for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blindharmony.errors import BlindHarmonyError
from blindharmony.prep.recipe import PrepRecipe
from blindharmony.training.head import Head, prepare_head
from blindharmony.training.progress import Report


def prepare_heads(
    scans: Sequence[Path],
    recipe: PrepRecipe,
    folder: Path,
    say: Report,
    *,
    masks: dict[Path, Path],
    mask_command: str | None = None,
) -> list[Head]:
    """Prepare the scans in turn, or take them from ``folder``.

    Args:
        scans: Training scans.
        recipe: How.
        folder: Where prepared heads are kept.
        say: Told before each scan.
        masks: Brain masks of scans that have one.
        mask_command: External brain extractor for the others.

    Raises:
        BlindHarmonyError: If a scan cannot be prepared; the message names it.
    """
    heads = []
    for index, path in enumerate(scans):
        say(f"preparing {path.name} ({index + 1} of {len(scans)})", index / len(scans), {})
        try:
            heads.append(prepare_head(path, recipe, folder, mask=masks.get(path), mask_command=mask_command))
        except BlindHarmonyError as error:
            if error.path is None:
                raise type(error)(error.what, remedy=error.remedy, path=path) from error
            raise
    return heads
