"""The target model: what one scanner's images look like, and how they were prepared, in one file.

Its names are loaded when first used: what a file says about itself is read without torch
(:mod:`~blindharmony.models.card`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blindharmony.models.card import included_targets
    from blindharmony.models.file import load_target, save_target
    from blindharmony.models.target import HeldOut, Target, TargetInfo

__all__ = ["HeldOut", "Target", "TargetInfo", "included_targets", "load_target", "save_target"]

_WHERE = {"included_targets": "card", "load_target": "file", "save_target": "file"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module 'blindharmony.models' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(import_module(f"blindharmony.models.{_WHERE.get(name, 'target')}"), name)
