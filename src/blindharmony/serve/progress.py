"""How far a job is: the stages of a scan in plain words, and their share of its time as measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
