"""Blind harmonization: this package's methods, one scan at a time and in a group, and BlindHarmony as published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve import ScannerRounds, bias_estimated_again, in_target_contrast
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.published import harmonize_latent
from blindharmony.harmonization.refine import refine
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import summarize
from blindharmony.models.target import Target
from blindharmony.settings import HarmonizeSettings
from blindharmony_benchmark.heads import inside_of
from blindharmony_benchmark.system import Material, Picture, Sees, System
from blindharmony_benchmark.systems.classical import CorrectedMatch


class Curve(System):
    """The default: the predicted person's curve, bias field found again in the target's contrast, refinement."""

    name: ClassVar[str] = "curve"
    sees: ClassVar[Sees] = "target scans"
    refine: ClassVar[bool] = True

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """As ``blindharmony harmonize`` does."""
        return [self._one(s, material.target, None) for s in scans]

    def _one(
        self, scan: Picture, target: Target, scanner: ScannerModel | None, cache: Path | None = None
    ) -> NDArray[np.float32]:
        image, left, lifted = _corrected(scan, target, scanner, cache)
        settings = HarmonizeSettings(refine=self.refine)
        return estimate("curve", image, scan.mask, target, settings, scanner=left, in_contrast=lifted).image


class CurveUnrefined(Curve):
    """The default without refinement."""

    name: ClassVar[str] = "curve-unrefined"
    refine: ClassVar[bool] = False


class Group(Curve):
    """All scans of the scanner share one curve; refinement."""

    name: ClassVar[str] = "group"
    together: ClassVar[bool] = True

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """As ``blindharmony harmonize --group`` does."""
        target = material.target
        prepared = [s.prepared for s in scans if s.prepared]
        with TemporaryDirectory() as folder:
            cache = Path(folder)

            rounds = ScannerRounds(target).after([summarize(s.image, s.mask, target) for s in scans])
            # Only where every scan is there as it came can bias fields be estimated again.
            while rounds.wanted and rounds.model and len(prepared) == len(scans):
                models = rounds.model.rounds
                again = [bias_estimated_again(p, target, models, cache=cache).scan for p in prepared]
                rounds = rounds.after([summarize(inside_of(x), x.inside(), target) for x in again])
            return [self._one(s, target, rounds.model, cache) for s in scans]


class GroupUnrefined(Group):
    """The group's curve without refinement."""

    name: ClassVar[str] = "group-unrefined"
    refine: ClassVar[bool] = False


class MatchRefined(CorrectedMatch):
    """Histogram matching, and this package's refinement after it: what the curve adds, and what the restorer does."""

    name: ClassVar[str] = "match-refined"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Matched, then refined."""
        matched = super().harmonize(scans, material)
        return [refine(x, s.mask, material.target).image for x, s in zip(matched, scans, strict=True)]


class Published(System):
    """BlindHarmony (ICCV 2023) as published, with the released program's settings."""

    name: ClassVar[str] = "latent-published"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Slice by slice."""
        settings = HarmonizeSettings(method=self.name).iteration
        if material.turns is not None:
            settings = settings.model_copy(update={"iterations": material.turns})
        return [harmonize_latent(s.image, s.mask, material.target, settings, seed=material.seed).image for s in scans]


class Latent(Published):
    """The published iteration with settings tuned on held-out target scans."""

    name: ClassVar[str] = "latent"


def _corrected(
    scan: Picture, target: Target, scanner: ScannerModel | None, cache: Path | None
) -> tuple[NDArray[np.float32], ScannerModel | None, bool]:
    """The scan with its bias field found again, where there is a scan as it came; what is left of the curve; whether
    the scan is in the target's contrast by an earlier one."""
    if scan.prepared is None:
        return scan.image, scanner, False
    prepared, remaining = in_target_contrast(scan.prepared, target, scanner, cache=cache)
    return inside_of(prepared.scan), remaining, prepared.in_contrast
