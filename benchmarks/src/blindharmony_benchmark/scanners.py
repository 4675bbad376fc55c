"""Source scanners: simulated ones with a known truth, and real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony_benchmark.heads import Head, inside_of, prepared_with, rescaled
from blindharmony_benchmark.simulation.simulate import simulate
from blindharmony_benchmark.simulation.sites import WITHOUT
from blindharmony_benchmark.system import Picture

PAPER = ("exp", "log", "gamma0.7", "gamma0.8", "gamma0.9", "gamma1.2", "gamma1.3", "gamma1.5")
HARD = ("bias", "noise", "blur", "thick", "tissue", "gre", "ir", "all")
#: Scanners drawn near real sites, numbered by their seeds; any other number is another one.
SITES = ("site1", "site2", "site3", "site4")
#: A coil's field and ``raw gamma1.5`` are put on the scan as it came: correcting a corrected scan is another task.
FROM_RAW = ("bias", "all", "site", "raw gamma1.5")
SIMULATED = ("none", *SITES, *PAPER, *HARD, "raw gamma1.5")


def simulated(domain: str) -> bool:
    """Whether there is such a simulated scanner.

    Example:
        >>> simulated("site12"), simulated("site"), simulated("gamma9")
        (True, False, False)
    """
    return domain in SIMULATED or near_real_site(domain)


def near_real_site(domain: str) -> bool:
    """Whether a simulated scanner was drawn near a real site.

    Example:
        >>> near_real_site("site12"), near_real_site("gamma1.5")
        (True, False)
    """
    return _numbered(domain)[0] == "site" != domain


def _numbered(domain: str) -> tuple[str, int]:
    """A domain and its seed: ``site3`` is the third scanner near a real site."""
    number = domain.removeprefix("site")
    return ("site", int(number)) if number != domain and number.isdecimal() else (domain, 1)


@dataclass(frozen=True)
class Scanner:
    """A simulated scanner: one curve, one noise level, for whomever it scans.

    Attributes:
        domain: A name in ``SIMULATED``, or ``site`` with a number; ``none`` is the target scanner itself.
        recipe: How its scans are prepared.
        top: Intensity that its curve calls 1 (flow units).
        level: Intensity that its noise refers to.
        without: An effect that a scanner near a real site does not have, one of ``WITHOUT``; empty: it has all.
    """

    domain: str
    recipe: PrepRecipe
    top: float
    level: float
    without: str = ""

    @classmethod
    def set_for(cls, heads: Sequence[Head], domain: str, recipe: PrepRecipe, without: str = "") -> Scanner:
        """Set up as the operator would for these people; everybody else is scanned with the same settings."""
        top = max(float(h.image[h.mask].max()) for h in heads)
        level = float(np.median([np.quantile(h.image[h.mask], 0.9) for h in heads]))
        return cls(domain, recipe, top, level, without)

    def scans(self, heads: Sequence[Head], *, first: int = 0) -> list[Picture]:
        """Every head on this scanner; the truth is the head's own image.

        What changes only intensities or detail is done to the prepared scan, and a bias field to the scan as it came.

        Args:
            heads: Of the target scanner.
            first: Scan seed of the first; each has its own.
        """
        return list(self.one_by_one(heads, first=first))

    def one_by_one(self, heads: Sequence[Head], *, first: int = 0) -> Iterator[Picture]:
        """The same, each when it is asked for: what is not kept of it takes no memory."""
        return (self._scan(h, first + index) for index, h in enumerate(heads))

    def _scan(self, h: Head, index: int) -> Picture:
        if self.domain == "none":
            return Picture(h.subject, h.image, h.mask, h.image, labels=h.labels)
        name, seed = _numbered(self.domain)
        from_raw, name = name in FROM_RAW, name.removeprefix("raw ")
        if from_raw:
            top, level = self.top * h.gain, self.level * h.gain
            raw = h.raw
            native = (raw.data, raw.inside(), raw.spacing, name)
            made = simulate(
                *native,
                labels=h.raw_labels,
                seed=seed,
                scan_seed=index,
                top=top,
                level=level,
                changed=WITHOUT[self.without] if self.without else None,
            ).image
            return _prepared(h, made, self.recipe)
        given = (h.image, h.mask, (1, 1, 1), name)
        made = simulate(*given, labels=h.labels, seed=seed, scan_seed=index, top=self.top, level=self.level).image
        seen = rescaled(made, h.mask)
        return Picture(h.subject, seen, h.mask, seen, labels=h.labels)


def real(heads: Sequence[Head], recipe: PrepRecipe) -> list[Picture]:
    """Scans as their scanner made them, with what preparation found."""
    return [_prepared(h, h.raw.data, recipe) for h in heads]


def own(heads: Sequence[Head]) -> list[Picture]:
    """Scans of the target scanner, to teach with: only the prepared image."""
    return [Picture(h.subject, h.image, h.mask, h.image, labels=h.labels) for h in heads]


def _prepared(h: Head, data: NDArray[np.float32], recipe: PrepRecipe) -> Picture:
    scan = replace(h.raw, data=data)
    prepared = prepared_with(scan, recipe, h.matrix)
    plain = prepared_with(scan, recipe.model_copy(update={"n4": False}), h.matrix)
    mask = prepared.scan.inside()
    return Picture(h.subject, inside_of(prepared.scan), mask, inside_of(plain.scan), prepared, h.labels)
