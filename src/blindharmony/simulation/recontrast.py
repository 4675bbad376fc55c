"""Another contrast between tissues, with the anatomy and texture of the scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from blindharmony.simulation.tissues import CSF, GREY, WHITE, local_levels, soft_labels, tissue_levels
from blindharmony.simulation.view import Array, View

_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class Tissues:
    """What is known about the tissues of one scan.

    Attributes:
        levels: Median intensity of each tissue.
        shares: How much of each tissue a voxel holds, shape of the scan.
        local: Intensity of each tissue around a voxel, shape of the scan.
    """

    levels: Mapping[int, float]
    shares: Mapping[int, Array]
    local: Mapping[int, Array]

    @classmethod
    def of(cls, view: View) -> Tissues:
        """Measure a scan.

        Raises:
            InputError: If labels and scan do not fit; see :func:`~blindharmony.simulation.tissues.tissue_levels`.
        """
        levels = tissue_levels(view)
        return cls(levels, soft_labels(view), local_levels(view, levels))


def recontrast(image: Array, tissues: Tissues, signals: Mapping[int, float]) -> Array:
    """Give each tissue another level and keep what lies within it.

    ``out = I · (Σ share·c(local) + rest·c(I)) / (Σ share·local + rest·I)``. Inside one tissue this is one smooth
    factor, ``c(local) / local``: the texture is that of the scan. At a border both levels are mixed as the voxel
    mixes tissues. ``c`` is the curve through the tissues' levels and signals; a region that is brighter than its
    tissue's median, as the thalamus, counts as a mixture with the next tissue and moves less. White matter moves by
    one factor. Unlabelled voxels (``rest``) follow the curve.

    Args:
        image: The scan, shape ``(X, Y, Z)``.
        tissues: What was measured in it.
        signals: Intensity wanted for each tissue's median.
    """
    size = np.abs(image)
    rest = 1.0 - sum(tissues.shares.values())
    before, after = rest * size, rest * _between(size, tissues.levels, signals)
    for tissue, share in tissues.shares.items():
        level = tissues.local[tissue]
        before += share * level
        if tissue == WHITE:
            after += share * level * (signals[WHITE] / tissues.levels[WHITE])
        else:
            after += share * _between(level, tissues.levels, signals)
    return np.divide(image * after, before, out=np.zeros_like(image), where=before > 0)


def to_ratio(view: View, ratio: float) -> tuple[Array, dict[str, float]]:
    """Move grey matter only, until its median is ``ratio`` of white matter's.

    Soft borders move the medians a little, so the level asked for is corrected a few times.

    Returns:
        The image, and the ratio before and after.

    Raises:
        InputError: If labels and scan do not fit.
    """
    tissues = Tissues.of(view)
    levels = tissues.levels
    own = levels[GREY] / levels[WHITE]
    asked, image, found = ratio, view.image, own
    for _ in range(_ROUNDS):
        image = recontrast(view.image, tissues, {**levels, GREY: asked * levels[WHITE]})
        found = _ratio(image, view)
        if abs(found - ratio) < 1e-4:
            break
        asked *= ratio / found
    return image, {"GreyToWhiteBefore": own, "GreyToWhiteAfter": found}


def to_signals(view: View, signals: Mapping[int, float]) -> tuple[Array, dict[str, float]]:
    """Give the tissues the levels of a sequence; the receiver's gain is such that white matter keeps its own.

    Returns:
        The image, and each tissue's signal relative to white matter.

    Raises:
        InputError: If labels and scan do not fit.
    """
    tissues = Tissues.of(view)
    relative = {t: s / signals[WHITE] for t, s in signals.items()}
    image = recontrast(view.image, tissues, {t: r * tissues.levels[WHITE] for t, r in relative.items()})
    return image, {"CSFToWhite": relative[CSF], "GreyToWhite": relative[GREY]}


def _between(x: Array, levels: Mapping[int, float], signals: Mapping[int, float]) -> Array:
    """The curve through the tissues; a constant factor below the darkest and above the brightest."""
    order = sorted(levels)
    known, wanted = [levels[t] for t in order], [signals[t] for t in order]
    inner = np.interp(x, known, wanted)
    inner = np.where(x < known[0], x * (wanted[0] / known[0]), inner)
    return np.where(x > known[-1], x * (wanted[-1] / known[-1]), inner)


def _ratio(image: Array, view: View) -> float:
    grey, white = (np.median(image[(view.labels == t) & view.data]) for t in (GREY, WHITE))
    return float(grey / white)
