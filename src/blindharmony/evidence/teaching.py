"""What a system may be taught with, built only for those that learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from blindharmony.evidence.heads import Head, heads_of
from blindharmony.evidence.plan import Plan, Source
from blindharmony.evidence.scanners import Scanner, own
from blindharmony.evidence.system import Material, Picture, Say, System
from blindharmony.study.hashes import key_of

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

    def material(self, system: System, source: Source, scanner: Scanner, scans: Sequence[Picture]) -> Material:
        """For one system and one source.

        Args:
            system: Who learns; one that does not learn gets the target model alone.
            source: Whose scans will be harmonized.
            scanner: The simulated scanner; not used for a real source.
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
        if source.kind == "real":
            seen = scans if of_source else ()
            return replace(found, training=_blind(own(heads)), held_out=_blind(held), source=_blind(seen))
        if system.sees == _UNPAIRED:
            heads, others = heads[::2], heads[1::2]
            seen = scanner.scans(others, first=_TEACHERS)
            return replace(found, training=_blind(own(heads)), held_out=_blind(held), source=_blind(seen))
        found = replace(found, training=_blind(own(heads)), held_out=_blind(held))
        if system.sees == _PAIRED:
            given = _blind(scanner.scans(heads, first=_TEACHERS))
            found = replace(found, pairs=tuple(zip(given, found.training, strict=True)))
        return found


def _blind(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    # Nobody learns from how a scan was prepared, and dozens of native scans are gigabytes; tissues are the segmenter's.
    return tuple(replace(p, prepared=None, labels=None) for p in pictures)
