r"""The checks of a scan and its result: each with a value, a limit, a severity, a sentence and what to do.

A check is a function that takes the :class:`Evidence` and gives one or several :class:`Check`. The verdict is the worst
of them (:mod:`blindharmony.quality.verdict`). In the order in which they are made:

* the **head**: registration, volume of the mask, whether it covers the brain and nothing else, whether bright and dark
  tissue are where the target has them, thickness of slices;
* **likeness**: whether the result's intensities, tissues and likelihood would be rare among the target's own scans;
* **direction**: whether harmonizing moved the scan away from the target, and whether it helped at all;
* the **method** and the **file**: what they noticed by themselves.

What cannot be measured is said to be not judged, and is a reason to look: nothing counts as perfect because it is
missing.

Example:
    A check of one's own: results darker than a limit must be looked at.

    >>> from blindharmony.quality.checks import Check, Evidence, graded, register_check, registered_checks
    >>> @register_check
    ... def brightness(evidence: Evidence) -> list[Check]:
    ...     value = float(evidence.after.quantiles.mean())
    ...     return [Check(
    ...         name="brightness",
    ...         severity=graded(value, (0.5, None)),
    ...         message=f"The brain's mean intensity is {value:.2f}; at least 0.50 is expected.",
    ...         value=value,
    ...         limit=(0.5, None),
    ...         advice="Compare before and after.",
    ...     )]
    >>> brightness in registered_checks()
    True
    >>> unregister_check(brightness)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.models.target import Places, Target
from blindharmony.preprocessing.recipe import Prepared
from blindharmony.preprocessing.registration import Registration, load_template
from blindharmony.quality.metrics import spearman
from blindharmony.quality.places import (
    FEWEST,
    UnlikePlace,
    likeness_of_halves,
    most_unlike,
    place_costs,
    place_darkness,
    unlike,
)
from blindharmony.quality.typicality import (
    CONTRAST,
    Comparison,
    Image,
    Mask,
    ReferenceScore,
    compare,
    rare_z,
    reduced,
    reference_score,
    white_matter,
)
from blindharmony.settings import CheckSettings

# An end of None is open.
Limit = tuple[float | None, float | None]


class Severity(IntEnum):
    """How bad a check is; the verdict is the worst of all.

    Example:
        >>> max(Severity.GOOD, Severity.POOR).word
        'poor'
    """

    GOOD = 0
    CAUTION = 1
    POOR = 2

    @property
    def word(self) -> str:
        """``good``, ``caution`` (look at it) or ``poor`` (do not use it without a reason)."""
        return self.name.lower()


# Digits that count in what is printed.
_DIGITS = 3

#: How the checks begin that ask whether harmonizing moved a scan away from the target.
DIRECTION_OF = "direction of "
#: The checks of single places: what they find is the head's, and no harmonization changes it.
PLACES = ("dark place", "unlike place")


class Topic(StrEnum):
    """What a check is about: the head, likeness to the target, direction of the change, the method, the file."""

    HEAD = "head"
    LIKENESS = "likeness"
    DIRECTION = "direction"
    METHOD = "method"
    FILE = "file"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is, a few words.
        severity: How bad it is.
        message: One sentence with the value and its limit.
        value: What was measured; None if it was not judged, or is no number.
        limit: Lowest and highest value that is good, None for an open end; None if there is no such limit.
        unit: Of both; empty for pure numbers.
        advice: What to do, one sentence; empty if nothing.
        topic: What it is about.
        note: Whether a reader should be told though it is no reason to doubt the result.
        missing: Whether it stands for a check that could not be made (:func:`not_judged`).

    Example:
        >>> check = Check("voxel size", Severity.CAUTION, "Voxels are 1.5 mm long.", 1.5, (None, 1.2), unit="mm")
        >>> check.judged, check.told, check.as_json()["severity"]
        (True, True, 'caution')
    """

    name: str
    severity: Severity
    message: str
    value: float | None = None
    limit: Limit | None = None
    unit: str = ""
    advice: str = ""
    topic: Topic = Topic.HEAD
    note: bool = False
    missing: bool = False

    @property
    def judged(self) -> bool:
        """Whether a value was measured and compared with a limit."""
        return self.value is not None

    @property
    def digits(self) -> int:
        """Digits that count when it is printed: three, or as many as tell its value from its limits.

        Example:
            >>> Check("likelihood", Severity.CAUTION, "", 5.92531, (None, 5.92509)).digits
            5
        """
        return _DIGITS if self.value is None else digits_apart(self.value, *(self.limit or ()))

    @property
    def told(self) -> bool:
        """Whether it stands among the warnings."""
        return self.note or self.severity > Severity.GOOD

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {
            "name": self.name,
            "severity": self.severity.word,
            "message": self.message,
            "value": self.value,
            "limit": None if self.limit is None else list(self.limit),
            "unit": self.unit,
            "advice": self.advice,
            "topic": self.topic.value,
        }


def graded(value: float, good: Limit, usable: Limit | None = None) -> Severity:
    """The severity of a value: good within ``good``, a caution beyond it, poor beyond ``usable`` if that is given.

    A value that is no number is as bad as this check can be: poor if it has a usable limit, else a caution.

    Example:
        >>> [graded(x, (None, 1.0), (None, 5.0)).word for x in (1.0, 2.0, 9.0, float("nan"))]
        ['good', 'caution', 'poor', 'poor']
    """
    worst = Severity.CAUTION if usable is None else Severity.POOR
    if _within(value, good):
        return Severity.GOOD
    return Severity.CAUTION if usable is not None and _within(value, usable) else worst


def _within(value: float, limit: Limit) -> bool:
    low, high = limit
    return bool(np.isfinite(value)) and (low is None or value >= low) and (high is None or value <= high)


def not_judged(name: str, why: str, topic: Topic) -> Check:
    """What stands in the place of a check that cannot be made: a reason to look, never a pass.

    Example:
        >>> not_judged("registration", "the scan was not registered", Topic.HEAD).message
        'registration not judged: the scan was not registered.'
    """
    advice = "Judge by the pictures: nothing else does here."
    return Check(name, Severity.CAUTION, f"{name} not judged: {why}.", advice=advice, topic=topic, missing=True)


class MaskFit(BaseModel):
    """How a scan's mask, on the template grid, compares with the masks of the target's training scans.

    Attributes:
        missed: Share that the mask leaves out of what *all* training masks cover (one voxel of 2 mm inside its
            border); None if there is nothing that all of them cover.
        outside: Share of the mask where *no* training mask has brain (one voxel of 2 mm beyond their border).
        size: Volume of the mask in units of the mean training mask, both on the template grid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    missed: float | None
    outside: float
    size: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that checks look at.

    Attributes:
        prepared: The scan with the result of every preparation step.
        target: The target.
        before: The scan as prepared in its own contrast, beside the target's own scans.
        after: The result, likewise.
        mask: The scan's brain mask beside those of the target.
        order: Rank correlation of the scan with the target's mean head.
        halves: Highest correlation of the scan with its own mirror image.
        unlike: The place most unlike the target's, before and after; None if the target cannot tell.
        dark: The place whose tissue is most unusually dark; None if the target cannot tell.
        scanner: Model of the scanner, if scans shared one.
        file_warnings: What reading the file noticed.
        method_warnings: What the method noticed, without weight.
        doubts: What the method noticed for which a result must be looked at.
        settings: The limits.
        harmonized: Whether ``after`` is a result; else it is the scan itself.
        tried: What harmonizing gave, if the scan was returned as it was: ``after`` is the scan then.

    Example:
        >>> evidence = blindharmony.harmonize("scan.nii.gz").evidence             # doctest: +SKIP
        >>> evidence.subject, round(evidence.brain_ml)                            # doctest: +SKIP
        ('result', ...)
    """

    prepared: Prepared
    target: Target
    before: Comparison
    after: Comparison
    mask: MaskFit
    order: float
    halves: float = 0.0
    unlike: UnlikePlace | None = None
    dark: UnlikePlace | None = None
    scanner: ScannerModel | None = None
    file_warnings: Sequence[str] = ()
    method_warnings: Sequence[str] = ()
    doubts: Sequence[str] = ()
    settings: CheckSettings = field(default_factory=CheckSettings)
    harmonized: bool = True
    tried: Comparison | None = None

    @property
    def subject(self) -> str:
        """What sentences are about."""
        return "result" if self.harmonized else "scan"

    @property
    def overlap(self) -> float | None:
        """Dice overlap of the brain mask with the template's; None if the scan was not registered."""
        registered = self.prepared.optional(Registration)
        return None if registered is None else registered.overlap

    @cached_property
    def per_cent(self) -> float:
        """Flow units to percent of the target's white matter."""
        return 100 / white_matter(self.target)

    @property
    def brain_ml(self) -> float:
        """Volume of the brain mask on the scan's own grid."""
        return brain_ml(self.prepared.native.inside(), self.prepared.native.spacing)

    def as_it_came(self) -> Evidence:
        """The same of the scan without harmonization, so that the same checks judge it."""
        return replace(self, after=self.before, method_warnings=(), doubts=(), harmonized=False, tried=None)

    def returned(self, prepared: Prepared) -> Evidence:
        """The same where the scan is returned as it was.

        Args:
            prepared: The scan as prepared in its own contrast.
        """
        before, after = self.before, self.after
        return replace(self, prepared=prepared, after=before, tried=after, method_warnings=(), doubts=())


def gather_evidence(
    prepared: Prepared,
    source_image: Image,
    result_image: Image | None,
    target: Target,
    *,
    scanner: ScannerModel | None = None,
    file_warnings: Sequence[str] = (),
    method_warnings: Sequence[str] = (),
    doubts: Sequence[str] = (),
    settings: CheckSettings | None = None,
    device: str = "cpu",
    cache: Path | None = None,
) -> Evidence:
    """Measure what the checks look at.

    Args:
        prepared: The prepared scan.
        source_image: The scan as prepared in its own contrast, template grid, flow units.
        result_image: The result, likewise; None for a scan that is not harmonized.
        target: The target.
        scanner: Model of the scanner, if scans shared one.
        file_warnings: What reading the file noticed.
        method_warnings: What the method noticed.
        doubts: What of it means that the result must be looked at.
        settings: The limits.
        device: Where the target's flow runs.
        cache: Folder in which the flow's answers are kept for the next time.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    inside = prepared.scan.inside()
    limits = settings or CheckSettings()
    fitted = prepared.scan.fitted()
    images = (source_image,) if result_image is None else (result_image, source_image)
    compared = [compare(x, fitted, target, device=device, settings=limits, cache=cache) for x in images]
    return Evidence(
        prepared=prepared,
        target=target,
        before=compared[-1],
        after=compared[0],
        mask=mask_fit(inside, target),
        order=tissue_order(source_image, fitted, target),
        halves=likeness_of_halves(prepared.native.data, prepared.native.fitted()),
        unlike=unlike_in_all(images, fitted, target, settings=limits, device=device),
        dark=darkest_place(images, fitted, target, settings=limits),
        scanner=scanner,
        file_warnings=file_warnings,
        method_warnings=method_warnings,
        doubts=doubts,
        settings=limits,
        harmonized=result_image is not None,
    )


def unlike_in_all(
    images: Sequence[Image], mask: Mask, target: Target, *, settings: CheckSettings, device: str = "cpu"
) -> UnlikePlace | None:
    """The place that is most unlike the rest of the head in all of these images; None if the target cannot tell.

    Args:
        images: The result and the scan, template grid, flow units: what only one of them has is not the head's.
        mask: Brain.
        target: What its places usually cost is compared with.
        settings: What is called rare.
        device: Where the target's flow runs.
    """
    costs = (place_costs(image, mask, target, device=device) for image in images)
    return _in_all(costs, target.places, settings)


def darkest_place(
    images: Sequence[Image], mask: Mask, target: Target, *, settings: CheckSettings
) -> UnlikePlace | None:
    """The place whose tissue is darkest beside that of the target's scans there; None if the target cannot tell.

    Args:
        images: The result and the scan, template grid: an increasing curve changes nothing.
        mask: Brain.
        target: What is usual at its places is compared with.
        settings: What is called rare.
    """
    darkness = (place_darkness(image, mask, target) for image in images)
    return _in_all(darkness, target.dark_places, settings)


def _in_all(
    maps: Iterable[NDArray[np.float32] | None], usual: Places | None, settings: CheckSettings
) -> UnlikePlace | None:
    """The most unlike place of all maps together; no more of them are made than it takes."""
    smallest, place = None, None
    if usual is None:
        return None
    for values in maps:
        if values is None:
            return None
        z = unlike(values, usual)
        smallest = z if smallest is None else np.fmin(smallest, z)
        place = most_unlike(smallest)
        if not _place_score(place, usual, settings).high:
            break  # another image can only make it less
    return place


def _place_score(place: UnlikePlace, usual: Places, settings: CheckSettings) -> ReferenceScore:
    return reference_score("place", np.log1p(place.z), np.log1p(usual.largest), settings=settings)


def mask_fit(mask: Mask, target: Target) -> MaskFit:
    """Compare a mask on the 1 mm template grid with the target's coverage.

    Args:
        mask: Shape ``(160, 192, 160)``.
        target: Its coverage is on the same grid at 2 mm.
    """
    nx, ny, nz = target.coverage.shape
    share = mask.reshape(nx, 2, ny, 2, nz, 2).mean((1, 3, 5))
    core = target.coverage > 0.999
    # Extractors differ by a voxel at the border, and a target of few scans knows its border less well.
    inner = ndimage.binary_erosion(core)
    core = inner if inner.any() else core
    never = ndimage.binary_erosion(target.coverage <= 0, border_value=1)
    total = float(share.sum())
    return MaskFit(
        missed=float(1 - share[core].mean()) if core.any() else None,
        outside=float(share[never].sum()) / total if total else 1.0,
        size=total / max(float(target.coverage.sum()), 1.0),
    )


def tissue_order(image: Image, mask: Mask, target: Target) -> float:
    r"""Spearman's rank correlation of the scan with the target's mean head at 2 mm.

    No increasing intensity curve changes it, so what it finds wrong no such curve can mend.

    Args:
        image: Template grid, any unit.
        mask: Brain.
        target: Its mean image and coverage are used.

    Returns:
        In [−1, 1]; 0 if nothing is left to compare.
    """
    x, inside = (t[0, 0].numpy() for t in reduced(image, mask, 1))
    region = inside & (target.coverage > 0.5)
    if region.sum() < 2 or np.ptp(x[region]) == 0:
        return 0.0
    return spearman(x[region], target.mean_image[region])


def brain_ml(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float:
    """Volume of a mask in millilitres.

    Example:
        >>> brain_ml(np.ones((10, 10, 10), bool), (2.0, 2.0, 1.0))
        4.0
    """
    return float(mask.sum() * np.prod(spacing) / 1000)


CheckFunction = Callable[[Evidence], "Iterable[Check] | Check"]

_CHECKS: list[CheckFunction] = []


def register_check(function: CheckFunction) -> CheckFunction:
    """Add a check to those that every verdict is made of; a decorator.

    Args:
        function: Takes the evidence, gives a check or several. It is asked for the result and, by ``assess``, for the
            scan too. A function of the same name and module takes the place of the one before (a notebook's cell that
            is run again).

    Example:
        >>> @register_check
        ... def brain_size(evidence):
        ...     size, good = evidence.brain_ml, (900.0, None)
        ...     return Check("brain size", graded(size, good), f"The brain has {size:.0f} ml.", size, good, unit="ml")
        >>> brain_size in registered_checks()
        True
        >>> unregister_check(brain_size)
    """
    again = [f for f in _CHECKS if (f.__module__, f.__qualname__) == (function.__module__, function.__qualname__)]
    for earlier in again:
        _CHECKS.remove(earlier)
    _CHECKS.append(function)
    return function


def unregister_check(function: CheckFunction) -> None:
    """Take a check out again.

    Raises:
        ValueError: If it is not registered.
    """
    _CHECKS.remove(function)


def registered_checks() -> tuple[CheckFunction, ...]:
    """All checks, in the order in which they are made."""
    return tuple(_CHECKS)


def run_checks(evidence: Evidence) -> tuple[Check, ...]:
    """Make every check."""
    checks: list[Check] = []
    for function in _CHECKS:
        answer = function(evidence)
        checks += [answer] if isinstance(answer, Check) else answer
    return tuple(checks)


@register_check
def registration(evidence: Evidence) -> list[Check]:
    """Whether the brain lies on the template's."""
    least = evidence.settings.least_overlap
    overlap = evidence.overlap
    if overlap is None:
        return [not_judged("registration", "the scan was not registered to the template", Topic.HEAD)]
    severity = graded(overlap, (least, None))
    found, wanted = _decimals(2, overlap, least)
    words = f"The brain overlaps the template's by {found} (Dice); at least {wanted} is expected"
    odd = severity > Severity.GOOD
    return [
        Check(
            name="registration",
            severity=severity,
            message=f"{words}: the registration or the mask is off." if odd else f"{words}.",
            value=overlap,
            limit=(least, None),
            advice="Look at the mask and template outlines under 'Brain mask and template'." if odd else "",
        )
    ]


@register_check
def brain_volume(evidence: Evidence) -> list[Check]:
    """Whether the mask has an adult brain's volume."""
    limit, millilitres = evidence.settings.brain_ml, evidence.brain_ml
    severity = graded(millilitres, limit)
    return [
        Check(
            name="brain volume",
            severity=severity,
            message=f"The brain mask has {millilitres:.0f} ml; {limit[0]:.0f} to {limit[1]:.0f} are expected of an "
            "adult's.",
            value=millilitres,
            limit=limit,
            unit="ml",
            advice="Check the mask, or give one with --mask." if severity else "",
        )
    ]


@register_check
def brain_found(evidence: Evidence) -> list[Check]:
    """Whether it is certain what the brain is; nothing is said where it is."""
    doubt = evidence.prepared.brain_mask.doubt
    look = "Look at the outline under 'Brain mask and template'; if it is wrong, give a mask with --mask"
    advice = f"{look} (of a scan without skull the scan itself)."
    return [Check("brain mask", Severity.CAUTION, f"{doubt}.", advice=advice, topic=Topic.HEAD)] if doubt else []


@register_check
def mask_coverage(evidence: Evidence) -> list[Check]:
    """Whether the mask covers the brain, the whole brain, and nothing but the brain."""
    settings, fit = evidence.settings, evidence.mask
    advice = "Check the mask and the field of view under 'Brain mask and template'."
    checks = []
    for name, value, (good, usable), sentence, wrong in (
        (
            "brain covered by the mask",
            fit.missed,
            settings.mask_missed,
            "The mask misses {} % of the brain that every scan of the target has; at most {} % is expected",
            "part of the head is cut off, or the mask is too small or misplaced",
        ),
        (
            "mask outside the brain",
            fit.outside,
            settings.mask_outside,
            "{} % of the mask lies where no scan of the target has brain; at most {} % is expected",
            "the mask is too big or misplaced, or the skull is not removed",
        ),
    ):
        if value is None:
            checks.append(not_judged(name, "the target's own masks agree nowhere", Topic.HEAD))
            continue
        severity = graded(value, (None, good), (None, usable))
        words = sentence.format(f"{100 * value:.1f}", f"{100 * good:g}")
        checks.append(
            Check(
                name=name,
                severity=severity,
                message=f"{words}: {wrong}." if severity else f"{words}.",
                value=100 * value,
                limit=(None, 100 * good),
                unit="%",
                advice=advice if severity else "",
            )
        )
    return checks


@register_check
def order_of_tissues(evidence: Evidence) -> list[Check]:
    """Whether bright and dark are where the target has them; what is not, no intensity curve can mend."""
    least, order, info = evidence.settings.least_order, evidence.order, evidence.target.info
    wrong = not _within(order, (least, None))
    found, wanted = _decimals(2, order, least)
    words = f"the rank correlation with the target's mean head is {found}, at least {wanted} is expected"
    if not wrong:
        message = f"Bright and dark tissue are where the target has them: {words}."
    elif order <= -least:
        message = (
            f"Dark and bright tissue are swapped: {words}. The target is {info.suffix}, this looks like another "
            "contrast, such as T2, or an inverted image."
        )
    else:
        message = f"Bright and dark are not where the target has them: {words}. Noise, a misplaced head, or no brain."
    return [
        Check(
            name="order of tissues",
            severity=Severity.POOR if wrong else Severity.GOOD,
            message=message,
            value=order,
            limit=(least, None),
            advice="Check that this is the right sequence." if wrong else "",
        )
    ]


@register_check
def halves(evidence: Evidence) -> list[Check]:
    """Whether one half of the head is a copy of the other."""
    limit = (None, evidence.settings.halves_alike)
    severity = graded(evidence.halves, limit, limit)
    alike, most = _decimals(2, evidence.halves, evidence.settings.halves_alike)
    words = f"The head and its mirror image correlate by {alike}; at most {most} is expected"
    return [
        Check(
            name="halves",
            severity=severity,
            message=f"{words}: one half is a copy of the other." if severity else f"{words}.",
            value=evidence.halves,
            limit=limit,
            advice="Do not use this scan or its result: one half of the head is a mirrored copy." if severity else "",
        )
    ]


def places_to_show(evidence: Evidence) -> dict[str, UnlikePlace]:
    """The darkest place and the most unlike one, by name of the check, if the target's scans hardly ever have one."""
    known = {
        "dark place": (evidence.dark, evidence.target.dark_places),
        "unlike place": (evidence.unlike, evidence.target.places),
    }
    return {
        name: place
        for name, (place, usual) in known.items()
        if place and usual and _place_score(place, usual, evidence.settings).high
    }


@register_check
def dark_place(evidence: Evidence) -> list[Check]:
    """Whether tissue is darker somewhere than in the target's scans at that place, as lesions of white matter are."""
    place, usual = evidence.dark, evidence.target.dark_places
    if place is None or usual is None:
        return []
    words = "Tissue at one place is {} standard deviations darker than in the target's scans there"
    return [
        _place_check("dark place", place, usual, words, "a lesion, a shadow, or large ventricles", evidence.settings)
    ]


@register_check
def unlike_place(evidence: Evidence) -> list[Check]:
    """Whether a place of the head is unlike the target's scans at that place, as lesions and artifacts are."""
    name, place, usual = "unlike place", evidence.unlike, evidence.target.places
    if place is None or usual is None:
        info = evidence.target.info
        scans = info.scans + info.held_out.scans
        message = (
            f"The target, learned from {scans} scans, does not know what is usual at each place: single places were "
            f"not looked at. A target that this version learns from {FEWEST} scans or more knows it."
        )
        return [Check(name, Severity.GOOD, message, scans, topic=Topic.METHOD)]
    words = "One place differs from the target's scans by {} standard deviations more than the rest of the head does"
    return [_place_check(name, place, usual, words, "bright vessels, an artifact, or a lesion", evidence.settings)]


def _place_check(
    name: str, place: UnlikePlace, usual: Places, words: str, may_be: str, settings: CheckSettings
) -> Check:
    score = _place_score(place, usual, settings)
    highest = float(np.expm1(score.usual[1]))
    away, most = _decimals(1, place.z, highest)
    there = position(place.centre)
    where = f": about {max(place.ml, 0.1):.1f} ml, {there}; what is wrong may be larger" if score.high else ""
    return Check(
        name=name,
        severity=Severity.CAUTION if score.high else Severity.GOOD,
        message=f"{words.format(away)}; at most {most} is usual{where}.",
        value=place.z,
        limit=(None, highest),
        unit="SD",
        advice=f"Look at the place {there.split(' (')[0]} (the report outlines it in red): {may_be}."
        if score.high
        else "",
        topic=Topic.LIKENESS,
    )


def position(voxel: tuple[int, int, int]) -> str:
    """Where a voxel of the template lies, in words; left and right are the person's.

    Example:
        >>> position((40, 150, 60)), position((80, 96, 130))
        ('on the left, at the front, low down (MNI −40, 38, −16)', 'in the middle, high up (MNI 0, −16, 54)')
    """
    x, y, z = voxel
    side = "on the left" if x < 70 else "on the right" if x > 90 else ""
    depth = "at the front" if y > 125 else "at the back" if y < 70 else ""
    height = "low down" if z < 62 else "high up" if z > 105 else ""
    across = ", ".join(word for word in (side, depth) if word) or "in the middle"
    mni = ", ".join(f"{n:.0f}" for n in apply_affine(load_template().affine, voxel))
    return f"{across}{', ' if height else ''}{height} (MNI {mni})".replace("-", "−")


@register_check
def slice_thickness(evidence: Evidence) -> list[Check]:
    """Whether detail was scanned at all; thick slices are no reason to doubt a result."""
    limit, thickest = evidence.settings.coarse_mm, max(evidence.prepared.native.spacing)
    thick = thickest > limit
    words = f"The scan's voxels are up to {thickest:.1f} mm thick (coarse is more than {limit:g} mm)"
    message = f"{words}: detail that was not scanned is not invented." if thick else f"{words}."
    return [Check("slice thickness", Severity.GOOD, message, value=thickest, unit="mm", note=thick)]


@register_check
def lesions(evidence: Evidence) -> list[Check]:
    """What a lesion mask leaves out of all fits and checks."""
    native = evidence.prepared.native
    if native.lesion is None:
        return []
    left_out = brain_ml(native.inside() & native.lesion, native.spacing)
    share = 100 * left_out / evidence.brain_ml
    odd = left_out == 0
    words = f"The lesion mask leaves {left_out:.1f} ml ({share:.1f} % of the brain) out of every fit and check"
    return [
        Check(
            name="lesion mask",
            severity=Severity.CAUTION if odd else Severity.GOOD,
            message=f"{words}: no lesion lies in the brain." if odd else f"{words}.",
            value=left_out,
            limit=(0.001, None),
            unit="ml",
            advice="Check that the lesion mask belongs to this scan." if odd else "",
        )
    ]


_WHITE = "% of white matter"
_COMPARE = "Compare before and after; look for a wrong sequence, pathology, contrast agent, noise or motion."


@register_check
def intensities(evidence: Evidence) -> list[Check]:
    """Whether the distribution of the intensities is like the target's people's."""
    score = evidence.after.intensities
    if score is None:
        why = f"the target knows {len(evidence.target.quantiles)} scans, three are needed"
        return [not_judged("intensities", why, Topic.LIKENESS)]
    score = score.scaled(evidence.per_cent)
    limit = (None, score.usual[1])
    severity = _rarity(score, limit, evidence.settings)
    digits = digits_apart(score.value, *limit)
    words = (
        f"The {evidence.subject}'s intensities are {_digits(score.value, digits)} % of white matter from the target's "
        f"median scan on average; at most {_digits(score.usual[1], digits)} % is usual ({_among(score)})"
    )
    message = f"{words}: they are not those of the target." if severity else f"{words}."
    return [_likeness("intensities", severity, message, score, limit, _WHITE)]


@register_check
def tissues(evidence: Evidence) -> list[Check]:
    """Whether contrast and the three tissues' intensities are usual."""
    scores = evidence.after.tissues
    if not scores:
        return [not_judged("tissues", "fluid, gray and white matter cannot be told apart", Topic.LIKENESS)]
    checks = []
    for ratio_or_intensity in scores:
        ratio = ratio_or_intensity.name == CONTRAST
        score = ratio_or_intensity if ratio else ratio_or_intensity.scaled(evidence.per_cent)
        severity = _rarity(score, score.usual, evidence.settings)
        unit = "" if ratio else _WHITE
        sign, of_what = ("", "") if ratio else (" %", " of the target's white matter")
        digits = digits_apart(score.value, *score.usual)
        value, low, high = (_digits(number, digits) for number in (score.value, *score.usual))
        words = (
            f"The {evidence.subject}'s {score.name} is {value}{sign}{of_what}; "
            f"{low} to {high}{sign} is usual for the target ({_among(score)})"
        )
        checks.append(_likeness(score.name, severity, f"{words}.", score, score.usual, unit))
    return checks


@register_check
def likelihood(evidence: Evidence) -> list[Check]:
    """Whether the target's flow finds every level of detail as probable as unseen scans of the target."""
    judged = evidence.after.typicality
    if judged is None:
        bare = evidence.target.pyramid is None
        why = "the target has no whole-volume flow" if bare else "the target has no held-out scans to compare with"
        return [not_judged("likelihood", why, Topic.LIKENESS)]
    checks = []
    for index, score in enumerate((*judged.levels, judged.in_all)):
        # Coarser levels that are more probable than usual are no fault; a finest level is: detail is missing.
        limit = (score.usual[0] if index == 0 else None, score.usual[1])
        severity = _rarity(score, limit, evidence.settings)
        if score.low:
            # A smooth image is no wrong one.
            severity = min(severity, Severity.CAUTION)
        what = "likelihood" if score is judged.in_all else score.name
        where = "" if score is judged.in_all else f" in its {what}"
        digits = digits_apart(score.value, *limit)
        value, low, high = (_digits(number, digits) for number in (score.value, *score.usual))
        ends = f"{low} to {high}" if index == 0 else f"at most {high}"
        words = (
            f"The target's flow gives the {evidence.subject} {value} bits a voxel{where}; {ends} is usual for unseen "
            f"scans of the target ({_among(score)}; more bits are less probable)"
        )
        if severity and score.low:
            message = f"{words}: it is smoother than the target's scans, what was not scanned is missing."
        else:
            message = f"{words}: it is improbable on the target scanner." if severity else f"{words}."
        checks.append(_likeness(what, severity, message, score, limit, "bits a voxel"))
    return checks


def _rarity(score: ReferenceScore, limit: Limit, settings: CheckSettings) -> Severity:
    """Good if not rare, poor if beyond what noise or another person explains, a caution between."""
    # With very few reference scans even the limit of what is rare may lie farther out.
    reach = max(settings.unexplained_excess, rare_z(score.count, settings)) * score.spread
    return graded(score.value, limit, (score.mean - reach, score.mean + reach))


def digits_apart(value: float, *limits: float | None) -> int:
    """Digits that count, three or more, with which a value beyond a limit does not look equal to it.

    Example:
        >>> digits_apart(5.9253, 5.9251), digits_apart(5.92, 6.1, None), digits_apart(2.0, 2.0)
        (5, 3, 3)
    """
    near = [limit for limit in limits if limit is not None and limit != value]
    return next((n for n in range(_DIGITS, 9) if all(f"{value:.{n}g}" != f"{limit:.{n}g}" for limit in near)), 9)


def _decimals(decimals: int, value: float, limit: float) -> tuple[str, str]:
    """A value and its limit with so many decimals, or with as many as tell them apart."""
    while f"{value:.{decimals}f}" == f"{limit:.{decimals}f}" and value != limit and decimals < 9:
        decimals += 1
    return f"{value:.{decimals}f}", f"{limit:.{decimals}f}"


def _digits(value: float, digits: int = _DIGITS) -> str:
    """Digits that count, without an exponent where people do not use one."""
    return f"{value:.0f}" if digits <= 4 and 1000 <= abs(value) < 1e7 else f"{value:.{digits}g}"


def _among(score: ReferenceScore) -> str:
    return f"z {score.z:+.1f} among {score.count} target scan{'s' if score.count > 1 else ''}".replace("-", "−")


def _likeness(name: str, severity: Severity, message: str, score: ReferenceScore, limit: Limit, unit: str) -> Check:
    return Check(
        name=name,
        severity=severity,
        message=message,
        value=score.value,
        limit=limit,
        unit=unit,
        advice=_COMPARE if severity else "",
        topic=Topic.LIKENESS,
    )


@register_check
def held_out_scans(evidence: Evidence) -> list[Check]:
    """Whether enough of the target's scans never trained to say what is usual for its flow."""
    held_out = evidence.target.info.held_out.scans
    few = held_out < 2 and evidence.after.typicality is not None
    words = f"The target kept {held_out} scans out of training (at least 2 are needed to say what is usual)"
    rough = f"{evidence.settings.rare_excess:g} rough spreads are the limit of its likelihood"
    message = f"{words}: {rough}." if few else f"{words}."
    return [Check("held-out scans", Severity.GOOD, message, value=held_out, topic=Topic.METHOD, note=few)]


@register_check
def direction(evidence: Evidence) -> list[Check]:
    """Whether the result is nearer to the target than the scan was, or at the target."""
    if not evidence.harmonized:
        return []
    checks = []
    for name, first, second in _pairs(evidence):
        unit = "" if name == "contrast" else "bits a voxel" if name == "likelihood" else _WHITE
        if unit == _WHITE:
            first, second = (score.scaled(evidence.per_cent) for score in (first, second))
        two_sided = name in ("contrast", *_SHADES)
        limit = farthest(first, second, evidence.settings, two_sided=two_sided)
        severity = graded(second.value, limit)
        sentence = _DIRECTION.get(
            name, "The {name} was {before} % of the target's white matter before and is {after} %"
        )
        digits = digits_apart(second.value, *limit)
        words = sentence.format(name=name, before=_digits(first.value, digits), after=_digits(second.value, digits))
        ends = " to ".join(_digits(end, digits) for end in limit if end is not None)
        allowed = ends if two_sided else f"at most {ends}"
        moved = f": harmonizing moved the scan's {name} away from the target's" if severity else ""
        checks.append(
            Check(
                name=f"{DIRECTION_OF}{name}",
                severity=severity,
                message=f"{words}; {allowed} is allowed{moved}.",
                value=second.value,
                limit=limit,
                unit=unit,
                advice=(_IMPROBABLE if name == "likelihood" else _away(evidence)) if severity else "",
                topic=Topic.DIRECTION,
            )
        )
    return checks


_SHADES = ("white matter", "gray matter", "fluid")
_DIRECTION = {
    "intensities": "The intensities were {before} % of white matter from the target's median scan before and are "
    "{after} % after",
    "likelihood": "A voxel of the scan cost {before} bits under the target's flow before and costs {after} after (more "
    "bits are less probable)",
    "contrast": "The ratio of gray to white matter was {before} before and is {after} after",
}


def _pairs(evidence: Evidence) -> list[tuple[str, ReferenceScore, ReferenceScore]]:
    """What is compared before and after; the checks of likeness say what was not judged."""
    before, after = (_directed(comparison) for comparison in (evidence.before, evidence.after))
    return [(name, before[name], after[name]) for name in before if name in after]


def _directed(comparison: Comparison) -> dict[str, ReferenceScore]:
    scores = {"intensities": comparison.intensities} if comparison.intensities else {}
    if comparison.typicality:
        scores["likelihood"] = comparison.typicality.in_all
    return scores | {"contrast" if score.name == CONTRAST else score.name: score for score in comparison.tissues}


def farthest(
    before: ReferenceScore, after: ReferenceScore, settings: CheckSettings, *, two_sided: bool = False
) -> Limit:
    r"""How far a result may lie, given where the scan was.

    The target is not a point: within one standard deviation of its own scans' mean a result is at the target. Beyond
    that it may not be farther than the scan was.

    .. math:: |x' - m| \le \max(|x - m|,\; s)

    Args:
        before: Of the scan.
        after: Of the result; the reference is the same.
        settings: How many standard deviations are at the target.
        two_sided: Whether less is a fault too; else the value is a distance or a cost.

    Example:
        >>> from blindharmony.quality.typicality import reference_score
        >>> near, far = (reference_score("x", value, [0.0, 1.0, 2.0]) for value in (1.5, 5.0))
        >>> farthest(near, far, CheckSettings()), farthest(far, far, CheckSettings())
        ((None, 2.0), (None, 5.0))
    """
    at = settings.farther_spreads * after.spread
    if not two_sided:
        return None, max(before.value, after.mean + at)
    reach = max(abs(before.value - after.mean), at)
    # The scan's own value is allowed to the last digit.
    return min(after.mean - reach, before.value), max(after.mean + reach, before.value)


@register_check
def benefit(evidence: Evidence) -> list[Check]:
    """Whether harmonizing brought the scan nearer to the target at all; where it did not, the scan is returned."""
    first, second = evidence.before.distance, (evidence.tried or evidence.after).distance
    if first is None or second is None or not evidence.harmonized:
        return []
    before, after = _decimals(2, first, second)
    where = (
        f"In contrast, tissues and likelihood together the scan was {before} standard deviations from the target's own"
    )
    words = f"{where} scans, and harmonizing {'makes' if evidence.tried is None else 'would make'} it {after}"
    if evidence.tried is not None:
        if evidence.scanner is not None:
            words = f"{words}. The {evidence.scanner.scans} scans of its scanner {evidence.scanner.effect}"
        elif first == second:
            words = f"{where} scans, which is no more than a curve may err, so its contrast was left as it was"
        else:
            words = f"{words}, so its contrast was left as it was"
        return [Check("benefit", Severity.GOOD, f"{words}.", topic=Topic.METHOD, note=True)]
    limit = (None, max(first, evidence.settings.farther_spreads))
    severity = graded(second, limit)
    return [
        Check(
            name="benefit",
            severity=severity,
            message=f"{words}; at most {_decimals(2, limit[1], second)[0]} is allowed.",
            value=second,
            limit=limit,
            advice=_away(evidence) if severity else "",
            topic=Topic.DIRECTION,
        )
    ]


def _away(evidence: Evidence) -> str:
    if evidence.scanner is not None:
        return (
            "Compare with the scan harmonized alone: `harmonize` without --scanner and --group, `bids` with "
            "--scanner-grouping none."
        )
    return "Compare before and after, and with other scans of its scanner; the scan as it came may be the better one."


_IMPROBABLE = (
    "Look for motion and noise first: they make a scan improbable, and harmonizing does not mend them. If you see any, "
    "use neither scan nor result."
)


@register_check
def need(evidence: Evidence) -> list[Check]:
    """Whether the scan looked like the target to begin with."""
    judged = evidence.before.typicality
    if judged is None or not evidence.harmonized or evidence.tried is not None:
        return []
    limit, worst = evidence.settings.not_needed_excess, judged.worst
    scores = (*evidence.before.tissues, *(x for x in (evidence.before.intensities,) if x))
    alike = worst.z < limit and not any(score.high or score.low for score in scores)
    words = (
        f"The scan's least probable level was {worst.name} before (z {worst.z:+.1f}; below {limit:g} a scan whose "
        "intensities are usual looks like the target to begin with)"
    ).replace("-", "−")
    advice = "The scan looked like the target's to begin with; harmonizing it may not be needed." if alike else ""
    return [Check("need", Severity.GOOD, f"{words}.", value=worst.z, advice=advice, topic=Topic.METHOD)]


@register_check
def bias_field(evidence: Evidence) -> list[Check]:
    """Whether a bias field was found that may be anatomy, and so was left in the scan or taken out in part."""
    bias = evidence.prepared.bias_field
    if bias is None or bias.share == 1:
        return []
    what = "Hardly any uneven shading was found" if bias.share == 0 else "Part of the uneven shading may be anatomy"
    done = "none was taken out" if bias.share == 0 else f"{100 * bias.share:.0f} % of it was taken out"
    message = f"{what}, so {done}."
    return [Check("bias field", Severity.GOOD, message, topic=Topic.METHOD, note=True)]


@register_check
def method_and_file(evidence: Evidence) -> list[Check]:
    """What the reader and the method noticed by themselves."""
    alone = "Compare before and after, and with other scans of its scanner."
    advice = alone if evidence.scanner is None else _away(evidence)
    return [
        *(Check("file", Severity.GOOD, text, topic=Topic.FILE, note=True) for text in evidence.file_warnings),
        *(Check("method", Severity.GOOD, text, topic=Topic.METHOD, note=True) for text in evidence.method_warnings),
        *(Check("fit", Severity.CAUTION, text, advice=advice, topic=Topic.METHOD) for text in evidence.doubts),
    ]
