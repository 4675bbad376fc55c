"""One group's way through its stages: look at every scan, fit, perhaps look and fit again, harmonize every scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blindharmony.study.engines.task import Outcome, Task
from blindharmony.study.hashes import key_of
from blindharmony.study.ledger import Ledger
from blindharmony.study.scanners import Group
from blindharmony.study.settings import Item, Settings, differences

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
