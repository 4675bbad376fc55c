"""A cohort from first to last scan: every scan ends as done, failed with a reason, or not started.

:func:`make_plan` reads every scan once and notes what is to be done. :func:`run_study` hands the work to an engine:

1. a group of scans (one scanner, one sequence) is looked at, scan by scan
   (:class:`~blindharmony.study.work.LookAtScan`);
2. its scanner is fitted to all of them (:class:`~blindharmony.study.work.FitScanner`), and if that is not enough the
   scans are looked at and fitted once more, corrected by what is known so far. Scans that come later take the curve
   that is there (:class:`~blindharmony.study.work.PresentFit`), so that what is done stays as it is;
3. each is harmonized (:class:`~blindharmony.study.work.HarmonizeScan`). A scan that goes alone begins here.

What the ledger says is done with the same scan, mask, settings and scanner is not done again. In the end
:func:`write_failures` lists what has no result, and why.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Protocol

from blindharmony.errors import OF_THE_MACHINE, DiskFullError, ErrorCode, OutputError
from blindharmony.io.bids import LESION, Scan, find_mask
from blindharmony.jobs.engine import Engine, Failure, Outcome, Task
from blindharmony.locks import locked
from blindharmony.study.groups import Group
from blindharmony.study.ledger import HARMONIZED, LOOKS, PREPARED, Ledger, file_state, old_hashes, remove
from blindharmony.study.work import (
    FitScanner,
    HarmonizeScan,
    Item,
    LookAtScan,
    PresentFit,
    ScannerFit,
    ScanRecord,
    Stage,
    StudySettings,
    StudyWork,
    brought_up,
)


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes:
        groups: All scans, in groups.
        items: Scans that can be read, by id.
        unreadable: Scans that cannot, with the reason.
    """

    groups: Sequence[Group]
    items: Mapping[str, Item]
    unreadable: Sequence[tuple[Scan, str]] = ()

    @property
    def without_mask(self) -> int:
        """Scans for which no mask is given."""
        return sum(item.mask is None for item in self.items.values())


def make_plan(
    groups: Sequence[Group], ledger: Ledger, *, masks: Path | None = None, lesions: Path | None = None
) -> Plan:
    """Read every scan and mask once, and note in each scan's record what is planned for it.

    Args:
        groups: The scans.
        ledger: Keeps hashes and plan.
        masks: Derivatives with brain masks.
        lesions: Derivatives with lesion masks.

    Raises:
        OutputError: If the ledger cannot be written.
    """
    hashes = old_hashes(ledger)
    work = [(scan, group) for group in groups for scan in group.scans]

    def looked_up(entry: tuple[Scan, Group]) -> Item | str:
        path = entry[0].path
        drawn = {"mask": masks and find_mask(masks, path), "lesions": lesions and find_mask(lesions, path, LESION)}
        return _noted(*entry, ledger, drawn, hashes)

    items, unreadable = {}, []
    # Each is a wait for a disk, which may be far away.
    with ThreadPoolExecutor(_THREADS) as pool:
        for (scan, _), answer in zip(work, pool.map(looked_up, work), strict=True):
            if isinstance(answer, Item):
                items[scan.id] = answer
            else:
                unreadable.append((scan, answer))
    return Plan(groups, items, unreadable)


_THREADS = 4


def _noted(
    scan: Scan,
    group: Group,
    ledger: Ledger,
    masks: Mapping[str, Path | None],
    hashes: Mapping[str, Sequence[Any]],
) -> Item | str:
    """A scan that can be read, or why it cannot be; its record says so from now on."""
    record = ledger.record(scan.id) or {}
    before = record.get("read")
    earlier = before if isinstance(before, dict) else {}
    files = {"scan": scan.path, **{name: mask for name, mask in masks.items() if mask}}
    states = {name: file_state(file, earlier.get(name), hashes.get(str(file))) for name, file in files.items()}
    why = next((_why_unreadable(name, files[name]) for name, state in states.items() if state is None), "")
    plan = {"group": group.name, "why": group.why, "size": len(group.scans)}
    # Nobody knows that such a scan has changed: it may only not be fetched, or its disk not be there today.
    if why and ledger.finished(scan.id):
        plan["kept"] = why
    read = {name: state for name, state in states.items() if state is not None}
    if record.get("plan") != plan or before != read:
        ledger.write(scan.id, {"scan": scan.place, "status": "not started", **record, "plan": plan, "read": read})
    if why:
        return why
    shas = {f"{name}_sha": read[name][-1] for name in masks if name in read}
    return Item(scan=scan, sha=read["scan"][-1], mask=masks["mask"], lesions=masks["lesions"], **shas)


def _why_unreadable(what: str, path: Path) -> str:
    why = f"{path}: cannot be read; check its permissions"
    if path.is_symlink() and not path.exists():
        why = f"{path}: a link to nothing; fetch the file (datalad get, git annex get)"
    return why if what == "scan" else f"its {'lesion mask' if what == 'lesions' else 'mask'} cannot be read: {why}"


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
            stack.enter_context(locked(ledger.home / "locks" / label, folder=ledger.out, fleeting=True))
        if not participants:
            ledger.sweep()
            ledger.adopt()
        yield ledger
        if not participants:
            # Workers of a run that was killed may have lived, and written, a moment longer than their run.
            ledger.sweep()


@dataclass
class Tally:
    """How the scans of a run ended.

    Attributes:
        total: How many there are.
        done: Harmonized now.
        kept: Were done before.
        failed: Scan → reason.
        seconds: Of each scan done now.
        stage: What was finished last, None before that.
        spent: Work that is done, in seconds of one core, about.
        ahead: Work that is still to be done, as far as is known: a scan that is looked at is harmonized later.
        pieces: Pieces of work that are finished.
        last: Record of the scan harmonized last.
    """

    total: int
    done: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    stage: Stage | None = None
    spent: float = 0.0
    ahead: float = 0.0
    pieces: int = 0
    last: ScanRecord | None = None

    @property
    def finished(self) -> int:
        """Scans that need nothing more."""
        return self.done + self.kept + len(self.failed)


class Say(Protocol):
    """Hears whenever something has happened."""

    def __call__(self, line: str, tally: Tally, *, problem: bool = False) -> None:
        """A line for the reader (perhaps empty), where the run stands, and whether the line tells of a failure."""


@dataclass(frozen=True)
class Pieces:
    """The types of work of a run; a test takes others.

    Attributes:
        look: Summarizes a scan.
        fit: Fits a scanner.
        harmonize: Harmonizes a scan.
    """

    look: type[LookAtScan] = LookAtScan
    fit: type[FitScanner] = FitScanner
    harmonize: type[HarmonizeScan] = HarmonizeScan


_TRIES = 2


def run_study(
    plan: Plan,
    settings: StudySettings,
    ledger: Ledger,
    engine: Engine,
    *,
    pieces: Pieces = Pieces(),
    scratch: int = 500,
    seconds: float = inf,
    refit: bool = False,
    table: bool = True,
    first: Callable[[], object] = lambda: None,
    say: Say = lambda line, tally, problem=False: None,
) -> Tally:
    """Do what is left to do of a plan. The caller holds the lock (:func:`held`).

    Args:
        plan: Scans in groups.
        settings: What they are harmonized with.
        ledger: What is done; kept up to date scan by scan.
        engine: Who does the work; not closed.
        pieces: The types of work.
        scratch: The largest group whose prepared scans are kept on disk between the stages.
        seconds: How long a scan may be looked at, and how long harmonized. One that takes longer fails, and its group
            goes on without it.
        refit: Whether a scanner that has new scans is fitted again, to all of them, and all are harmonized again.
        table: Whether the table of failures is written in the end. A job of an array leaves it to the group level: it
            would read the records of all other jobs.
        first: Called once, before the first piece of work is handed out, and not at all if there is nothing to do.
        say: Called whenever something has happened.

    Raises:
        OutputError: If the disk is full or records cannot be written. What is finished is kept.
        UsageError: If a setting is wrong, or a worker has another version or model.
        TargetError: If the target cannot be read.
    """
    run = _Run(plan, settings, ledger, engine, pieces, scratch, seconds, refit, first, say)
    with failures_told(ledger, wanted=table):
        run.all()
    if table:
        write_failures(ledger, plan)
        if gone := forget_scanners(ledger):
            say(f"fitted scanners that no result names any more were removed: {len(gone)}", run.tally)
    return run.tally


@contextmanager
def failures_told(ledger: Ledger, *, wanted: bool = True) -> Iterator[None]:
    """However the block ends before its time, the table of failures says how far it has come.

    Args:
        ledger: What is planned and done.
        wanted: Whether the table is written at all.
    """
    try:
        yield
    except BaseException:
        # The first trouble is the one to report, a full disk for example.
        with suppress(OutputError):
            if wanted:
                write_failures(ledger)
        raise


# What every scan would meet: a method that there is not, a worker with another version or model.
_ALIKE = {ErrorCode.USAGE, ErrorCode.TARGET}


class _Run:
    """A run while it goes on: which group each task belongs to, and how often it was tried."""

    def __init__(
        self,
        plan: Plan,
        settings: StudySettings,
        ledger: Ledger,
        engine: Engine,
        pieces: Pieces,
        scratch: int,
        seconds: float,
        refit: bool,
        first: Callable[[], object],
        say: Say,
    ) -> None:
        self.id = secrets.token_hex(6)
        self.plan, self.settings, self.ledger, self.engine = plan, settings, ledger, engine
        self.pieces, self.scratch, self.seconds, self.refit = pieces, scratch, seconds, refit
        self.first, self.say = first, say
        self.tally = Tally(sum(len(group.scans) for group in plan.groups))
        self._owner: dict[str, _GroupRun] = {}
        self._tries: dict[str, int] = {}
        self._begun = False

    def all(self) -> None:
        """Every group from its first to its last task."""
        for scan, why in self.plan.unreadable:
            if self.ledger.finished(scan.id):
                self._failed(scan, f"{why}; its earlier result is kept")
            else:
                self.refuse(scan, why)
        present = [(g, [self.plan.items[s.id] for s in g.scans if s.id in self.plan.items]) for g in self.plan.groups]
        begun = [_GroupRun(group, items, self) for group, items in present if items]
        self.tally.ahead = sum(group.ahead for group in begun)
        self.say("", self.tally)
        for group in begun:
            self._submit(group.start(), group)
        for outcome in self.engine.finished():
            self._after(outcome)

    def _submit(self, tasks: Sequence[Task], owner: _GroupRun) -> None:
        if tasks and not self._begun:
            self._begun = True
            self.first()
        for task in tasks:
            self._owner[task.name], self._tries[task.name] = owner, 1
            self.engine.submit(task)

    def _after(self, outcome: Outcome) -> None:
        name, failure, tally = outcome.task.name, outcome.failure, self.tally
        if failure and outcome.lost and self._tries[name] < _TRIES:
            self._tries[name] += 1
            self.say(f"{name}: {failure.line}; trying once more", tally)
            self.engine.submit(outcome.task)
            return
        if failure and failure.code is ErrorCode.DISK_FULL:
            # It fails every scan alike: better to stop than to try them all.
            raise DiskFullError(
                "the disk is full", remedy="free some space and run the same command again; what is finished is kept"
            )
        if failure and failure.code in _ALIKE:
            # No scan's own failure, which would take its earlier result away.
            raise failure.error()
        assert isinstance(outcome.task.work, StudyWork)
        tally.pieces += 1
        tally.stage = outcome.task.work.stage
        owner = self._owner.pop(name)
        owner.count(outcome.task.work)
        line = ""
        if isinstance(record := outcome.answer, ScanRecord):
            tally.done += 1
            tally.seconds.append(record.seconds)
            tally.last = record
            line = f"{record.scan.rpartition('/')[2]}: {record.headline} ({record.seconds:.0f} s)"
        self.say(line, tally)
        self._submit(owner.after(outcome), owner)

    def keep(self, item: Item) -> None:
        """A scan whose result of an earlier run is what this one would make."""
        self.tally.kept += 1
        shutil.rmtree(self.ledger.prepared(item.scan.id), ignore_errors=True)
        self.say("", self.tally)

    def refuse(self, scan: Scan, why: str) -> None:
        """A scan that gets no result."""
        # What is there was made from other input or with other settings: it must not pass for this run's result.
        old = self.ledger.record(scan.id) or {}
        remove(self.ledger.out, list(old.get("outputs", {})))
        shutil.rmtree(self.ledger.prepared(scan.id), ignore_errors=True)
        self.ledger.write(scan.id, {"scan": scan.place, "status": "failed", "reason": why})
        self._failed(scan, why)

    def refuse_to_fit(self, item: Item, why: str) -> None:
        """A scan that failed by no fault of its own: what was made of it before, from the same input, stays."""
        old = self.ledger.record(item.scan.id) or {}
        wanted = item.fingerprint(self.settings, None).model_dump(mode="json")
        if (
            old.get("status") == "done"
            and {**brought_up(old.get("fingerprint", {})), "scanner": None} == wanted
            and not self.ledger.spoiled(old)
        ):
            self._failed(item.scan, f"{why}; its earlier result is kept")
        else:
            self.refuse(item.scan, why)

    def _failed(self, scan: Scan, why: str) -> None:
        self.tally.failed[scan.id] = why
        self.say(f"{scan.id}: failed: {why}", self.tally, problem=True)


class _GroupRun:
    """One group's way through its stages; every call returns the tasks that can be done now.

    A scan that fails on the way is left out of the fit, so that the others have theirs.
    """

    def __init__(self, group: Group, items: Sequence[Item], run: _Run) -> None:
        self.group, self.run = group, run
        self.alive = {item.scan.id: item for item in items}
        self.round = 0
        self.earlier: str | None = None
        self.waiting: set[str] = set()
        self.cache = 1 < len(items) <= run.scratch
        # Seconds of one core, about, that are still to be worked.
        self.ahead = len(items) * (self._later_s if len(items) > 1 else PREPARED + HARMONIZED)

    @property
    def _look_s(self) -> float:
        """Of a look in this round."""
        return LOOKS[min(self.round, 1)]

    @property
    def _later_s(self) -> float:
        """Of a scan, from this round to its end."""
        later = self.run.settings.harmonize.looks_after("entropy")  # the target's recipe is not read here
        return self._look_s + LOOKS[1] * max(0, later - self.round) + HARMONIZED

    def _is_ahead(self, seconds: float) -> None:
        self.run.tally.ahead += seconds - self.ahead
        self.ahead = seconds

    def count(self, work: StudyWork) -> None:
        """A piece of its work is finished."""
        seconds = 0.0
        if isinstance(work, LookAtScan):
            seconds = LOOKS[min(work.round, 1)]
        elif isinstance(work, HarmonizeScan):
            seconds = HARMONIZED + (0 if work.scanner and not work.late else PREPARED)
        self.run.tally.spent += seconds
        self._is_ahead(max(0.0, self.ahead - seconds))

    def start(self) -> list[Task]:
        """The first tasks."""
        run = self.run
        fit = PresentFit.kept(run.ledger, self.group.name)
        if fit and fit.holds(run.settings, self.alive, self.group.scans[0].root, run.plan.items):
            late = self.alive.keys() - fit.scans.keys()
            if not (late and run.refit):
                return self._join(fit, late)
        return self._look() if len(self.alive) > 1 else self._harmonize(None)

    def _join(self, fit: PresentFit, late: Collection[str]) -> list[Task]:
        """Take the scanner as it is fitted, for scans that have come since too."""
        if late:
            # A few scans have taught less than many would.
            few = len(late) > len(fit.scans)
            self.run.say(
                f"{'warning: ' if few else ''}scanner {self.group.name}: {len(late)} new "
                f"scan{' takes' if len(late) == 1 else 's take'} the curve that was fitted to {len(fit.scans)} scans "
                f"before (model {fit.digest}); --refit fits it to all and makes all results of the scanner again",
                self.run.tally,
                problem=few,
            )
        return self._harmonize(fit.key, late)

    def after(self, outcome: Outcome) -> list[Task]:
        """What can be done when a task is finished."""
        match outcome.task.work, outcome.failure:
            case FitScanner(), Failure() as failure:
                for item in self.alive.values():
                    self.run.refuse_to_fit(item, f"its scanner could not be fitted: {failure.line}")
            case FitScanner() as fit, None:
                assert isinstance(outcome.answer, ScannerFit)
                return self._fitted(fit, outcome.answer)
            case LookAtScan(item=item), failure:
                self.waiting.discard(item.scan.id)
                if failure:
                    self._leave_out(item, failure)
                return [] if self.waiting else self._fit()
            case HarmonizeScan(item=item), Failure() as failure:
                self._leave_out(item, failure)
        return []

    def _leave_out(self, item: Item, failure: Failure) -> None:
        del self.alive[item.scan.id]
        if failure.code in OF_THE_MACHINE:
            self.run.refuse_to_fit(item, failure.line)
        else:
            self.run.refuse(item.scan, failure.line)

    def _look(self) -> list[Task]:
        pieces = [self._look_at(item) for item in self.alive.values()]
        todo = [piece for piece in pieces if not piece.file.exists()]
        self.waiting = {piece.item.scan.id for piece in todo}
        self._is_ahead(len(pieces) * (self._later_s - self._look_s) + len(todo) * self._look_s)
        # Groups that have begun come first: their prepared scans wait on disk.
        name, limit = "{0.stage} {0.item.scan.id}", self.run.seconds
        tasks = [Task(name.format(piece), piece, priority=4 - self.round, seconds=limit) for piece in todo]
        return tasks or self._fit()

    def _look_at(self, item: Item) -> LookAtScan:
        run = self.run
        return run.pieces.look(
            ledger=run.ledger,
            settings=run.settings,
            item=item,
            round=self.round,
            earlier=self.earlier,
            cache=self.cache,
        )

    def _fit(self) -> list[Task]:
        # A scan that is left of several keeps what they have taught, and is asked whether it helps.
        if len(self.alive) < (1 if self.earlier else 2):
            return self._harmonize(self.earlier)
        run = self.run
        keys = {name: item.look_key(run.settings, self.earlier) for name, item in self.alive.items()}
        fit = run.pieces.fit(
            ledger=run.ledger,
            settings=run.settings,
            group=self.group.name,
            round=self.round,
            earlier=self.earlier,
            summaries=tuple(sorted(keys.items())),
        )
        if kept := fit.kept():
            return self._fitted(fit, kept)
        return [Task(f"{fit.stage} {self.group.name} {self.round}", fit, priority=1)]

    def _fitted(self, fit: FitScanner, answer: ScannerFit) -> list[Task]:
        if answer.again:
            self.round, self.earlier = self.round + 1, fit.key
            return self._look()
        # One that is left of several decides for itself; the others, mended, are to be no late-comers.
        if len(self.alive) > 1:
            PresentFit.of(fit, answer, self.alive).keep(self.run.ledger, self.group.name)
        tasks = self._harmonize(fit.key)
        if tasks:
            line = f"scanner {self.group.name} is fitted to {len(self.alive)} scans"
            self.run.say(f"{line}; they {answer.effect}" if answer.effect else line, self.run.tally)
        return tasks

    def _harmonize(self, scanner: str | None, late: Collection[str] = ()) -> list[Task]:
        run, tasks, ahead = self.run, [], 0.0
        shared = run.ledger.share(scanner, self.group.name) if scanner else None
        for scan_id, item in self.alive.items():
            wanted = item.fingerprint(run.settings, scanner).model_dump(mode="json")
            old = run.ledger.record(scan_id)
            if old and old.get("status") == "done":
                before = brought_up(old.get("fingerprint", {}))
                spoiled = run.ledger.spoiled(old)
                if before == wanted and not spoiled:
                    run.ledger.stamp(scan_id, old)
                    run.keep(item)
                    continue
                why = differences(before, wanted) or [
                    f"{place.rpartition('/')[2]} is {'missing' if what == 'missing' else 'not as it was written'}"
                    for place, what in spoiled.items()
                ]
                run.say(f"{scan_id}: computed again: {', '.join(why)}", run.tally)
            piece = run.pieces.harmonize(
                ledger=run.ledger,
                settings=run.settings,
                item=item,
                group=self.group.name,
                scanner=scanner,
                shared=shared,
                late=scan_id in late,
                run=run.id,
                cache=self.cache and scan_id not in late,
            )
            tasks.append(Task(f"{piece.stage} {scan_id}", piece, seconds=run.seconds))
            prepared = scanner and scan_id not in late
            ahead += HARMONIZED + (0 if prepared else PREPARED)
        self._is_ahead(ahead)
        return tasks


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What has changed between two fingerprints as records keep them, in words.

    Example:
        >>> differences({"input": "a", "settings": {"seed": 0}}, {"input": "b", "settings": {"seed": 1}})
        ['the scan is another file', 'seed is 1, was 0']
    """
    changes = []
    for name, words in (
        ("input", "the scan is another file"),
        ("mask", "the mask is another"),
        ("lesions", "the lesion mask is another"),
    ):
        if old.get(name) != new.get(name):
            changes.append(words)
    before, now = old.get("settings", {}), new.get("settings", {})
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            called = {"digest": "target"}.get(name, name)
            changes.append(f"{called} is {now.get(name)}, was {before.get(name)}")
    if old.get("scanner") != new.get("scanner"):
        changes.append("its scanner is fitted to other scans")
    return changes


def _still_there(place: str, roots: Iterable[Path]) -> bool:
    return any(os.path.lexists(root / place) for root in roots)


#: The columns of ``failures.tsv``, as its data dictionary tells them.
FAILURES: dict[str, dict[str, Any]] = {
    "scan": {"Description": "Place of the scan in the data set"},
    "status": {
        "Description": "What became of the scan",
        "Levels": {
            "failed": "without a result; the next run tries it again",
            "not started": "planned; the run ended before it",
            "kept": "cannot be read today; its earlier result is left as it is",
        },
    },
    "reason": {"Description": "Why"},
}


def write_failures(ledger: Ledger, plan: Plan | None = None) -> Path:
    """Write the table of this folder's scans that failed or were not started; only its head if there are none.

    ``kept``: the scan cannot be read today, and its earlier result was left as it is.

    Args:
        ledger: What is planned and done.
        plan: Of a run that has the folder to itself: scans that have left its data set, and have no result, are
            forgotten.

    Raises:
        OutputError: If it cannot be written.
    """
    scans = [scan for group in plan.groups for scan in group.scans] if plan else []
    present, roots = {scan.id for scan in scans}, {scan.root for scan in scans}
    rows = []
    for scan_id, planned, record in ledger.entries():
        if record["status"] == "done":
            if "kept" in planned:
                rows.append((str(record["scan"]), "kept", str(planned["kept"])))
        elif roots and scan_id not in present and not _still_there(str(record["scan"]), roots):
            shutil.rmtree(ledger.scan(scan_id), ignore_errors=True)
        else:
            reason = record.get("reason", "the run ended before it")
            rows.append((str(record["scan"]), str(record["status"]), str(reason)))
    return ledger.write_table("failures", FAILURES, sorted(rows))


def forget_scanners(ledger: Ledger) -> list[str]:
    """Remove fitted scanners that no result of this folder names any more; their places.

    Raises:
        OutputError: If one cannot be removed.
    """
    named = {
        (key, str(record.get("group", plan["group"])))
        for _, plan, record in ledger.entries()
        if record["status"] == "done" and (key := record.get("fingerprint", {}).get("scanner"))
    }
    if any(ledger.note(key) is None for key, _ in named):
        return []  # nobody knows any more what a file is called that a result names
    used = {ledger.shared(key, group) for key, group in named}
    return ledger.forget_scanners(used)
