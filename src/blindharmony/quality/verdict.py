"""Whether a result can be trusted, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import Prepared
from blindharmony.quality.checks import mask_fit, order_problem, tissue_order
from blindharmony.quality.typicality import Typicality, flow_standings

# Spreads of the held-out scans beyond which an improbable result is not just to be looked at.
_UNEXPLAINED = 8.0
_POOR_OVERLAP = 0.90
_COARSE_MM = 2.2
_BRAIN_ML = (850.0, 2100.0)

Level = Literal["good", "caution", "poor"]


@dataclass(frozen=True)
class Trust:
    """A verdict and its reasons.

    Attributes:
        level: ``good``, ``caution`` (look at it) or ``poor`` (do not use it without a reason).
        headline: One sentence.
        warnings: What is wrong, one sentence each.
        advice: What to do.
    """

    level: Level
    headline: str
    warnings: tuple[str, ...]
    advice: tuple[str, ...]


def judge(
    prepared: Prepared,
    before: Typicality | None,
    after: Typicality | None,
    target: Target,
    warnings: tuple[str, ...],
    doubts: tuple[str, ...] = (),
    *,
    shared: bool = False,
) -> Trust:
    """Put together what preparation, flow and reader noticed.

    Args:
        prepared: The scan.
        before: How typical the scan was for the target.
        after: How typical the result is.
        target: The target model.
        warnings: What reading and the method noticed.
        doubts: What of it means that the result must be looked at.
        shared: Whether the curve is that of a scanner, not of this scan alone.
    """
    found, advice = [*warnings, *doubts], []
    level: Level = "caution" if doubts else "good"
    if doubts:
        alone = "Compare with the scan harmonized alone: without --scanner or --group."
        advice.append(alone if shared else "Compare before and after, and with other scans of its scanner.")
    overlap = prepared.registration.overlap
    if overlap < _POOR_OVERLAP:
        found.append(
            f"The brain overlaps the template by only {overlap:.2f} (Dice); the registration or the mask is off."
        )
        advice.append("Look at the mask and template outlines under 'Preparation'.")
        level = "caution"
    millilitres = brain_ml(prepared.native.inside(), prepared.native.spacing)
    if not _BRAIN_ML[0] <= millilitres <= _BRAIN_ML[1]:
        found.append(f"The brain mask has {millilitres:.0f} ml; adult brains have 900 to 2000.")
        advice.append("Check the mask, or give one with --mask.")
        level = "caution"
    fit = mask_fit(prepared.scan.inside(), target)
    if fit.grade:
        found += fit.problems()
        advice.append("Check the mask and the field of view under 'Preparation'.")
        level = "poor" if fit.grade > 1 else "caution"
    order = order_problem(tissue_order(prepared.scan.data, prepared.scan.inside(), target), target.info.suffix)
    if order:
        found.append(order)
        advice.append("Check that this is the right sequence.")
        level = "poor"
    coarse = max(prepared.native.spacing)
    if coarse > _COARSE_MM:
        found.append(f"The scan's slices are {coarse:.1f} mm thick: detail that was not scanned is not invented.")
    rows = flow_standings(after, target)[:-1]
    if unusual := [row for row in rows if row.high]:
        worst = max(unusual, key=lambda row: row.excess)
        found.append(
            f"The result is unusual for the target: in its {worst.name} it is {worst.excess:.1f} spreads less "
            "probable than the target's own unseen scans."
        )
        advice.append(
            "Compare before and after; look for a wrong sequence, pathology, contrast agent, noise or motion."
        )
        level = "poor" if worst.excess > _UNEXPLAINED or level == "poor" else "caution"
    if rows and rows[0].low:
        found.append("The scan is smoother than the target's: detail that was not scanned is not invented.")
        level = "caution" if level == "good" else level
    headline = {
        "good": f"Harmonized: nothing that is measured would be rare among scans of {target.info.name}.",
        "caution": "Harmonized, but look at it before you use it.",
        "poor": f"Not explained: this does not look like any scan of {target.info.name}, before or after.",
    }[level]
    if level == "good" and after is None:
        headline = "Harmonized; this target has no whole-volume flow, or no held-out scans, to judge the result."
    if before is not None and before.excess < 1.0:
        advice.append("The scan looked like the target to begin with; harmonizing it may not be needed.")
    return Trust(level, headline, tuple(found), tuple(advice))


def brain_ml(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float:
    """Volume of a mask in millilitres.

    Example:
        >>> brain_ml(np.ones((10, 10, 10), bool), (2.0, 2.0, 1.0))
        4.0
    """
    return float(mask.sum() * np.prod(spacing) / 1000)
