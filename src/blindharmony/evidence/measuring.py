"""Each leg's measurement of one harmonized scan, and what it needs only once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.evidence.heads import Head
from blindharmony.evidence.measures.likeness import likeness, of_truth
from blindharmony.evidence.measures.overlap import WHITE, overlap
from blindharmony.evidence.measures.site import profile, regions, site
from blindharmony.evidence.plan import Plan
from blindharmony.evidence.scanners import own
from blindharmony.evidence.segmenters import ExternalSegmenter, Labels, included_segmenter
from blindharmony.evidence.system import Picture, Say
from blindharmony.evidence.teaching import Teaching
from blindharmony.study.hashes import key_of


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
        if scan.labels is None:
            raise ValueError("no manual labels")
        return overlap(self.segmenter.labels(image, scan.mask) == WHITE, scan.labels == WHITE)

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
        key = key_of(plan.target.digest, *plan.teacher_keys, plan.minutes, plan.seed)[:12]
        folder = plan.out / "learnt" / "target" / f"segmenter-{key}"
        training, held = own(self.teaching.training), own(self.teaching.held_out)
        return included_segmenter(training, held, folder, plan.minutes, plan.seed, self._say)
