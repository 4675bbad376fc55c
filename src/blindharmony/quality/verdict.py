"""The verdict on a result: the worst of its checks, in plain words.

``harmonize``, ``assess``, ``bids``, the browser page and Python all give this verdict. What ``assess`` says beside it
(target-like, foreign, not explainable) is a view of the same checks, made once of the scan as it came and once of its
result: a result that is good is never called not explainable, and one that is called so is never good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from blindharmony.quality.checks import DIRECTION_OF, PLACES, Check, Evidence, MaskFit, Severity, Topic, run_checks
from blindharmony.quality.typicality import ReferenceScore

Level = Literal["good", "caution", "poor"]
_LEVELS: dict[Severity, Level] = {Severity.GOOD: "good", Severity.CAUTION: "caution", Severity.POOR: "poor"}
# A headline with more names is no headline.
_MOST_NAMES = 3


@dataclass(frozen=True)
class Verdict:
    """All checks of a result, and what follows from them.

    Attributes:
        checks: In the order in which they were made.
        target: Name of the target, for the words.
        returned: Whether the scan was returned as it was, because harmonizing did not help.

    Example:
        >>> fine = Check("registration", Severity.GOOD, "The overlap is 0.95; at least 0.90 is expected.", 0.95)
        >>> odd = Check("brain volume", Severity.CAUTION, "The mask has 400 ml; 850 to 2100 are expected.", 400.0)
        >>> Verdict((fine,), "mysite").level, Verdict((fine, odd), "mysite").headline
        ('good', 'Harmonized, but look at it before you use it: brain volume.')
        >>> away = Check("direction of fluid", Severity.CAUTION, "The fluid was 30 % before and is 50 % after.", 50.0)
        >>> Verdict((odd, away), "mysite").headline
        'Harmonized, but look at it before you use it: brain volume; moved away from the target in fluid.'
    """

    checks: tuple[Check, ...]
    target: str
    returned: bool = False

    @property
    def severity(self) -> Severity:
        """The worst of all checks; a caution if there is none, because nothing was judged then."""
        return max((check.severity for check in self.checks), default=Severity.CAUTION)

    @property
    def level(self) -> Level:
        """``good``, ``caution`` (look at it) or ``poor`` (do not use it without a reason)."""
        return _LEVELS[self.severity]

    @property
    def headline(self) -> str:
        """One sentence."""
        done = "Contrast left as it was" if self.returned else "Harmonized"
        if self.severity is Severity.GOOD:
            return f"{done}. All measures are usual for scans of {self.target}."
        worst = [check for check in self.checks if check.severity is self.severity]
        away = [check for check in worst if check.name.startswith(DIRECTION_OF) and not check.missing]
        others = [check for check in worst if check not in away]
        names = list(dict.fromkeys(f"{c.name} not judged" if c.missing else c.name for c in others))
        more = len(names) - _MOST_NAMES
        listed = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        moved = ", ".join(check.name.removeprefix(DIRECTION_OF) for check in away)
        reasons = (listed, f"moved away from the target in {moved}" if moved else "")
        listed = "; ".join(reason for reason in reasons if reason) or "nothing was judged"
        if self.severity is Severity.CAUTION:
            return f"{done}, but look at it before you use it: {listed}."
        return f"Harmonizing cannot mend this; do not use it without a reason. Failed: {listed}."

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before using the result, one sentence each, the worst first."""
        return self.reasons + self.notes

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not good, one sentence each, the worst first; empty if it is."""
        found = sorted((check for check in self.checks if check.severity), key=lambda check: -check.severity)
        return tuple(check.message for check in found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know though it is no reason to doubt the result, one sentence each."""
        return tuple(check.message for check in self.checks if check.note and not check.severity)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, one sentence each."""
        ordered = sorted(self.checks, key=lambda check: -check.severity)
        if self.severity:  # what to do about a fault, not that all is well otherwise
            ordered = [check for check in ordered if check.severity or check.note]
        return tuple(dict.fromkeys(check.advice for check in ordered if check.advice))

    def named(self, name: str) -> Check | None:
        """The first check of this name, None if there is none."""
        return next((check for check in self.checks if check.name == name), None)

    def of(self, topic: Topic) -> tuple[Check, ...]:
        """The checks of one topic."""
        return tuple(check for check in self.checks if check.topic is topic)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, words and lists."""
        return {
            "level": self.level,
            "headline": self.headline,
            "checks": [check.as_json() for check in self.checks],
        }


def judge(evidence: Evidence) -> Verdict:
    """Make every registered check.

    Args:
        evidence: See :func:`~blindharmony.quality.checks.gather_evidence`.
    """
    return Verdict(run_checks(evidence), evidence.target.info.name, returned=evidence.tried is not None)


def harms(evidence: Evidence) -> bool:
    """Whether the scan is better returned as it was.

    It is if harmonizing leaves it as far from the target's own scans as it was, or takes it farther away
    (:attr:`~blindharmony.quality.typicality.Comparison.distance`); and if nothing about the scan would be rare among
    them, but something about the result would, or moved away from them.

    Args:
        evidence: Of the result that was tried.
    """
    first, second = evidence.before.distance, evidence.after.distance
    if first is not None and second is not None and second >= first:
        return True
    fault_of_result = any(
        check.severity > Severity.GOOD and check.judged and check.topic in (Topic.LIKENESS, Topic.DIRECTION)
        for check in judge(evidence).checks
        if check.name not in PLACES
    )
    return fault_of_result and not _faults_of_scanner(judge(evidence.as_it_came()))


def decided(evidence: Evidence, *, guarded: bool) -> bool:
    """Whether the scan as it came decides what :func:`likeness` will say, however it is harmonized.

    It does if the head is wrong, which no harmonization mends. It does as well if nothing about the scan would be rare
    among the target's own: a result with a fault is then not kept (:func:`harms`).

    Args:
        evidence: Of the scan (:func:`~blindharmony.quality.checks.gather_evidence` without a result).
        guarded: Whether a scan that harmonizing does not help is returned as it was.
    """
    verdict = judge(evidence)
    if any(check.severity is Severity.POOR for check in verdict.of(Topic.HEAD)):
        return True
    judged = any(check.judged for check in verdict.of(Topic.LIKENESS))
    return guarded and judged and not _faults_of_scanner(verdict)


Likeness = Literal["target-like", "foreign", "not explainable"]

_LIKENESS: dict[Likeness, str] = {
    "target-like": "hardly to be told from the target's own scans",
    "foreign": "not like the target's scans, but like them once harmonized",
    "not explainable": "not like the target's scans, and harmonizing does not mend it",
}


def likeness(before: Verdict, after: Verdict) -> tuple[Likeness, tuple[str, ...]]:
    """Whether a scan is like the target, like it once harmonized, or neither.

    * *not explainable*: the result is poor, or it is unlike the target and so was the scan, or nothing tells how alike
      they are;
    * *target-like*: no check of likeness finds fault with the scan as it came;
    * *foreign*: one does, and none with the result.

    Args:
        before: Verdict on the scan as it came (:meth:`~blindharmony.quality.checks.Evidence.as_it_came`).
        after: Verdict on the result.

    Returns:
        The word, and the reasons, one sentence each; empty for ``target-like``.
    """
    scan_faults, result_faults = _faults(before), _faults(after)
    if after.severity is Severity.POOR:
        poor = [check for check in after.checks if check.severity is Severity.POOR]
        return "not explainable", _messages([*poor, *result_faults])
    if after.severity > Severity.GOOD and not any(check.judged for check in after.of(Topic.LIKENESS)):
        return "not explainable", _messages(after.of(Topic.LIKENESS))
    if not scan_faults:
        return "target-like", ()
    return ("not explainable", _messages(result_faults)) if result_faults else ("foreign", _messages(scan_faults))


def _faults(verdict: Verdict) -> list[Check]:
    return [check for check in verdict.of(Topic.LIKENESS) if check.judged and check.severity > Severity.GOOD]


def _faults_of_scanner(verdict: Verdict) -> list[Check]:
    """What harmonizing might mend: an unusual place is the head's own."""
    return [check for check in _faults(verdict) if check.name not in PLACES]


def _messages(checks: Sequence[Check]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(check.message for check in checks))


class Assessment(BaseModel):
    """What is known about one scan and the target scanner before anything is harmonized for good.

    Attributes:
        scan: File name.
        path: The file, None for an image in memory.
        target: Name of the target.
        verdict: ``target-like``: nothing about the scan is rare among target scans. ``foreign``: something is, and
            nothing after harmonization. ``not explainable``: something still is, or the mask or the order of tissues
            is wrong, which no intensity curve can mend.
        headline: The verdict in plain words.
        harmonized: The verdict that ``harmonize`` gives: ``good``, ``caution`` or ``poor``; None if it was not tried,
            because the scan as it came decides.
        reasons: What led to it, one sentence each; empty for ``target-like``.
        warnings: What else to look at.
        before: The scan beside the target's scans: intensities, each level of the flow, all levels together.
        after: The same after harmonization; empty if it was not tried.
        checks: Every check of the result, with value, limit, severity, sentence and advice; of the scan if
            harmonization was not tried.
        mask: The brain mask beside those of the target.
        brain_ml: Volume of the mask on the scan's own grid.
        order: Rank correlation with the target's mean head.
        overlap: Dice overlap of the mask with the template's brain after registration; None if it was not registered.
        method: Harmonization that was tried, or would have been.
        seconds: Time it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scan: str
    path: str | None
    target: str
    verdict: Likeness
    headline: str
    harmonized: Level | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    before: tuple[ReferenceScore, ...]
    after: tuple[ReferenceScore, ...]
    checks: tuple[Check, ...]
    mask: MaskFit
    brain_ml: float
    order: float
    overlap: float | None
    method: str
    seconds: float

    @classmethod
    def of(cls, evidence: Evidence, path: Path | None, *, method: str, seconds: float) -> Assessment:
        """Judge the evidence twice, as a result and as the scan that it came from.

        Args:
            evidence: Of the result that was tried, or of the scan if none was.
            path: The scan's file, None for an image in memory.
            method: Harmonization that was tried.
            seconds: Time it took.
        """
        verdict = judge(evidence)
        word, reasons = likeness(judge(evidence.as_it_came()), verdict)
        return cls(
            scan=path.name if path else "scan",
            path=str(path) if path else None,
            target=verdict.target,
            verdict=word,
            headline=_LIKENESS[word],
            harmonized=verdict.level if evidence.harmonized else None,
            reasons=reasons,
            warnings=tuple(warning for warning in verdict.warnings if warning not in reasons),
            before=evidence.before.rows,
            after=evidence.after.rows if evidence.harmonized else (),
            checks=verdict.checks,
            mask=evidence.mask,
            brain_ml=evidence.brain_ml,
            order=evidence.order,
            overlap=evidence.overlap,
            method=method,
            seconds=seconds,
        )

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, words and lists."""
        checks = [check.as_json() for check in self.checks]
        return self.model_dump(mode="json", by_alias=True, exclude={"checks"}) | {"checks": checks}
