"""The benchmark from step to step: what is finished is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import BlindHarmonyError, one_line
from blindharmony.evidence.heads import Files, Head, heads_of
from blindharmony.evidence.measures.likeness import curve_points
from blindharmony.evidence.measuring import Measuring
from blindharmony.evidence.memory import Meter
from blindharmony.evidence.pictures import keep_picture
from blindharmony.evidence.plan import Plan, Source
from blindharmony.evidence.registry import Entry
from blindharmony.evidence.scanners import Scanner, real
from blindharmony.evidence.steps import Step, finished, keep
from blindharmony.evidence.system import Picture, Say
from blindharmony.evidence.teaching import Teaching

Note = Callable[[str], None]
Images = Sequence[NDArray[np.float32]]

_OWN = "target"


@dataclass(frozen=True, eq=False)
class Scanned:
    """A source scanner's scans of the test subjects, and what is known of each before any system."""

    source: Source
    scanner: Scanner
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
        if leg == "segmentation":
            what["segmenter"] = [plan.segmenter, plan.white] if plan.segmenter else [plan.minutes, plan.teacher_keys]
        if leg == "real":
            what["own"] = self._keys(Source("real", plan.target_set))
        return Step.of(leg, source.name, entry.name, **what)

    def _keys(self, source: Source) -> list[str]:
        name = self.plan.set_of(source)
        if name not in self._known:
            folder, recipe = self.plan.splits[name].folder, self.plan.target.info.recipe
            self._known[name] = [Files.of(folder, s).key(recipe) for s in self.plan.tested(name)]
        return self._known[name]

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
        scanner = Scanner.set_for(self.heads(self.plan.target_set), source.name, recipe)
        scans = real(heads, recipe) if source.kind == "real" else scanner.scans(heads)
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
        if source.kind == "real" or source.name in self.plan.costly_on:
            truth = None if source.kind == "real" else scanned.heads[0]
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
            with ThreadPoolExecutor(1 if step.leg == "segmentation" else 2) as pool:
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
            folder, recipe = self.plan.splits[name].folder, self.plan.target.info.recipe
            subjects = self.plan.tested(name)
            self._loaded[name] = heads_of(folder, subjects, self.plan.heads, recipe, lambda s, _: self._tell(s))
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
