"""What a worker process does with one job."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.errors import BlindHarmonyError, out_of_memory
from blindharmony.serve.job import Outcome
from blindharmony.serve.progress import Course, Tell

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.harmonization.summary import ScanSummary
    from blindharmony.target import Target

_LOOKS = ("First look", "Second look", "Third look")
_ALONE = "This scan was harmonized alone: fewer than two scans of its scanner could be prepared."


def run(asked: Mapping[str, Any], tell: Tell) -> None:
    """Harmonize every scan of a job; one that fails does not stop the others.

    Args:
        asked: ``scans`` (files), ``labels``, ``results`` (folder), ``cache`` (folder), ``target``, ``together``,
            ``device``.
        tell: Gets what becomes of each scan, and how far the work is.

    Raises:
        BlindHarmonyError: If the target model or the device is not there.
    """
    tell({"stage": "Starting", "share": 0.0})
    from blindharmony.device import resolved_device
    from blindharmony.target import load_target

    device = resolved_device(asked["device"])
    target = load_target(asked["target"])
    scans, labels = [Path(scan) for scan in asked["scans"]], list(asked["labels"])
    together = asked["together"] and len(scans) > 1
    course = Course(tell, pieces=(1 + len(_LOOKS) if together else 1) * len(scans), piece=-1)
    cache = Path(asked["cache"]) if together else None
    results = Path(asked["results"])
    for left in (results, Path(asked["cache"])):
        shutil.rmtree(left, ignore_errors=True)
    try:
        scanner = _fitted(scans, labels, target, device, cache, course) if cache else None
        for index, (scan, label) in enumerate(zip(scans, labels, strict=True)):
            course.next(label if len(scans) > 1 else "")
            found = _one(scan, target, scanner, device, cache, results, course)
            if together and scanner is None and found.files:
                found = found.model_copy(update={"warnings": (*found.warnings, _ALONE)})
            tell({"scan": index, "outcome": found.model_dump(mode="json")})
    finally:
        shutil.rmtree(Path(asked["cache"]), ignore_errors=True)


def _one(
    scan: Path,
    target: Target,
    scanner: ScannerModel | None,
    device: str,
    cache: Path | None,
    results: Path,
    course: Course,
) -> Outcome:
    from blindharmony.pipeline import harmonize

    try:
        found = harmonize(scan, target, scanner=scanner, device=device, cache=cache, progress=course)
        course("writing", 0.0)
        files = found.save(results, viewer=True)
        course("writing", 1.0)
    except BlindHarmonyError as error:
        return failure(error)
    except Exception as error:
        if out_of_memory(error):
            return Outcome(reason="there is not enough memory", remedy="close other programs and press Try again")
        import traceback

        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"[:200]
        return Outcome(reason=f"the program made a mistake ({said})", remedy="please report it, with this sentence")
    return Outcome(
        files=tuple(file.name for file in files),
        verdict=found.trust.level,
        headline=found.trust.headline,
        warnings=tuple(found.warnings),
        seconds=round(sum(found.seconds.values()), 1),
    )


def failure(error: BlindHarmonyError) -> Outcome:
    """A problem in the words of the page: no folders, and options are for whoever has a command line.

    Example:
        >>> failure(BlindHarmonyError("no brain found", remedy="give one with --mask", path="/home/x.nii")).remedy
        'on the command line: give one with --mask'
    """
    options = "--" in error.remedy
    return Outcome(reason=error.what, remedy=f"on the command line: {error.remedy}" if options else error.remedy)


def _fitted(
    scans: Sequence[Path], labels: Sequence[str], target: Target, device: str, cache: Path, course: Course
) -> ScannerModel | None:
    """One scanner model for all scans; those that cannot be prepared are told when their turn comes."""
    from blindharmony.group import fitted_in_rounds, summarize_scan

    def look(so_far: ScannerModel | None) -> list[ScanSummary]:
        found = []
        for scan, label in zip(scans, labels, strict=True):
            course.next(label)
            course.say(_LOOKS[len(so_far.rounds) if so_far else 0], 0.0)
            try:
                found.append(summarize_scan(scan, target, scanner=so_far, device=device, cache=cache))
            except Exception:
                continue
        return found

    model = fitted_in_rounds(look, target, least=2)
    course.piece = len(_LOOKS) * len(scans) - 1
    return model
