"""A job of the page as a piece of work: harmonize its scans, and say how far that is.

The page's server hands a :class:`PageJob` to a process of its own (:class:`~blindharmony.jobs.processes.WorkerProcess`)
and never loads what computes: that is imported inside ``do``.
"""

from __future__ import annotations

import shutil
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blindharmony.errors import ErrorCode, TooFewScansError
from blindharmony.jobs.engine import Answer, Failure, FilePath, Tell, Work
from blindharmony.serve.store import Outcome
from blindharmony.settings import HarmonizeSettings

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.models.target import Target
    from blindharmony.result import HarmonizeResult

# Stage → words, and when it begins on a typical scan (two cores, 1 mm).
_STAGES = {
    "starting": ("Starting", 0.0),
    "preparing": ("Finding the brain and its shading", 0.05),
    "correcting": ("Taking the shading out", 0.42),
    "harmonizing": ("Harmonizing", 0.56),
    "judging": ("Checking the result", 0.78),
    "returning": ("Back to the scan's own grid", 0.91),
    "writing": ("Writing results and report", 0.94),
}
_NAMES = tuple(_STAGES)
_ALONE = "This scan was harmonized alone: fewer than two scans of its scanner could be prepared."


class JobAnswer(Answer):
    """What became of the scans of a job.

    Attributes:
        outcomes: Of each scan, in the job's order.
    """

    outcomes: tuple[Outcome, ...]


class PageJob(Work):
    """A job of the page.

    Attributes:
        scans: Files.
        labels: What their owner calls them.
        results: Folder for the results, emptied first.
        cache: Folder for prepared scans, emptied first and removed in the end.
        target: File or included name of the target model.
        together: Whether the scans are of one scanner and fitted together.
        device: Where it is computed.
    """

    answers = JobAnswer

    scans: tuple[FilePath, ...]
    labels: tuple[str, ...]
    results: FilePath
    cache: FilePath
    target: str
    together: bool = False
    device: str = "cpu"

    def do(self, tell: Tell) -> JobAnswer:
        """Harmonize every scan; one that fails does not stop the others.

        Raises:
            BlindHarmonyError: If the target model or the device is not there, or the disk is full.
        """
        tell("Starting", 0.0)
        from blindharmony.device import resolved_device
        from blindharmony.models.file import load_target

        device, target = resolved_device(self.device), load_target(self.target)
        together = self.together and len(self.scans) > 1
        # With fewer looks than there may be, the share of the job only jumps.
        looks = 1 + HarmonizeSettings().looks_after(target.info.recipe.bias) if together else 0
        course = Course(tell, pieces=(1 + looks) * len(self.scans), piece=-1)
        for left in (self.results, self.cache):
            shutil.rmtree(left, ignore_errors=True)
        try:
            scanner = self._learnt(target, device, course) if together else None
            course.piece = looks * len(self.scans) - 1
            outcomes = []
            for scan, label in zip(self.scans, self.labels, strict=True):
                course.next(label if len(self.scans) > 1 else "")
                outcome = self._harmonized(scan, target, scanner, device, self.cache if together else None, course)
                if together and scanner is None and outcome.files:
                    outcome = outcome.model_copy(update={"warnings": (*outcome.warnings, _ALONE)})
                outcomes.append(outcome)
        finally:
            shutil.rmtree(self.cache, ignore_errors=True)
        return JobAnswer(outcomes=tuple(outcomes))

    def _learnt(self, target: Target, device: str, course: Course) -> ScannerModel | None:
        """One scanner model for all scans, None if fewer than two can be used.

        Those that cannot be prepared are told when their turn comes. A full disk ends the job.
        """
        from blindharmony.api import learn_scanner

        def looking(look: int, index: int) -> None:
            course.next(self.labels[index])
            course.say(f"Look {look} of the scanner", 0.0)

        try:
            return learn_scanner(
                self.scans,
                target,
                device=device,
                cache=self.cache,
                fewest=2,
                on_error=lambda index, error: None,
                progress=looking,
            )
        except TooFewScansError:
            return None

    def _harmonized(
        self,
        scan: Path,
        target: Target,
        scanner: ScannerModel | None,
        device: str,
        cache: Path | None,
        course: Course,
    ) -> Outcome:
        from blindharmony.api import harmonize

        try:
            result = harmonize(scan, target, scanner=scanner, device=device, cache=cache, progress=course)
            course("writing", 0.0)
            files = result.save(self.results, viewer=True)
            pictures = _pictures(result, self.results)
            course("writing", 1.0)
        except Exception as error:
            failure = Failure.of(error)
            if failure.code is ErrorCode.INTERNAL:
                traceback.print_exc()
            return on_the_page(failure)
        return Outcome(
            files=tuple(file.name for file in files),
            pictures=pictures,
            verdict=result.verdict.level,
            headline=result.verdict.headline,
            warnings=tuple(result.warnings),
            seconds=round(sum(result.seconds.values()), 1),
        )


def _pictures(result: HarmonizeResult, folder: Path) -> tuple[str, ...]:
    """Write slices before and after beside the results, for the page to show."""
    from blindharmony.files import split_name, write_bytes
    from blindharmony.report.pictures import before_and_after, jpeg_file

    images = before_and_after(result.steps.scan, result.steps.result, result.prepared.scan.inside())
    stem = split_name(result.name)[0]
    names = tuple(f"{stem}_{word}.jpg" for word in ("before", "after"))
    for name, pixels in zip(names, images, strict=True):
        write_bytes(folder / name, jpeg_file(pixels).getvalue(), overwrite=True)
    return names


@dataclass
class Course:
    """Turns stages of pieces of work into one share that never falls.

    Attributes:
        tell: Gets words and share.
        pieces: How many equal pieces the job has.
        piece: Which one is being worked on, from 0.
        about: What it is, shown behind the stage.

    Example:
        >>> course = Course(lambda stage, share: print(stage, "|", share), pieces=2)
        >>> course("judging", 0.0)
        Checking the result | 0.39
        >>> course.next("b.nii")
        >>> course("preparing", 0.0)
        Finding the brain and its shading: b.nii | 0.525
        >>> course("harmonizing", 0.5)
        Harmonizing: b.nii | 0.835
    """

    tell: Tell
    pieces: int = 1
    piece: int = 0
    about: str = ""
    _share: float = field(default=0.0, repr=False)

    def __call__(self, stage: str, share: float) -> None:
        """Say that a stage is done to some share."""
        words, begin = _STAGES.get(stage, (stage, 0.0))
        place = _NAMES.index(stage) if stage in _STAGES else 0
        end = _STAGES[_NAMES[place + 1]][1] if place + 1 < len(_NAMES) else 1.0
        self.say(words, begin + min(max(share, 0.0), 1.0) * (end - begin))

    def say(self, words: str, share: float) -> None:
        """Say what is being done, and the share of this piece that is done."""
        self._share = max(self._share, min(1.0, (self.piece + share) / self.pieces))
        self.tell(f"{words}: {self.about}" if self.about else words, round(self._share, 4))

    def next(self, about: str = "") -> None:
        """Go on to the next piece."""
        self.piece += 1
        self.about = about


# What somebody without a command line can do about it.
_REMEDIES = {
    ErrorCode.OUT_OF_MEMORY: "close other programs and press Try again",
    ErrorCode.DISK_FULL: "free some space and press Try again",
    ErrorCode.INTERNAL: "please report it, with this sentence",
}


def on_the_page(failure: Failure) -> Outcome:
    """A problem in the words of the page: no folders, and options are for whoever has a command line.

    Example:
        >>> from blindharmony.errors import InputError
        >>> on_the_page(Failure.of(InputError("no brain", remedy="give one with --mask", path="x.nii"))).remedy
        'on the command line: give one with --mask'
    """
    remedy = _REMEDIES.get(failure.code, failure.remedy)
    return Outcome(reason=failure.what, remedy=f"on the command line: {remedy}" if "--" in remedy else remedy)
