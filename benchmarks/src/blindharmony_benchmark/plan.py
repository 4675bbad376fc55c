"""What a benchmark will do: who teaches and who is tested, and what is run.

:func:`read_splits` gives every BIDS set a :class:`Split` of subjects that teach, that may stop a training early, and
that are judged. A :class:`Plan` holds the splits, the target, the :class:`Source` scanners, the systems and the legs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.errors import InputError, UsageError
from blindharmony.files import file_sha256, parse_json, read_text
from blindharmony.io.bids import is_bids
from blindharmony.models.target import Target
from blindharmony_benchmark.heads import Files
from blindharmony_benchmark.registry import Entry
from blindharmony_benchmark.scanners import SIMULATED, near_real_site, simulated

_TEST_SHARE, _MOST_TESTS, _LEAST = 0.25, 20, 3


@dataclass(frozen=True)
class Split:
    """The subjects of one BIDS set, ``sub-…``.

    Attributes:
        folder: The set.
        train: May teach.
        validation: May stop a training early; part of no training.
        test: Are judged, and nothing else.
        scans: Subject → which of its scans, where it is not the first.
    """

    folder: Path
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    scans: Mapping[str, Path] = field(default_factory=dict)

    def files(self, subject: str) -> Files:
        """The files of one subject."""
        return Files.of(self.folder, subject, self.scans.get(subject))

    @property
    def learners(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Training and held-out subjects; without a validation part, every fifth of ``train`` is held out."""
        if self.validation:
            return self.train, self.validation
        held = self.train[4::5] or self.train[-1:]
        return tuple(s for s in self.train if s not in held), held


#: Where no scan of the target is at hand.
NOBODY = Split(Path(), (), (), ())


def read_splits(data: Path, *, seed: int = 0) -> dict[str, Split]:
    """The sets of a folder, by name.

    With ``splits.json`` in the folder::

        {"SET": {"train": ["sub-01", …], "validation": […], "test": […], "retest": [["sub-03", "sub-23"]]}, …}

    Every key of a set but ``test`` may be missing. ``retest`` names pairs that are one person scanned twice: only the
    first is tested. Without the file the folder must be one BIDS set; a seeded quarter of its subjects is tested,
    20 at most.

    Raises:
        InputError: If the file is none of that form, or a subject is in two parts.
        UsageError: If there is no file and the folder is no BIDS set, or has too few subjects.
    """
    file = data / "splits.json"
    if not file.exists():
        return {data.resolve().name: _own(data, seed)}
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise InputError(f"this is no JSON ({error})", remedy="see docs/evidence.md for its form", path=file) from None
    if not isinstance(content, dict) or not content:
        raise InputError("this is not a list of sets", remedy="see docs/evidence.md for its form", path=file)
    return {str(name): _split(data / str(name), part, file) for name, part in content.items()}


def _split(folder: Path, part: Any, file: Path) -> Split:
    def names(key: str) -> tuple[str, ...]:
        found = part.get(key, [])
        if not isinstance(found, list) or not all(isinstance(s, str) for s in found):
            raise InputError(f"'{key}' of {folder.name} is no list of subjects", remedy="give names", path=file)
        return tuple(s if s.startswith("sub-") else f"sub-{s}" for s in found)

    if not isinstance(part, Mapping) or not names("test"):
        raise InputError(f"{folder.name} names nobody under 'test'", remedy="name who is to be tested", path=file)
    pairs = part.get("retest", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair) for pair in pairs
    ):
        raise InputError(f"'retest' of {folder.name} is no list of pairs", remedy="give pairs of names", path=file)
    again = {f"sub-{second.removeprefix('sub-')}" for _, second in pairs}
    split = Split(folder, names("train"), names("validation"), tuple(s for s in names("test") if s not in again))
    for pair in pairs:
        one, other = (f"sub-{s.removeprefix('sub-')}" for s in pair)
        if (one in names("test")) != (other in names("test")):
            raise InputError(
                f"{one} and {other} of {folder.name} are one person, and only one of them is under 'test'",
                remedy="put both there",
                path=file,
            )
    everybody = [*split.train, *split.validation, *names("test")]
    twice = next((s for s in everybody if everybody.count(s) > 1), None)
    if twice:
        raise InputError(f"{twice} of {folder.name} is in two parts", remedy="keep it in one", path=file)
    return split


def _own(data: Path, seed: int) -> Split:
    if not data.is_dir() or not is_bids(data):
        raise UsageError(f"{data} holds neither splits.json nor a BIDS set", remedy="see docs/evidence.md")
    subjects = sorted(p.name for p in data.glob("sub-*") if p.is_dir())
    tests = min(max(2, round(_TEST_SHARE * len(subjects))), _MOST_TESTS)
    if len(subjects) < tests + _LEAST:
        raise UsageError(f"{data} has {len(subjects)} subjects", remedy=f"give at least {tests + _LEAST}")
    order = np.random.default_rng(seed).permutation(len(subjects)).tolist()
    chosen = set(order[:tests])
    train = tuple(s for i, s in enumerate(subjects) if i not in chosen)
    return Split(data, train, (), tuple(s for i, s in enumerate(subjects) if i in chosen))


LEGS = ("simulated", "real", "segmentation", "travelers")
#: Where networks are trained and the published iteration runs, if nothing else is asked for.
COSTLY_ON = ("gamma1.5", "tissue", "all", "ixi")
#: What a quick run takes: scanners, subjects of the target's set and of a real source, teachers, minutes a network.
QUICK_DOMAINS, QUICK_SUBJECTS, QUICK_OTHERS, QUICK_TEACHERS, QUICK_MINUTES = ("gamma1.5",), 2, 1, 3, 0.2
#: What it segments, what it leaves out altogether, how many turns it leaves to the published iteration.
QUICK_SEGMENTED = ("nothing", "n4-match", "deepharmony", "curve", "group")
QUICK_LEFT_OUT, QUICK_TURNS = ("latent", "match-refined", "curve-unrefined", "group-unrefined"), 2


@dataclass(frozen=True)
class Source:
    """A source scanner.

    Attributes:
        kind: ``simulated``, ``real``, or ``travelers`` for a scanner of people who were on several.
        name: Domain or set.
    """

    kind: str
    name: str


@dataclass(frozen=True, eq=False)
class Plan:
    """A benchmark.

    Attributes:
        out: Output folder.
        heads: Folder of prepared scans.
        target: Model.
        target_set: Name of the set whose scanner it is.
        splits: All sets.
        domains: Simulated scanners.
        source_sets: Real ones.
        systems: Rows.
        legs: Of ``LEGS``.
        costly_on: Sources for which costly systems run.
        minutes: Training time of each network.
        seed: Of everything random.
        quick: Two subjects, two sources, small budgets.
        segmenter: External command; the included network if empty.
        white: Its labels of white matter.
        travelers: Sets of ``splits``, one for each scanner that the same people were on; else simulated scanners are.
    """

    out: Path
    heads: Path
    target: Target
    target_set: str
    splits: dict[str, Split]
    domains: tuple[str, ...]
    source_sets: tuple[str, ...]
    systems: tuple[Entry, ...]
    legs: tuple[str, ...] = LEGS
    costly_on: tuple[str, ...] = COSTLY_ON
    minutes: float = 10.0
    seed: int = 0
    quick: bool = False
    segmenter: str = ""
    white: tuple[int, ...] = (3,)
    travelers: tuple[str, ...] = ()

    @property
    def split(self) -> Split:
        """The target's own subjects."""
        return self.splits[self.target_set]

    def tested(self, name: str) -> tuple[str, ...]:
        """Test subjects of a set."""
        few = QUICK_SUBJECTS if name == self.target_set else QUICK_OTHERS
        return self.splits[name].test[: few if self.quick else None]

    @property
    def turns(self) -> int | None:
        """Of the published iteration, where it does not go its whole way."""
        return QUICK_TURNS if self.quick else None

    def teachers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Training and held-out subjects of the target's set."""
        train, held = self.split.learners
        return (train[:QUICK_TEACHERS], held[:1]) if self.quick else (train, held)

    @cached_property
    def teacher_keys(self) -> list[list[str]]:
        """What their scans are made of: a system that has learnt from other files is another one."""
        return [[self.split.files(s).key(self.target.info.recipe) for s in part] for part in self.teachers()]

    def labelled_by(self, name: str) -> list[str]:
        """Who found the tissues in the test scans of a set: ``manual``, ``samseg``, ``silver`` or ``network``."""
        return sorted({self.splits[name].files(s).labelled_by for s in self.tested(name)})

    def sources(self) -> tuple[Source, ...]:
        """Simulated scanners, real ones, and those of travelers; where nothing would be measured is left out."""
        found = (
            *(Source("simulated", d) for d in self.domains),
            *(Source("real", s) for s in self.source_sets),
            *(Source("travelers", s) for s in self.travelers),
        )
        return tuple(s for s in found if self.legs_of(s))

    def set_of(self, source: Source) -> str:
        """Whose test scans are harmonized: the target's own through a simulated scanner, or a real source's."""
        return self.target_set if source.kind == "simulated" else source.name

    def legs_of(self, source: Source) -> tuple[str, ...]:
        """What is measured on a source; the target's test people travel between scanners near real sites."""
        wanted = {source.kind}
        if source.kind != "travelers":
            wanted.add("segmentation")
        if source.kind == "simulated" and near_real_site(source.name) and not self.travelers:
            wanted.add("travelers")
        return tuple(leg for leg in LEGS if leg in self.legs and leg in wanted)

    def scans_of(self, entry: Entry, leg: str, source: Source) -> int:
        """How many test scans a step takes: in a quick run, what is slow takes the first only."""
        slow = entry.iterates or leg == "segmentation"
        return 1 if self.quick and slow else len(self.tested(self.set_of(source)))

    def measured(self, entry: Entry, source: Source) -> tuple[str, ...]:
        """The legs of one system on one source."""
        segmented = not self.quick or entry.name in QUICK_SEGMENTED
        return tuple(leg for leg in self.legs_of(source) if leg != "segmentation" or segmented)

    def systems_on(self, source: Source) -> tuple[Entry, ...]:
        """Costly systems run only where they are asked to, and paired ones only where there can be pairs."""
        possible = (e for e in self.systems if not (e.paired and source.kind == "real"))
        return tuple(e for e in possible if not e.costly or source.name in self.costly_on)

    def check(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            UsageError: If a domain or set is unknown, nobody of the target's set may teach, or the target knows a scan
                that it is to be tested with.
        """
        for domain in self.domains:
            if not simulated(domain):
                raise UsageError(f"there is no domain '{domain}'", remedy=f"choose of {', '.join(SIMULATED)}")
        for name in (self.target_set, *self.source_sets):
            if name not in self.splits:
                raise UsageError(f"there is no set '{name}'", remedy=f"choose of {', '.join(self.splits)}")
        # What stands there by itself may name sets that are not here.
        for name in filter(lambda n: not simulated(n), set(self.costly_on) - {*COSTLY_ON, *self.splits}):
            raise UsageError(
                f"--costly-on {name} is neither a domain nor a set",
                remedy=f"choose of {', '.join((*self.domains, *self.source_sets))}",
            )
        if self.split is NOBODY:
            return
        if not self.split.train:
            raise UsageError(f"'{self.target_set}' has no training subjects", remedy="choose another --target-set")
        known = self.target.info.learnt_from
        tested = self.split.test if known else ()
        taught = [s for s in tested if file_sha256(self.split.files(s).scan)[:16] in known]
        if taught:
            raise UsageError(
                f"the target '{self.target.info.name}' has learnt from {', '.join(taught)}, who are to be tested",
                remedy="train it without them, or test others",
            )
