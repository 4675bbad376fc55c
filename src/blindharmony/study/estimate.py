"""What a study will cost: hours, memory and room on disk, from a run over a few of its scans.

:func:`sample` chooses up to three scans, :func:`measure` has them harmonized as the study would, in a folder of its
own that is removed again, and :func:`estimate` reckons what all scans will take.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from blindharmony.errors import InputError
from blindharmony.jobs.engine import Answer, Engine, Outcome, Task, Tell
from blindharmony.jobs.processes import ProcessEngine
from blindharmony.study.groups import Group
from blindharmony.study.ledger import Ledger, kept_gb, largest, memory_gb
from blindharmony.study.run import Plan, held, make_plan, run_study
from blindharmony.study.work import Stage, StudySettings, StudyWork

_SAMPLE = 3
# Measured: the most that a process had in a run over many scans of one size, in times of the most that it had in three.
_MOST_OF_MANY = 1.4


def sample(groups: Sequence[Group], most: int = _SAMPLE) -> list[Group]:
    """A few scans of usual size: of the largest scanner, and one that goes alone if there are such.

    Args:
        groups: All scans.
        most: How many are looked at.

    Returns:
        Groups with some of their scans.

    Example:
        >>> from blindharmony.io.bids import Scan
        >>> scans = [Scan(Path("/study"), f"sub-{i}/anat/sub-{i}_T1w.nii.gz", {}) for i in range(5)]
        >>> both = sample([Group("a", "", tuple(scans[:4])), Group("b", "", (scans[4],))])
        >>> [(group.name, len(group.scans)) for group in both]
        [('a', 2), ('b', 1)]
    """
    alone = [group for group in groups if len(group.scans) == 1]
    fitted = max(groups, key=lambda group: len(group.scans), default=None)
    if fitted is None or len(fitted.scans) == 1:
        return alone[:: max(1, len(alone) // most)][:most]
    few = most - bool(alone)
    # Those around the median tell most about the sum.
    by_size = sorted(fitted.scans, key=lambda scan: (largest([scan.path]), scan.place))
    first = max(0, (len(by_size) - few) // 2)
    return [replace(fitted, scans=tuple(sorted(by_size[first : first + few], key=lambda s: s.place))), *alone[:1]]


@dataclass(frozen=True)
class Measured:
    """What a few scans took.

    Attributes:
        scans: How many they were.
        fitted_s: Of a process for a scan of a fitted scanner; None if there was none.
        alone_s: For a scan that goes alone.
        fit_s: For the fits of one scanner.
        core_s: Processor seconds of a process and what it has started, for a scan; 0 if the system does not tell.
        memory_gb: Of a process, at most; 0 if the system does not tell.
        results_mb: Results of a scan.
        result_files: How many files these are.
        records_kb: What is noted of a scan, beside its results.
        record_files: How many files these are.
    """

    scans: int
    fitted_s: float | None
    alone_s: float | None
    fit_s: float
    core_s: float
    memory_gb: float
    results_mb: float
    result_files: int
    records_kb: float
    record_files: int


class GetReady(StudyWork):
    """Load what every scan needs, so that it is not counted as the first scan's."""

    stage = Stage.LOOK

    def do(self, tell: Tell) -> Answer:
        """Import and load."""
        import blindharmony.api  # noqa: F401

        self.target()
        return Answer()


class _Stopwatch:
    """An engine that notes how long each task took."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.outcomes: list[Outcome] = []

    def submit(self, task: Task) -> None:
        self._engine.submit(task)

    def finished(self) -> Iterator[Outcome]:
        for outcome in self._engine.finished():
            self.outcomes.append(outcome)
            yield outcome

    def close(self) -> None:
        self._engine.close()

    def of_scan(self, scan_id: str) -> float:
        return sum(o.seconds for o in self.outcomes if o.task.name in (f"look {scan_id}", f"harmonize {scan_id}"))

    def of_fits(self) -> float:
        return sum(o.seconds for o in self.outcomes if o.task.name.startswith("fit "))


def measure(
    groups: Sequence[Group],
    settings: StudySettings,
    engine: ProcessEngine,
    folder: Path,
    *,
    workers: int,
    keep: bool = True,
    masks: Path | None = None,
    lesions: Path | None = None,
) -> Measured:
    """Harmonize a few scans and see what that takes.

    Args:
        groups: Of :func:`sample`.
        settings: What they are harmonized with.
        engine: As the study would have it; not closed.
        folder: Where results may be written.
        workers: How many the engine has.
        keep: Whether prepared scans of a scanner are kept between the stages.
        masks: Derivatives with brain masks.
        lesions: Derivatives with lesion masks.

    Raises:
        InputError: If none of them could be harmonized.
    """
    for number in range(workers):
        engine.submit(Task(f"ready {number}", GetReady(ledger=Ledger(folder), settings=settings)))
    list(engine.finished())
    before = sum(_core_s(pid) for pid in engine.pids)
    watch = _Stopwatch(engine)
    with held(Ledger(folder)) as ledger:
        plan = make_plan(groups, ledger, masks=masks, lesions=lesions)
        tally = run_study(plan, settings, ledger, watch, scratch=_SAMPLE if keep else 0)
        high = max((_peak_gb(pid) for pid in engine.pids), default=0.0)
        core_s = max(0.0, sum(_core_s(pid) for pid in engine.pids) - before)
        return _counted(plan, ledger, tally.failed, watch, high, core_s)


def _counted(
    plan: Plan, ledger: Ledger, failed: dict[str, str], watch: _Stopwatch, high: float, core_s: float
) -> Measured:
    whole = [(group, scan) for group in plan.groups for scan in group.scans if scan.id not in failed]
    if not whole:
        what = f"none of {len(failed)} scans could be harmonized: {next(iter(failed.values()), 'there is none')}"
        raise InputError(what, remedy="harmonize one of them first", path=ledger.out)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for group, scan in whole:
        seconds[len(group.scans) > 1].append(watch.of_scan(scan.id))
    results = [size for _, scan in whole for size in (ledger.record(scan.id) or {}).get("outputs", {}).values()]
    records = [f.stat().st_size for _, scan in whole for f in ledger.scan(scan.id).rglob("*") if f.is_file()]
    return Measured(
        scans=len(whole),
        fitted_s=median(seconds[True]) if seconds[True] else None,
        alone_s=median(seconds[False]) if seconds[False] else None,
        fit_s=watch.of_fits(),
        core_s=core_s / len(whole),
        memory_gb=high,
        results_mb=sum(results) / len(whole) / 1e6,
        result_files=round(len(results) / len(whole)),
        records_kb=sum(records) / len(whole) / 1e3,
        record_files=round(len(records) / len(whole)),
    )


def _peak_gb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e6
    except (OSError, StopIteration, ValueError):
        return 0.0


def _core_s(pid: int) -> float:
    """Processor seconds of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0


@dataclass(frozen=True)
class Estimate:
    """What a study will take.

    Attributes:
        scans: All scans.
        scanners: How many are fitted to several scans.
        alone: Scans that go alone.
        workers: Processes or jobs that share the work.
        seconds_a_scan: Of one process, on average.
        process_hours: Of all processes together.
        hours: That go by, if the workers do not hinder each other.
        core_hours: Processor time, which does not depend on what else a machine does; 0 if the system does not tell.
        memory_gb: Of one process, for the largest scan; four tenths more than measured if there are many scans.
        results_gb: Results.
        records_gb: Records, to be kept with them.
        scratch_gb: Prepared scans of a scanner, at most; gone in the end.
        files: Results and records.
    """

    scans: int
    scanners: int
    alone: int
    workers: int
    seconds_a_scan: float
    process_hours: float
    hours: float
    core_hours: float
    memory_gb: float
    results_gb: float
    records_gb: float
    scratch_gb: float
    files: int

    def as_json(self, measured: Measured) -> dict[str, Any]:
        """For machines: all numbers, and what they were reckoned from."""
        return {**asdict(self), "measured": asdict(measured)}


def estimate(groups: Sequence[Group], measured: Measured, *, workers: int, voxels: int, scratch_gb: float) -> Estimate:
    """What all scans will take.

    Args:
        groups: All scans.
        measured: What a few of them took.
        workers: Processes or jobs that share the work.
        voxels: Of the largest scan.
        scratch_gb: Disk that prepared scans may take.

    Example:
        >>> from blindharmony.io.bids import Scan
        >>> scans = tuple(Scan(Path("/s"), f"sub-{i}/anat/sub-{i}_T1w.nii.gz", {}) for i in range(100))
        >>> few = Measured(3, 36.0, None, 4.0, 30.0, 2.2, 8.0, 4, 35.0, 4)
        >>> cost = estimate([Group("a", "", scans)], few, workers=2, voxels=10**7, scratch_gb=50.0)
        >>> round(cost.hours, 2), cost.files, round(cost.results_gb, 1), round(cost.memory_gb, 1)
        (0.5, 800, 0.8, 3.1)
    """
    fitted = [len(group.scans) for group in groups if len(group.scans) > 1]
    alone = sum(len(group.scans) == 1 for group in groups)
    scans = sum(fitted) + alone
    # One kind stands for the other where only one was measured.
    fitted_s = measured.fitted_s if measured.fitted_s is not None else measured.alone_s or 0.0
    alone_s = measured.alone_s if measured.alone_s is not None else fitted_s
    seconds = sum(fitted) * fitted_s + alone * alone_s + len(fitted) * measured.fit_s
    most_kept = max((n for n in fitted if n * kept_gb(voxels) <= scratch_gb), default=0)
    return Estimate(
        scans=scans,
        scanners=len(fitted),
        alone=alone,
        workers=workers,
        seconds_a_scan=seconds / max(scans, 1),
        process_hours=seconds / 3600,
        hours=seconds / 3600 / workers,
        core_hours=scans * measured.core_s / 3600,
        memory_gb=max(measured.memory_gb * (_MOST_OF_MANY if scans > _SAMPLE else 1), memory_gb(voxels)),
        results_gb=scans * measured.results_mb / 1e3,
        records_gb=scans * measured.records_kb / 1e6,
        scratch_gb=most_kept * kept_gb(voxels),
        files=scans * (measured.result_files + measured.record_files),
    )
