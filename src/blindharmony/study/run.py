"""A cohort from first to last scan: every scan ends as done, failed with a reason, or not started."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from blindharmony.errors import OutputError
from blindharmony.lock import locked
from blindharmony.study.engines.task import Engine, Outcome, Task
from blindharmony.study.failures import write_failures
from blindharmony.study.group_run import WORK, GroupRun, Run
from blindharmony.study.layout import Scan
from blindharmony.study.ledger import Ledger
from blindharmony.study.planning import Plan
from blindharmony.study.publish import remove
from blindharmony.study.settings import Item, Settings

_TRIES = 2
_FULL = ("the disk is full", "No space left on device")


@dataclass
class Tally:
    """How the scans of a run ended.

    Attributes:
        total: How many there are.
        done: Harmonized now.
        kept: Were done before.
        failed: Scan → reason.
        seconds: Of each scan done now.
        stage: What was finished last: ``look``, ``fit`` or ``harmonize``.
        pieces: Pieces of work finished, and handed out so far.
        last: Record of the scan harmonized last.
    """

    total: int
    done: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    stage: str = ""
    pieces: tuple[int, int] = (0, 0)
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Pieces of work still to be done, as far as is known: scans that are being looked at are harmonized later."""
        finished, handed_out = self.pieces
        waiting = handed_out - finished
        return waiting if self.stage == "harmonize" else max(waiting, 0) + self.total - self.finished

    @property
    def finished(self) -> int:
        """Scans that need nothing more."""
        return self.done + self.kept + len(self.failed)


Say = Callable[[str, Tally], None]


def run_study(
    plan: Plan,
    settings: Settings,
    ledger: Ledger,
    engine: Engine,
    *,
    module: str = WORK,
    scratch: int = 500,
    say: Say = lambda line, tally: None,
) -> Tally:
    """Do what is left to do of a plan. The caller holds the lock (:func:`held`).

    Args:
        plan: Scans in groups.
        settings: What they are harmonized with.
        ledger: What is done; kept up to date scan by scan.
        engine: Who does the work; not closed.
        module: Where the pieces of work are.
        scratch: The largest group whose prepared scans are kept on disk between the stages.
        say: Called with a line (or an empty one) whenever something has happened.

    Raises:
        OutputError: If the disk is full or records cannot be written. What is finished is kept.
    """
    tally = Tally(sum(len(group.scans) for group in plan.groups))

    def kept(item: Item) -> None:
        tally.kept += 1
        shutil.rmtree(ledger.scan(item.scan.id) / "prepared", ignore_errors=True)
        say("", tally)

    def refuse(scan: Scan, why: str) -> None:
        _fail(ledger, scan, why)
        tally.failed[scan.id] = why
        say(f"{scan.id}: failed: {why}", tally)

    run = Run(
        id=secrets.token_hex(6),
        ledger=ledger,
        settings=settings,
        module=module,
        scratch=scratch,
        kept=kept,
        failed=lambda item, why: refuse(item.scan, why),
        note=lambda line: say(line, tally),
    )
    owner: dict[str, GroupRun] = {}
    tries: dict[str, int] = {}

    def submit(tasks: Sequence[Task], group: GroupRun) -> None:
        for task in tasks:
            owner[task.name], tries[task.name] = group, 1
            tally.pieces = (tally.pieces[0], tally.pieces[1] + 1)
            engine.submit(task)

    try:
        for scan, why in plan.unreadable:
            if ledger.finished(scan.id):
                # Nobody knows that the scan has changed: it may only not be fetched, or its disk not be there today.
                why = f"{why}; its earlier result is kept"
                tally.failed[scan.id] = why
                say(f"{scan.id}: failed: {why}", tally)
            else:
                refuse(scan, why)
        for group in plan.groups:
            if items := [plan.items[s.id] for s in group.scans if s.id in plan.items]:
                begun = GroupRun(group, items, run)
                submit(begun.start(), begun)
        for outcome in engine.finished():
            if outcome.lost and tries[outcome.task.name] < _TRIES:
                tries[outcome.task.name] += 1
                say(f"{outcome.task.name}: {outcome.error}; trying once more", tally)
                engine.submit(outcome.task)
                continue
            _stop_if_full(outcome)
            tally.pieces = (tally.pieces[0] + 1, tally.pieces[1])
            tally.stage = outcome.task.name.partition(" ")[0]
            if outcome.task.name.startswith("harmonize ") and outcome.error is None:
                tally.done += 1
                tally.seconds.append(float(outcome.value.get("seconds") or 0))
                tally.last = outcome.value
                say(_finished(outcome.value), tally)
            else:
                say("", tally)
            mine = owner.pop(outcome.task.name)
            submit(mine.after(outcome), mine)
    except BaseException:
        # The first trouble is the one to report, a full disk for example.
        with suppress(OutputError):
            write_failures(ledger, plan)
        raise
    write_failures(ledger, plan)
    return tally


@contextmanager
def held(ledger: Ledger, participants: Sequence[str] = ()) -> Iterator[Ledger]:
    """The ledger for one run alone, without the leftovers of runs that were killed.

    Args:
        ledger: Of the output folder.
        participants: If only these are worked on, and every scan alone, runs of other participants may work beside it;
            leftovers then stay for the next run that has the folder to itself.

    Raises:
        OutputError: If another run works in this folder, or on one of these participants.
    """
    with ExitStack() as stack:
        stack.enter_context(locked(ledger.home / "lock", shared=bool(participants)))
        for label in sorted({p.removeprefix("sub-") for p in participants}):
            stack.enter_context(locked(ledger.home / "locks" / label, folder=ledger.out))
        if not participants:
            ledger.sweep()
        yield ledger


def _fail(ledger: Ledger, scan: Scan, why: str) -> None:
    # What is there was made from other input or with other settings: it must not pass for this run's result.
    old = ledger.record(scan.id) or {}
    remove(ledger.out, list(old.get("outputs", {})))
    shutil.rmtree(ledger.scan(scan.id) / "prepared", ignore_errors=True)
    ledger.write(scan.id, {"scan": scan.place, "status": "failed", "reason": why})


def _finished(record: dict[str, Any]) -> str:
    name = str(record.get("scan", "")).rpartition("/")[2]
    return f"{name}: {record.get('headline', 'done')} ({record.get('seconds', 0):.0f} s)"


def _stop_if_full(outcome: Outcome) -> None:
    """A full disk fails every scan alike: better to stop than to try them all."""
    if outcome.error and any(words in outcome.error for words in _FULL):
        raise OutputError(
            "the disk is full", remedy="free some space and run the same command again; what is finished is kept"
        )
