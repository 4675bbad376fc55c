"""The benchmark step by step: every system harmonizes every source, and what is finished is not done again.

In reading order: what a piece of work costs (:class:`Meter`: seconds and the most memory); finished :class:`Step`, one
small file for each, named by all that went into it; pictures of one subject of each source, before and after, which
hold voxels and so stay with the user; what a system may be taught with (:class:`Teaching`), built only for those that
learn; the measurement of one harmonized scan on each leg (:class:`Measuring`), with what that needs only once; and the
:class:`Benchmark`, which goes from step to step.
"""

from __future__ import annotations

import base64
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import BlindHarmonyError, one_line
from blindharmony.files import check_outputs, write_bytes, write_sidecar
from blindharmony.report.page import strip_of
from blindharmony.study.ledger import key_of, read_json
from blindharmony.version import VERSION
from blindharmony_benchmark.heads import Head, heads_of
from blindharmony_benchmark.measures import WHITE, curve_points, likeness, of_truth, overlap, profile, regions, site
from blindharmony_benchmark.plan import Plan, Source
from blindharmony_benchmark.registry import Entry
from blindharmony_benchmark.scanners import Scanner, own, real
from blindharmony_benchmark.segmenters import ExternalSegmenter, Labels, NetworkSegmenter, included_segmenter
from blindharmony_benchmark.system import Material, Picture, Say, System
from blindharmony_benchmark.travelers import features_of, parts_of_head

#: Where the figures, the page and the table go, below the output folder.
RESULTS = ("table.csv", "results.json", "table.md", "report.html")
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_KILO = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Seconds and the process's peak resident memory between entering and leaving.

    Linux forgets earlier peaks when asked; elsewhere the figure is the peak since the process began.

    Attributes:
        seconds: Wall clock.
        megabytes: Peak; NaN where the system does not tell.

    Example:
        >>> with Meter() as meter:
        ...     _ = bytearray(10)
        >>> meter.seconds >= 0
        True
    """

    seconds = float("nan")
    megabytes = float("nan")

    def __enter__(self) -> Meter:
        with suppress(OSError):
            _RESET.write_text("5")
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.megabytes = _peak()


def _peak() -> float:
    try:
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILO / 1024**2


#: Raised when what a step measures changes, so that old files are not taken for new ones.
_FORMAT = 2


@dataclass(frozen=True)
class Step:
    """One leg of one system on one source.

    Attributes:
        leg: ``simulated``, ``real``, ``segmentation`` or ``travelers``.
        source: Domain or set.
        system: Row.
        key: Of all that went in.
    """

    leg: str
    source: str
    system: str
    key: str

    @classmethod
    def of(cls, leg: str, source: str, system: str, **what: Any) -> Step:
        """With a key made of the names, the package's version and ``what`` (JSON content)."""
        return cls(leg, source, system, key_of(_FORMAT, VERSION, leg, source, system, what))

    def file(self, out: Path) -> Path:
        """Where its result is."""
        return out / "steps" / self.leg / plain(self.source) / f"{plain(self.system)}.{self.key[:16]}.json"


def finished(step: Step, out: Path) -> dict[str, Any] | None:
    """Its result, None if it is not there, damaged, or a failure: that is tried again."""
    found = read_json(step.file(out))
    return found if found and "failed" not in found else None


def known(step: Step, out: Path) -> dict[str, Any] | None:
    """Its result, failures included."""
    return read_json(step.file(out))


def keep(step: Step, out: Path, content: Mapping[str, Any]) -> None:
    """Write its result, or nothing.

    Raises:
        OutputError: If it cannot be written.
    """
    words = {"leg": step.leg, "source": step.source, "system": step.system}
    write_sidecar(step.file(out), {**words, **content}, overwrite=True)


def plain(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


_WHITE = 1.7


def picture_file(plan: Plan, source: str, name: str) -> Path:
    """Where a picture is; one of another model, seed or training time is another picture."""
    key = key_of(plan.target.digest, plan.seed, plan.minutes, plan.tested(plan.target_set), plan.teacher_keys)[:8]
    return plan.out / "figures" / "pictures" / plain(source) / f"{name}-{key}.jpg"


def keep_picture(
    plan: Plan, source: Source, name: str, scan: Picture, image: NDArray[np.float32], truth: Head | None
) -> None:
    """Three slices of a harmonized scan, of the scan as it came, and of the truth where there is one."""
    wanted = {name: image, "source": scan.plain, **({} if truth is None else {"truth": truth.image})}
    for label, values in wanted.items():
        strip = strip_of(label, values, scan.mask, (0, _WHITE))
        content = base64.b64decode(strip.source.partition(",")[2])
        write_bytes(picture_file(plan, source.name, label), content, overwrite=True)


_UNPAIRED, _PAIRED = "target and source scans, unpaired", "target and source scans, paired"
# Scan seeds of theirs: nobody has the noise or the bias field of a test scan.
_TEACHERS = 1000


class Teaching:
    """Training scans of the target, loaded once, and the material made of them.

    For an unpaired system the training subjects of a simulated source are cut in two: one half is seen on the target
    scanner, the other on the source scanner. Of a real source the scans to be harmonized themselves are seen, since
    there are no others: such a system has seen the test scans.

    Args:
        plan: The benchmark.
        say: Told which scans are being prepared.
    """

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self._say = plan, say

    @cached_property
    def training(self) -> list[Head]:
        """Training scans of the target."""
        return self._heads(self.plan.teachers()[0])

    @cached_property
    def held_out(self) -> list[Head]:
        """Scans that only stop trainings."""
        return self._heads(self.plan.teachers()[1])

    def _heads(self, subjects: Sequence[str]) -> list[Head]:
        plan = self.plan
        return heads_of(plan.split.folder, subjects, plan.heads, plan.target.info.recipe, self._say)

    def material(self, system: System, source: Source, scanner: Scanner | None, scans: Sequence[Picture]) -> Material:
        """For one system and one source.

        Args:
            system: Who learns; one that does not learn gets the target model alone.
            source: Whose scans will be harmonized.
            scanner: The simulated scanner; None for a real source.
            scans: The test scans, as an unpaired system sees them of a real source.
        """
        plan = self.plan
        learns = type(system).fit is not System.fit
        of_source = system.sees in (_UNPAIRED, _PAIRED)
        key = key_of(plan.target.digest, *plan.teacher_keys, plan.minutes, plan.seed)[:12]
        folder = plan.out / "learnt" / (source.name if of_source else "target") / f"{system.name}-{key}"
        found = Material(plan.target, (), (), (), (), folder, plan.minutes, plan.seed, plan.turns)
        if not learns:
            return found
        heads, held = self.training, own(self.held_out)
        if scanner is None:
            found = replace(found, training=_blind(own(heads)), held_out=_blind(held))
            return replace(found, source=_blind(scans)) if of_source else found
        if system.sees == _UNPAIRED:
            heads, others = heads[::2], heads[1::2]
            seen = _blind(scanner.one_by_one(others, first=_TEACHERS))
            return replace(found, training=_blind(own(heads)), held_out=_blind(held), source=seen)
        found = replace(found, training=_blind(own(heads)), held_out=_blind(held))
        if system.sees == _PAIRED:
            given = _blind(scanner.one_by_one(heads, first=_TEACHERS))
            found = replace(found, pairs=tuple(zip(given, found.training, strict=True)))
        return found


def _blind(pictures: Iterable[Picture]) -> tuple[Picture, ...]:
    # Nobody learns from how a scan was prepared, and dozens of native scans are gigabytes; tissues are the segmenter's.
    return tuple(replace(p, prepared=None, labels=None) for p in pictures)


class Measuring:
    """The target's side of every comparison.

    Args:
        plan: The benchmark.
        own_heads: The target's own unseen scans.
        teaching: Training scans, for the segmenter.
        say: Told how its training goes.
    """

    def __init__(self, plan: Plan, own_heads: Sequence[Head], teaching: Teaching, say: Say) -> None:
        self.plan, self.own_heads, self.teaching, self._say = plan, own_heads, teaching, say
        self._broken: Exception | None = None
        self._truths: dict[str, dict[str, Any]] = {}

    def scan(
        self, leg: str, head: Head, scan: Picture, image: NDArray[np.float32], known: Mapping[str, float]
    ) -> dict[str, Any]:
        """Measure one scan.

        Args:
            leg: Which measurement.
            head: Whose; its image is the truth of a simulated source.
            scan: What the system was given.
            image: What it made of it.
            known: :meth:`before` of this scan.
        """
        if leg == "simulated":
            return {**likeness(head.image, scan, image), **known}
        if leg == "real":
            return site(scan, image, self.where, self.plan.target)
        if leg == "travelers":
            features = features_of(
                image, self.segmenter.labels(image, scan.mask, thorough=False), head.matrix, self._parts
            )
            return {**features, **self._truth_of(head)}
        if scan.labels is None:
            raise ValueError("no labels")
        return overlap(self.segmenter.labels(image, scan.mask) == WHITE, scan.labels == WHITE)

    @cached_property
    def _parts(self) -> dict[str, NDArray[np.bool_]]:
        return parts_of_head(self.plan.target.fit_region)

    def _truth_of(self, head: Head) -> dict[str, Any]:
        """The same features of the scan that the target scanner really made, where it made one."""
        if self.plan.travelers:
            return {}
        if head.subject not in self._truths:
            labels = self.segmenter.labels(head.image, head.mask, thorough=False)
            self._truths[head.subject] = features_of(head.image, labels, head.matrix, self._parts)
        return {"truth": self._truths[head.subject]}

    def before(self, legs: Sequence[str], heads: Sequence[Head], scans: Sequence[Picture]) -> list[dict[str, float]]:
        """What holds for a scan whatever the system."""
        if "simulated" not in legs:
            return [{} for _ in scans]
        return [of_truth(h.image, s) for h, s in zip(heads, scans, strict=True)]

    def own(self) -> list[dict[str, Any]]:
        """Profiles of the target's own unseen scans, beside which real ones are judged."""
        return [{"subject": h.subject, **profile(h.image, h.mask, self.where)} for h in self.own_heads]

    @cached_property
    def where(self) -> dict[str, NDArray[np.bool_]]:
        """Tissue regions of the target."""
        return regions(own(self.own_heads), self.plan.target)

    @property
    def segmenter(self) -> Labels:
        """Taught on the target's training scans at the first use, or the external one."""
        if self._broken is not None:
            raise self._broken
        try:
            return self._segmenter
        except Exception as error:
            # A training that failed would fail again, minutes later, for every row.
            self._broken = error
            raise

    @cached_property
    def _segmenter(self) -> Labels:
        plan = self.plan
        if plan.segmenter:
            return ExternalSegmenter(plan.segmenter, plan.white, plan.target.info.unit)
        if not plan.split.train:
            return NetworkSegmenter()
        key = key_of(plan.target.digest, *plan.teacher_keys, plan.minutes, plan.seed)[:12]
        folder = plan.out / "learnt" / "target" / f"segmenter-{key}"
        training, held = own(self.teaching.training), own(self.teaching.held_out)
        return included_segmenter(training, held, folder, plan.minutes, plan.seed, self._say)


Note = Callable[[str], None]
Images = Sequence[NDArray[np.float32]]

_OWN = "target"


@dataclass(frozen=True, eq=False)
class Scanned:
    """A source scanner's scans of the test subjects, and what is known of each before any system."""

    source: Source
    scanner: Scanner | None
    heads: Sequence[Head]
    scans: Sequence[Picture]
    known: Sequence[dict[str, float]]


class Benchmark:
    """A plan being carried out.

    Args:
        plan: What is to be done.
        say: Told the stage and the share of all steps that is done.
        note: Told of every finished step in one line.
    """

    def __init__(self, plan: Plan, say: Say, note: Note) -> None:
        self.plan, self._say, self._note = plan, say, note
        self.teaching = Teaching(plan, lambda stage, _: self._tell(stage))
        self._known: dict[str, list[str]] = {}
        self._loaded: dict[str, list[Head]] = {}
        self._done = 0

    @cached_property
    def steps(self) -> dict[Step, tuple[Source, Entry]]:
        """All steps in order."""
        found = {}
        for source in self.plan.sources():
            for entry in self.plan.systems_on(source):
                for leg in self.plan.measured(entry, source):
                    found[self._step(leg, source, entry)] = (source, entry)
        return found

    def _step(self, leg: str, source: Source, entry: Entry) -> Step:
        plan = self.plan
        scans = self._keys(source)[: plan.scans_of(entry, leg, source)]
        what: dict[str, Any] = {"target": plan.target.digest, "seed": plan.seed, "scans": scans}
        if entry.learns:
            what["teachers"] = plan.teacher_keys
        if entry.trained:
            what["minutes"] = plan.minutes
        elif entry.iterates and plan.turns:
            what["turns"] = plan.turns
        if leg in ("segmentation", "travelers"):
            what["segmenter"] = [plan.segmenter, plan.white] if plan.segmenter else [plan.minutes, plan.teacher_keys]
        if leg == "real":
            what["own"] = self._keys(Source("real", plan.target_set))
        return Step.of(leg, source.name, entry.name, **what)

    def _keys(self, source: Source) -> list[str]:
        name = self.plan.set_of(source)
        if name not in self._known:
            recipe = self.plan.target.info.recipe
            self._known[name] = [self.plan.splits[name].files(s).key(recipe) for s in self.plan.tested(name)]
        return self._known[name]

    def check_outputs(self, *inputs: Path) -> None:
        """Refuse to write what is read: a scan, labels, who is tested, or one of ``inputs``.

        Raises:
            OutputError: If a result, a finished step or anything kept from earlier is one of them, by link or inode.
        """
        plan = self.plan
        scans = [s.files(who) for s in plan.splits.values() for who in (*s.train, *s.validation, *s.test)]
        read = [f for files in scans for f in (files.scan, files.labels)]
        tables = [s.folder.parent / "splits.json" for s in plan.splits.values()]
        kept = [p for name in ("steps", "learnt", "figures") for p in (plan.out / name).rglob("*") if not p.is_dir()]
        kept += plan.heads.glob("*.safetensors")
        results = (plan.out / name for name in RESULTS)
        check_outputs([*results, *(step.file(plan.out) for step in self.steps), *kept], [*inputs, *tables, *read])

    def left(self) -> list[Step]:
        """Steps that are not finished."""
        return [s for s in self.steps if finished(s, self.plan.out) is None]

    def run(self) -> None:
        """Do what is left, source by source."""
        left = self.left()
        self._done = len(self.steps) - len(left)
        for source in self.plan.sources():
            todo: dict[str, list[Step]] = {}
            for step in (s for s in left if self.steps[s][0] == source):
                todo.setdefault(step.system, []).append(step)
            if todo:
                scanned = self._scanned(source, [s.leg for steps in todo.values() for s in steps])
                for steps in todo.values():
                    self._row(scanned, self.steps[steps[0]][1], steps)

    def _scanned(self, source: Source, legs: Sequence[str]) -> Scanned:
        self._tell(f"{source.name}: scanning")
        heads, recipe = self.heads(self.plan.set_of(source)), self.plan.target.info.recipe
        scanner = Scanner.set_for(heads, source.name, recipe) if source.kind == "simulated" else None
        scans = scanner.scans(heads) if scanner else real(heads, recipe)
        return Scanned(source, scanner, heads, scans, self.measuring.before(legs, heads, scans))

    def _row(self, scanned: Scanned, entry: Entry, steps: Sequence[Step]) -> None:
        source = scanned.source
        self._tell(f"{source.name}: {entry.name}")
        row: dict[str, Any] = {"sees": "", "together": False}
        try:
            images = self._harmonized(entry, scanned, row)
        except Exception as error:
            for step in steps:
                self._failed(step, row, error)
            return
        if source.kind != "simulated" or source.name in self.plan.costly_on:
            truth = scanned.heads[0] if source.kind == "simulated" else None
            keep_picture(self.plan, source, entry.name, scanned.scans[0], images[0], truth)
        for step in steps:
            self._measured(step, row, scanned, images)

    def _harmonized(self, entry: Entry, scanned: Scanned, row: dict[str, Any]) -> Images:
        system, name = entry.system(), scanned.source.name
        row |= {"sees": system.sees, "together": system.together}
        material = self.teaching.material(system, scanned.source, scanned.scanner, scanned.scans)
        # Manual tissues are for measuring: no system gets to see them.
        several = scanned.scans[: self.plan.scans_of(entry, "", scanned.source)]
        scans = [replace(s, labels=None) for s in several]
        with Meter() as learning:
            system.fit(material, lambda stage, share: self._tell(f"{name}: {entry.name}: {stage} {share:.0%}"))
        with Meter() as meter:
            images = system.harmonize(scans, material)
        for scan, image in zip(scans, images, strict=True):
            if image.shape != scan.mask.shape or not np.isfinite(image).all():
                raise BlindHarmonyError(f"{entry.name} made no image of {scan.subject}")
        memory = max(learning.megabytes, meter.megabytes)
        row |= {"seconds": meter.seconds / len(images), "fit_seconds": learning.seconds, "memory_mb": memory}
        return images

    def _measured(self, step: Step, row: dict[str, Any], scanned: Scanned, images: Images) -> None:
        scans = scanned.scans
        source, entry = self.steps[step]
        many = min(len(images), self.plan.scans_of(entry, step.leg, source))
        try:
            parts = list(zip(scanned.heads, scans, images, scanned.known, strict=False))[:many]
            # Filters and sorts leave the interpreter free; a segmenter has all the cores already.
            with ThreadPoolExecutor(1 if step.leg in ("segmentation", "travelers") else 2) as pool:
                measured = list(pool.map(lambda p: self.measuring.scan(step.leg, *p), parts))
            found = [{"subject": p[0].subject, **m} for p, m in zip(parts, measured, strict=True)]
            content: dict[str, Any] = {**row, "scans": found}
            if step.leg == "simulated":
                content["curve"] = curve_points(scans[0], {"truth": scanned.heads[0].image, "found": images[0]})
        except Exception as error:
            self._failed(step, row, error)
            return
        keep(step, self.plan.out, content)
        self._done += 1
        self._note(f"{step.leg} {step.source} {step.system}: {row['seconds']:.1f} s a scan")

    def _failed(self, step: Step, row: dict[str, Any], error: Exception) -> None:
        what = one_line(str(error) if isinstance(error, BlindHarmonyError) else f"{type(error).__name__}: {error}")
        keep(step, self.plan.out, {**row, "failed": what})
        self._done += 1
        self._note(f"{step.leg} {step.source} {step.system}: failed ({what})")

    def _tell(self, stage: str) -> None:
        self._say(stage, self._done / max(len(self.steps), 1))

    def heads(self, name: str) -> list[Head]:
        """Test scans of a set; those of one source set and of the target's are kept in memory."""
        if name not in self._loaded:
            self._loaded = {k: v for k, v in self._loaded.items() if k == self.plan.target_set}
            split, recipe = self.plan.splits[name], self.plan.target.info.recipe
            wanted = (split.folder, self.plan.tested(name), self.plan.heads, recipe)
            self._loaded[name] = heads_of(*wanted, lambda s, _: self._tell(s), split.scans)
        return self._loaded[name]

    @cached_property
    def measuring(self) -> Measuring:
        """The target's side of every comparison."""
        own = self.heads(self.plan.target_set)
        return Measuring(self.plan, own, self.teaching, lambda stage, _: self._tell(stage))

    def own_profiles(self) -> Sequence[dict[str, Any]]:
        """Of the target's own unseen scans, made if they are not kept from earlier."""
        plan = self.plan
        step = Step.of("real", _OWN, _OWN, target=plan.target.digest, scans=self._keys(Source("real", plan.target_set)))
        known = finished(step, plan.out)
        if known is None:
            keep(step, plan.out, {"scans": self.measuring.own()})
            known = finished(step, plan.out)
        return known["scans"] if known else ()
