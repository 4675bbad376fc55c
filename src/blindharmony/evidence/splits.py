"""Who may teach and who is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.errors import InputError, UsageError
from blindharmony.image import is_bids, parse_json, read_text

_TEST_SHARE, _MOST_TESTS, _LEAST = 0.25, 20, 3


@dataclass(frozen=True)
class Split:
    """The subjects of one BIDS set, ``sub-…``.

    Attributes:
        folder: The set.
        train: May teach.
        validation: May stop a training early; part of no training.
        test: Are judged, and nothing else.
    """

    folder: Path
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def learners(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Training and held-out subjects; without a validation part, every fifth of ``train`` is held out."""
        if self.validation:
            return self.train, self.validation
        held = self.train[4::5] or self.train[-1:]
        return tuple(s for s in self.train if s not in held), held


def read_splits(data: Path, *, seed: int = 0) -> dict[str, Split]:
    """The sets of a folder, by name.

    With ``splits.json`` in the folder::

        {"SET": {"train": ["sub-01", …], "validation": […], "test": […], "retest": [["sub-03", "sub-23"]]}, …}

    Every key of a set but ``test`` may be missing. ``retest`` names pairs that are one person scanned twice: only the
    first is tested. Without the file the folder must be one BIDS set; a seeded quarter of its subjects is tested,
    20 at most.

    Raises:
        InputError: If the file is none of that form, or a subject is in two parts.
        UsageError: If there is no file and the folder is no BIDS set, or has too few subjects.
    """
    file = data / "splits.json"
    if not file.exists():
        return {data.resolve().name: _own(data, seed)}
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise InputError(f"this is no JSON ({error})", remedy="see docs/evidence.md for its form", path=file) from None
    if not isinstance(content, dict) or not content:
        raise InputError("this is not a list of sets", remedy="see docs/evidence.md for its form", path=file)
    return {str(name): _split(data / str(name), part, file) for name, part in content.items()}


def _split(folder: Path, part: Any, file: Path) -> Split:
    def names(key: str) -> tuple[str, ...]:
        found = part.get(key, [])
        if not isinstance(found, list) or not all(isinstance(s, str) for s in found):
            raise InputError(f"'{key}' of {folder.name} is no list of subjects", remedy="give names", path=file)
        return tuple(s if s.startswith("sub-") else f"sub-{s}" for s in found)

    if not isinstance(part, Mapping) or not names("test"):
        raise InputError(f"{folder.name} names nobody under 'test'", remedy="name who is to be tested", path=file)
    pairs = part.get("retest", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair) for pair in pairs
    ):
        raise InputError(f"'retest' of {folder.name} is no list of pairs", remedy="give pairs of names", path=file)
    again = {f"sub-{second.removeprefix('sub-')}" for _, second in pairs}
    split = Split(folder, names("train"), names("validation"), tuple(s for s in names("test") if s not in again))
    for pair in pairs:
        one, other = (f"sub-{s.removeprefix('sub-')}" for s in pair)
        if (one in names("test")) != (other in names("test")):
            raise InputError(
                f"{one} and {other} of {folder.name} are one person, and only one of them is under 'test'",
                remedy="put both there",
                path=file,
            )
    everybody = [*split.train, *split.validation, *names("test")]
    twice = next((s for s in everybody if everybody.count(s) > 1), None)
    if twice:
        raise InputError(f"{twice} of {folder.name} is in two parts", remedy="keep it in one", path=file)
    return split


def _own(data: Path, seed: int) -> Split:
    if not data.is_dir() or not is_bids(data):
        raise UsageError(f"{data} holds neither splits.json nor a BIDS set", remedy="see docs/evidence.md")
    subjects = sorted(p.name for p in data.glob("sub-*") if p.is_dir())
    tests = min(max(2, round(_TEST_SHARE * len(subjects))), _MOST_TESTS)
    if len(subjects) < tests + _LEAST:
        raise UsageError(f"{data} has {len(subjects)} subjects", remedy=f"give at least {tests + _LEAST}")
    order = np.random.default_rng(seed).permutation(len(subjects)).tolist()
    chosen = set(order[:tests])
    train = tuple(s for i, s in enumerate(subjects) if i not in chosen)
    return Split(data, train, (), tuple(s for i, s in enumerate(subjects) if i in chosen))
