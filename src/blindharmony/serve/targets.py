"""Target models to choose from, told from the head of their files: loading one would load torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from blindharmony.errors import TargetError, one_line
from blindharmony.image import parse_json

_LONGEST_HEAD = 2**24


@dataclass(frozen=True)
class Choice:
    """A target model that can be chosen.

    Attributes:
        key: What a browser sends.
        name: What people call it.
        about: Where it comes from, one line.
        model: Its file or included name.
        suffix: The contrast it knows, such as T1w.
    """

    key: str
    name: str
    about: str
    model: str
    suffix: str


def choices(files: Sequence[str] = ()) -> tuple[Choice, ...]:
    """The included models, or before them those in ``files``.

    Raises:
        TargetError: If a file is missing or no target model.

    Example:
        >>> [choice.name for choice in choices()]
        ['ds002748']
    """
    # Not through blindharmony.target, which imports torch: this process lives long and shall stay small.
    assets = Path(str(resources.files("blindharmony").joinpath("target", "assets")))
    included = {path.stem: path for path in sorted(assets.glob("*.safetensors"))}
    own = [_choice(Path(f).resolve(), "") for f in files if f not in included]
    return (*own, *(_choice(path, name) for name, path in included.items()))


def _choice(path: Path, included: str) -> Choice:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(min(length, _LONGEST_HEAD))
        said = parse_json(parse_json(head)["__metadata__"]["blindharmony"])
        name, scans, data = str(said["name"]), int(said["scans"]), str(said.get("data", ""))
        suffix = str(said.get("suffix", "T1w"))
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise TargetError(what, remedy="give a model file with --target", path=path) from None
    except (ValueError, KeyError, TypeError):
        remedy = "give a file made by 'blindharmony train'"
        raise TargetError("this is not a target model", remedy=remedy, path=path) from None
    key = included or hashlib.sha256(str(path).encode()).hexdigest()[:12]
    about = f"learnt from {scans} {suffix} scans" + (f": {data}" if data else "")
    return Choice(key, one_line(name)[:80], one_line(about)[:200], included or str(path), one_line(suffix)[:20])
