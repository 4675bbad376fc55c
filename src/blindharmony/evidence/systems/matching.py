"""Histogram matching: with the mask and without, before N4 and after, one by one and pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.evidence.system import Material, Picture, Sees, System
from blindharmony.evidence.systems.plain import inside
from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.match import harmonize_match, source_quantiles
from blindharmony.target import Target

_WHOLE = 4096


def pooled(
    images: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]], target: Target
) -> list[NDArray[np.float32]]:
    """One histogram-matching curve for a group: its mean quantile curve to the target's."""
    mean = np.mean([source_quantiles(x, m, target)[0] for x, m in zip(images, masks, strict=True)], 0)
    curve = CurveMap.through(mean, target.mean_curve)
    return [np.where(m, curve(x), 0).astype(np.float32) for x, m in zip(images, masks, strict=True)]


def matched_whole(scan: Picture, target: Target) -> NDArray[np.float32]:
    """Histogram matching as image libraries do it: background and all, to the mean target head with its background."""
    ranks = (np.arange(_WHOLE) + 0.5) / _WHOLE
    empty = 1 - target.fit_region.mean()
    reference = np.where(ranks <= empty, 0, np.interp((ranks - empty) / (1 - empty), target.levels, target.mean_curve))
    source = np.quantile(scan.plain, ranks)
    # Where many voxels share one intensity they share the mean of their ranks' intensities.
    knots, where = np.unique(source, return_inverse=True)
    values = np.bincount(where, weights=reference) / np.bincount(where)
    return inside(scan, np.interp(scan.plain, knots, values))


class Match(System):
    """Histogram matching inside the mask to the pooled target, without bias correction."""

    name: ClassVar[str] = "match"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank."""
        return [harmonize_match(s.plain, s.mask, material.target).image for s in scans]


class MatchWhole(System):
    """Histogram matching of the whole image, background included, without bias correction."""

    name: ClassVar[str] = "match-whole"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank."""
        return [matched_whole(s, material.target) for s in scans]


class CorrectedMatch(System):
    """N4, then histogram matching inside the mask: the rival to beat."""

    name: ClassVar[str] = "n4-match"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank."""
        return [harmonize_match(s.image, s.mask, material.target).image for s in scans]


class PooledMatch(System):
    """N4, then one histogram-matching curve for all scans of the scanner."""

    name: ClassVar[str] = "pooled-match"
    sees: ClassVar[Sees] = "target scans"
    together: ClassVar[bool] = True

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank of the mean scan."""
        return pooled([s.image for s in scans], [s.mask for s in scans], material.target)
