"""A job: one scan, or several of one scanner, and what became of it."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

FORMAT = 1
JobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
# A name that leads into no other folder and hides nothing.
Leaf = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=r"^[^./\\\x00][^/\\\x00]*$")]


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more happens by itself.

        Example:
            >>> State.RUNNING.over, State.CANCELLED.over
            (False, True)
        """
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Outcome(_Record):
    """What became of one scan.

    Attributes:
        files: Names of the results, the harmonized scan first; none if it failed.
        verdict: ``good``, ``caution`` or ``poor``.
        headline: The verdict in a sentence.
        warnings: What to know before using it.
        seconds: How long it took.
        reason: Why there is no result.
        remedy: What can be done about that.
    """

    files: tuple[Leaf, ...] = ()
    verdict: str = ""
    headline: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    remedy: str = ""


class JobScan(_Record):
    """A scan of a job.

    Attributes:
        label: What its owner calls it: to be shown, never to be opened.
        leaf: What it is called in the job's folder.
        size: Bytes.
        outcome: What became of it, once that is known.
    """

    label: str
    leaf: Leaf
    size: int
    outcome: Outcome | None = None


class Job(_Record):
    """A job as it is kept on disk.

    Attributes:
        format: Version of this record.
        id: Made here, never by a browser.
        created: Seconds since 1970; the queue's order.
        target: File or included name of the target model.
        target_name: What to call it.
        together: Whether the scans are of one scanner and fitted together.
        scans: The scans.
        state: Where it stands.
        started: When it was begun last.
        finished: When it was over.
        reason: Why it failed as a whole.
        remedy: What can be done about that.
        interrupted: How often the program was killed while it ran.
    """

    format: int = FORMAT
    id: JobId
    created: float
    target: str
    target_name: str
    together: bool = False
    scans: tuple[JobScan, ...] = Field(min_length=1)
    state: State = State.QUEUED
    started: float | None = None
    finished: float | None = None
    reason: str = ""
    remedy: str = ""
    interrupted: int = Field(default=0, ge=0)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all results."""
        return tuple(file for scan in self.scans if scan.outcome for file in scan.outcome.files)

    def again(self) -> Job:
        """The same job, as if it had not been begun."""
        fresh = tuple(scan.model_copy(update={"outcome": None}) for scan in self.scans)
        nothing = {"started": None, "finished": None, "reason": "", "remedy": ""}
        return self.model_copy(update={"scans": fresh, "state": State.QUEUED, **nothing})


def new_id() -> str:
    """A name that nobody can guess.

    Example:
        >>> len(new_id()), new_id() == new_id()
        (16, False)
    """
    return secrets.token_hex(8)
