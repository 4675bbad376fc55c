"""What a target model's file says about itself, read without the networks and without torch.

A study's parent, and a job of an array that has nothing to do, need the name, the contrast and the hash of a model and
a few curves, not its weights; loading those takes seconds of processor. Whether a model is whole is known when it is
loaded (:mod:`~blindharmony.models.file`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import TargetError
from blindharmony.files import parse_json

KEY = "blindharmony"
MAX_BYTES = 1 << 30
TRAIN = "train or fetch it again (see 'blindharmony train --help')"


def included_targets() -> dict[str, Path]:
    """Names and files of the models inside the package.

    Example:
        >>> "ds002748" in included_targets()
        True
    """
    folder = Path(str(resources.files("blindharmony.models").joinpath("assets")))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}


#: What ``blindharmony targets`` shows of a model besides its data: notes of its file, or those beside an included one.
ABOUT = ("people", "field", "sequence", "use", "limits")


def about(target: str, notes: Mapping[str, str]) -> dict[str, str]:
    """Who was scanned how, and what the model is for.

    Args:
        target: File or included name.
        notes: Those of its file.

    Example:
        >>> about("ds002748", {})["field"], about("mysite.safetensors", {"field": "1.5 T"})
        ('3 T', {'field': '1.5 T'})
    """
    file = included_targets().get(target, Path(target)).with_suffix(".json")
    beside = parse_json(file.read_text("utf-8")) if target in included_targets() and file.is_file() else {}
    return {name: text for name in ABOUT if (text := notes.get(name) or beside.get(name))}


def target_content(target: str) -> tuple[Path, bytes]:
    """The file of a model, given its name or its place, and all its bytes.

    Raises:
        TargetError: If there is no such file, or it is too large to be one, or cannot be read.
    """
    path = included_targets().get(target, Path(target))
    if not path.is_file():
        included = ", ".join(included_targets()) or "none"
        raise TargetError(
            "no such target model", remedy=f"give a model file or an included name ({included})", path=target
        )
    if path.stat().st_size > MAX_BYTES:
        raise TargetError("this file is too large to be a target model", remedy=TRAIN, path=path)
    try:
        return path, path.read_bytes()
    except OSError as error:
        raise TargetError(f"cannot be read ({error.strerror})", remedy="check its permissions", path=path) from None


def description_of(content: bytes, path: Path) -> dict[str, Any]:
    """What the header of a model's file says.

    Raises:
        TargetError: If it is no target model.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        description = parse_json(parse_json(content[8 : 8 + length])["__metadata__"][KEY])
        if isinstance(description, dict):
            return description
    except (ValueError, KeyError, TypeError):
        if content.lstrip().startswith(b"{") and b'"blindharmony-scanner"' in content:
            remedy = "pass it to 'blindharmony harmonize' with --scanner"
            raise TargetError("this is a scanner model, not a target model", remedy=remedy, path=path) from None
    raise TargetError("this is not a target model", remedy=TRAIN, path=path)


def digest_of(content: bytes) -> str:
    """SHA-256 of a model's file, first 12 digits."""
    return hashlib.sha256(content).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class TargetCard:
    """What is known of a model without loading it.

    Attributes:
        name: What people call it.
        suffix: BIDS suffix of the contrast.
        digest: Of its file, as :attr:`blindharmony.Target.digest`.
        unit: Intensity of 1.0 in flow units, in the target scanner's own units.
        path: The file.
        content: Its bytes.

    Example:
        >>> card = read_card("ds002748")
        >>> card.suffix, card.curves()[1].shape
        ('T1w', (38, 512))
    """

    name: str
    suffix: str
    digest: str
    unit: float
    path: Path
    content: bytes

    def curves(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ranks, shape ``(ranks,)``, and the quantile curves of its scans, flow units, ``(scans, ranks)``.

        Raises:
            TargetError: If the file does not hold them.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(self.content)
            levels, quantiles = (np.asarray(arrays[name], np.float64) for name in ("levels", "quantiles"))
        except (SafetensorError, KeyError, ValueError):
            raise TargetError("this target model is damaged", remedy=TRAIN, path=self.path) from None
        return levels, quantiles


def read_card(target: str) -> TargetCard:
    """Read what a model says about itself.

    Args:
        target: Model file, or name of an included one.

    Raises:
        TargetError: If there is no such model, or it is none.
    """
    path, content = target_content(target)
    description = description_of(content, path)
    name, suffix, unit = (description.get(k, v) for k, v in (("name", None), ("suffix", "T1w"), ("unit", 1.0)))
    if not (isinstance(name, str) and isinstance(suffix, str) and isinstance(unit, int | float)):
        raise TargetError("this target model is damaged (its description)", remedy=TRAIN, path=path)
    return TargetCard(name, suffix, digest_of(content), float(unit), path, content)
