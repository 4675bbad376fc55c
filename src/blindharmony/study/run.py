"""A study from plan to page.

What a cohort is harmonized with.

What a run has to do: scans with what is in them, in groups.

``failures.tsv``: the scans that have no result of this run, and why.

One group's way through its stages: look at every scan, fit, perhaps look and fit again, harmonize every scan.

A cohort from first to last scan: every scan ends as done, failed with a reason, or not started.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blindharmony.errors import OutputError
from blindharmony.files import locked, write_sidecar, write_text
from blindharmony.io.bids import Scan, find_mask
from blindharmony.jobs.engine import Engine, Outcome, Task
from blindharmony.study.groups import Group
from blindharmony.study.ledger import Ledger, hashed, key_of, read_json, remove
from blindharmony.version import VERSION

#: Of the default method: raised when it gives other results.
METHOD = 2


@dataclass(frozen=True)
class Settings:
    """Everything besides the scans that decides the results.

    Attributes:
        target: Model file or included name.
        digest: The model's hash.
        mask_command: External brain extractor.
        refine: As for :func:`~blindharmony.api.harmonize`, like the rest.
        keep_bias: Leave the bias field in.
        uncertainty: Also write error bars.
        report: Also write reports.
        device: Where it is computed.
        seed: Equal seeds give equal bytes.
        version: Of this package.
        method: Raised when the same scans get other results: a run goes on with what it has only if that is equal.
    """

    target: str
    digest: str
    mask_command: str | None = None
    refine: bool = True
    keep_bias: bool = False
    uncertainty: bool = False
    report: bool = True
    device: str = "cpu"
    seed: int = 0
    version: str = VERSION
    method: int = METHOD

    def all(self) -> dict[str, Any]:
        """What a result depends on; not where the model lies."""
        return {k: v for k, v in asdict(self).items() if k != "target"}

    def look(self) -> dict[str, Any]:
        """What a summary depends on."""
        return {k: self.all()[k] for k in ("digest", "mask_command", "device", "version", "method")}


@dataclass(frozen=True)
class Item:
    """A scan that is to be harmonized, and what it is harmonized from.

    Attributes:
        scan: The scan.
        sha: Hash of the file.
        mask: Given brain mask.
        mask_sha: Hash of that.
    """

    scan: Scan
    sha: str
    mask: Path | None = None
    mask_sha: str | None = None

    def look_key(self, settings: Settings, first: str | None) -> str:
        """Name of its summary, made with the scanner model ``first`` if any."""
        return key_of("summary", self.sha, self.mask_sha, settings.look(), first)

    def fingerprint(self, settings: Settings, scanner: str | None) -> dict[str, Any]:
        """All that its result depends on."""
        return {"input": self.sha, "mask": self.mask_sha, "settings": settings.all(), "scanner": scanner}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What has changed between two fingerprints, in words.

    Example:
        >>> differences({"input": "a", "settings": {"seed": 0}}, {"input": "b", "settings": {"seed": 1}})
        ['the scan is another file', 'seed is 1, was 0']
    """
    found = []
    for name, words in (("input", "the scan is another file"), ("mask", "the mask is another")):
        if old.get(name) != new.get(name):
            found.append(words)
    before, now = old.get("settings", {}), new.get("settings", {})
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            called = {"digest": "target"}.get(name, name)
            found.append(f"{called} is {now.get(name)}, was {before.get(name)}")
    if old.get("scanner") != new.get("scanner"):
        found.append("its scanner is fitted to other scans")
    return found


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


def make_plan(groups: Sequence[Group], ledger: Ledger, *, masks: Path | None = None) -> Plan:
    """Read every scan and mask once, and note the plan in the ledger.

    Args:
        groups: The scans.
        ledger: Keeps hashes and the plan.
        masks: Derivatives with brain masks.

    Raises:
        OutputError: If the ledger cannot be written.
    """
    scans = [scan for group in groups for scan in group.scans]
    given = {scan.id: find_mask(masks, scan.path) if masks else None for scan in scans}
    files = [scan.path for scan in scans] + [mask for mask in given.values() if mask]
    found = hashed(files, ledger.home / "hashes.json")
    items, unreadable = {}, []
    for scan in scans:
        mask, sha = given[scan.id], found[scan.path]
        if sha is None:
            unreadable.append((scan, _why(scan.path)))
        elif mask and found[mask] is None:
            unreadable.append((scan, f"its mask cannot be read: {_why(mask)}"))
        else:
            items[scan.id] = Item(scan, sha, mask, found[mask] if mask else None)
    # Of scans that this run leaves out, the earlier plan is still true; of those that left the data set only results.
    rows = {
        s.id: {"scan": s.place, "group": g.name, "why": g.why, "size": len(g.scans)} for g in groups for s in g.scans
    }
    # Jobs of an array add to one plan.
    with locked(ledger.home / "plan.lock", wait=True):
        roots = {s.root for s in scans}
        earlier = {n: r for n, r in planned(ledger).items() if _is_there(r, roots) or _is_done(n, ledger)}
        write_sidecar(ledger.home / "plan.json", {"scans": {**earlier, **rows}}, overwrite=True)
    return Plan(groups, items, unreadable)


def planned(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Scan's id → place, group and why, of all runs in this folder."""
    return dict((read_json(ledger.home / "plan.json") or {}).get("scans", {}))


def _is_there(row: Mapping[str, Any], roots: Collection[Path]) -> bool:
    return not roots or any(os.path.lexists(root / row["scan"]) for root in roots)


def _is_done(name: str, ledger: Ledger) -> bool:
    return (ledger.record(name) or {}).get("status") == "done"


def _why(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"{path}: a link to nothing; fetch the file (datalad get, git annex get)"
    return f"{path}: cannot be read; check its permissions"


def write_failures(ledger: Ledger, plan: Plan) -> Path:
    """Write the table of this folder's scans that failed or were not started; only its head if there are none.

    ``kept``: the scan cannot be read today, and its earlier result was left as it is.

    Args:
        ledger: What is done.
        plan: What was to be done.

    Raises:
        OutputError: If it cannot be written.
    """
    names = {s.id: s.place for g in plan.groups for s in g.scans} | {n: r["scan"] for n, r in planned(ledger).items()}
    unread = {scan.id: why for scan, why in plan.unreadable}
    rows = []
    for name, place in sorted(names.items()):
        record = ledger.record(name) or {"status": "not started", "reason": "the run ended before it"}
        if record.get("status") != "done":
            rows.append((place, str(record.get("status")), str(record.get("reason", ""))))
        elif name in unread:
            rows.append((place, "kept", unread[name]))
    return write_tsv(ledger.out / "failures.tsv", ("scan", "status", "reason"), rows)


def write_tsv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a tab-separated table; what is None or empty is ``n/a``, as BIDS wants it.

    Raises:
        OutputError: If it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    table.writerow(head)
    for row in rows:
        table.writerow([_cell(value) for value in row])
    return write_text(path, text.getvalue(), overwrite=True)


def _cell(value: object) -> str:
    return " ".join(str(value).split()) or "n/a" if value is not None else "n/a"


WORK = "blindharmony.study.work"


@dataclass(frozen=True)
class Run:
    """What all groups of a run have in common.

    Attributes:
        id: Names the run's staging folder.
        ledger: What is done.
        settings: What the cohort is harmonized with.
        module: Where ``look``, ``fit`` and ``harmonize`` are.
        scratch: How many prepared scans may wait on disk.
        kept: Called with a scan that needs nothing.
        failed: Called with a scan and a reason.
        note: Called with a line for the reader.
    """

    id: str
    ledger: Ledger
    settings: Settings
    module: str
    scratch: int
    kept: Callable[[Item], None]
    failed: Callable[[Item, str], None]
    note: Callable[[str], None]


class GroupRun:
    """One group; every call returns the tasks that can be done now.

    A scan that fails on the way is left out of the fit, so that the others have theirs.
    """

    def __init__(self, group: Group, items: Sequence[Item], run: Run) -> None:
        self.group, self.run = group, run
        self.alive = {item.scan.id: item for item in items}
        self.round = 0
        self.first: str | None = None
        self.keys: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.cache = 1 < len(items) <= run.scratch

    def start(self) -> list[Task]:
        """The first tasks."""
        return self._look() if len(self.alive) > 1 else self._harmonize(None)

    def after(self, outcome: Outcome) -> list[Task]:
        """What can be done when a task is finished."""
        stage, _, name = outcome.task.name.partition(" ")
        if stage == "fit":
            if outcome.error is None:
                return self._fitted(outcome.value)
            for item in self.alive.values():
                self.run.failed(item, f"its scanner could not be fitted: {outcome.error}")
            return []
        if outcome.error is not None:
            self.run.failed(self.alive.pop(name), outcome.error)
        if stage == "harmonize":
            return []
        self.waiting.discard(name)
        return [] if self.waiting else self._fit()

    def _look(self) -> list[Task]:
        self.keys = {n: i.look_key(self.run.settings, self.first) for n, i in self.alive.items()}
        todo = [n for n, key in self.keys.items() if not self.run.ledger.summary(n, self.round, key).exists()]
        self.waiting = set(todo)
        tasks = [
            self._task(
                "look",
                name,
                # Groups that have begun come first: their prepared scans wait on disk.
                priority=4 - self.round,
                first=self.first and str(self.run.ledger.scanner(self.first)),
                file=str(self.run.ledger.summary(name, self.round, self.keys[name])),
                **self._source(self.alive[name]),
            )
            for name in todo
        ]
        return tasks or self._fit()

    def _fit(self) -> list[Task]:
        # What an earlier look has taught is better than the curve of one scan.
        if len(self.alive) < 2:
            return self._harmonize(self.first)
        used = [(n, self.keys[n]) for n in sorted(self.alive)]
        key = key_of("fit", self.first, used)
        self.fit_key = key
        if note := self.run.ledger.note(key):
            return self._fitted(note)
        ledger = self.run.ledger
        return [
            self._task(
                "fit",
                f"{self.group.name} {self.round}",
                priority=1,
                first=self.first and str(ledger.scanner(self.first)),
                summaries=[str(ledger.summary(n, self.round, k)) for n, k in used],
                file=str(ledger.scanner(key)),
            )
        ]

    def _fitted(self, note: Mapping[str, Any]) -> list[Task]:
        if note["again"]:
            self.round, self.first = self.round + 1, self.fit_key
            return self._look()
        tasks = self._harmonize(self.fit_key)
        if tasks:
            self.run.note(f"scanner {self.group.name} is fitted to {len(self.alive)} scans")
        return tasks

    def _harmonize(self, scanner: str | None) -> list[Task]:
        ledger, settings = self.run.ledger, self.run.settings
        tasks = []
        for name, item in self.alive.items():
            wanted = item.fingerprint(settings, scanner)
            old = ledger.record(name)
            if old and old.get("status") == "done":
                if old.get("fingerprint") == wanted and ledger.whole(old):
                    self.run.kept(item)
                    continue
                why = differences(old.get("fingerprint", {}), wanted) or ["results are missing or have another size"]
                self.run.note(f"{name}: computed again: {', '.join(why)}")
            tasks.append(
                self._task(
                    "harmonize",
                    name,
                    priority=0,
                    scanner=scanner and str(ledger.scanner(scanner)),
                    sha=item.sha,
                    place=item.scan.place,
                    folder=item.scan.folder,
                    out=str(ledger.out),
                    staging=str(ledger.staging(self.run.id, name)),
                    record={"scan": item.scan.place, "group": self.group.name, "fingerprint": wanted},
                    **self._source(item),
                )
            )
        return tasks

    def _source(self, item: Item) -> dict[str, Any]:
        return {
            "scan": str(item.scan.path),
            "mask": item.mask and str(item.mask),
            "home": str(self.run.ledger.scan(item.scan.id)),
            "cache": self.cache,
        }

    def _task(self, stage: str, name: str, *, priority: int, **arguments: Any) -> Task:
        settings = {**self.run.settings.all(), "target": self.run.settings.target}
        return Task(f"{stage} {name}", f"{self.run.module}:{stage}", {**settings, **arguments}, priority)


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
