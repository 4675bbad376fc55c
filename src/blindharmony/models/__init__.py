"""The target model: what one scanner's images look like, and how they were prepared, in one file."""

from blindharmony.models.file import load_target, save_target
from blindharmony.models.target import HeldOut, Target, TargetInfo, included_targets

__all__ = ["HeldOut", "Target", "TargetInfo", "included_targets", "load_target", "save_target"]
