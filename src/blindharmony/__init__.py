"""Blind harmonization of MR images: make any scanner's scan look like the target scanner's.

Everything public is here and loaded when first used, so that importing the package costs nothing.

Example:
    >>> import blindharmony as bh
    >>> bh.harmonize("scan.nii.gz", target="ds002748").save("out")               # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from blindharmony.version import VERSION as __version__
from blindharmony.version import OldNames

if TYPE_CHECKING:
    from blindharmony.api import Method, assess, harmonize, learn_scanner
    from blindharmony.errors import BlindHarmonyError
    from blindharmony.io.bids import find_scans
    from blindharmony.io.volume import read_volume
    from blindharmony.models.card import included_targets
    from blindharmony.models.file import load_target
    from blindharmony.models.target import Target
    from blindharmony.preprocessing.recipe import PrepRecipe
    from blindharmony.result import HarmonizeResult
    from blindharmony.training.target import train

_WHERE = {
    "BlindHarmonyError": "errors",
    "HarmonizeResult": "result",
    "Method": "api",
    "PrepRecipe": "preprocessing.recipe",
    "Target": "models",
    "assess": "api",
    "find_scans": "io.bids",
    "harmonize": "api",
    "included_targets": "models",
    "learn_scanner": "api",
    "load_target": "models",
    "read_volume": "io.volume",
    "train": "training.target",
}

__all__ = [
    "BlindHarmonyError",
    "HarmonizeResult",
    "Method",
    "PrepRecipe",
    "Target",
    "__version__",
    "assess",
    "find_scans",
    "harmonize",
    "included_targets",
    "learn_scanner",
    "load_target",
    "read_volume",
    "train",
]


sys.meta_path.append(OldNames)  # asked last


def __getattr__(name: str) -> Any:
    if hint := OldNames.hint(f"{__name__}.{name}"):
        raise AttributeError(hint)
    if name not in _WHERE:
        msg = f"module 'blindharmony' has no attribute '{name}'"
        raise AttributeError(msg)
    value = getattr(import_module(f"blindharmony.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
