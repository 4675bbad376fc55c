"""The process that harmonizes for the page.

How far a job is: the stages of a scan in plain words, and their share of its time as measured.

What a worker process does with one job.

A worker process: one job in as a line of JSON, lines of JSON out, then it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.errors import BlindHarmonyError, out_of_memory
from blindharmony.serve.store import Outcome

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.harmonization.summary import ScanSummary
    from blindharmony.models.target import Target

Tell = Callable[[dict[str, Any]], None]

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


@dataclass
class Course:
    """Turns stages of pieces of work into one share that never falls.

    Attributes:
        tell: Gets the messages.
        pieces: How many equal pieces the job has.
        piece: Which one is being worked on, from 0.
        about: What it is, shown behind the stage.

    Example:
        >>> course = Course(lambda m: print(m["stage"], "|", m["share"]), pieces=2)
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
        text = f"{words}: {self.about}" if self.about else words
        self.tell({"stage": text, "share": round(self._share, 4)})

    def next(self, about: str = "") -> None:
        """Go on to the next piece."""
        self.piece += 1
        self.about = about


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
    from blindharmony.models.file import load_target

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
    from blindharmony.api import harmonize

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
    from blindharmony.api import fitted_in_rounds, summarize_scan

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


def main() -> None:
    """Do one job."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run(asked, tell)
        tell({"end": True})
    except BlindHarmonyError as error:
        found = failure(error)
        tell({"end": True, "reason": found.reason, "remedy": found.remedy})
    except MemoryError:
        why = "there is not enough memory"
        tell({"end": True, "reason": why, "remedy": "close other programs and press Try again"})


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread that holds its lock would make Python's own end wait, then abort.
    while os.read(0, 4096):
        pass
    # The parent is gone, killed perhaps: its successor will do this job again.
    os._exit(1)


if __name__ == "__main__":
    main()
