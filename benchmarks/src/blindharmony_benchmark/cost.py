"""What a benchmark will cost, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blindharmony.settings import HarmonizeSettings
from blindharmony_benchmark.heads import kept_file
from blindharmony_benchmark.plan import Plan, Source
from blindharmony_benchmark.registry import Entry
from blindharmony_benchmark.run import Benchmark
from blindharmony_benchmark.scanners import FROM_RAW

# Seconds on two cores: preparing a scan, putting it through a simulated scanner, measuring it in each leg.
_PREPARE, _SCAN = 20.0, 2.0
# Finding the bias field of a scan again, once.
_AGAIN = 15.0
_SEGMENTED = ("segmentation", "travelers")
# Networks that learn from target scans alone, once for all sources.
_ONCE = ("target-unet", "harmonizing-flows")
_MEASURE = {"simulated": 1.2, "real": 1.5, "segmentation": 12.0, "travelers": 14.0}


@dataclass(frozen=True)
class Cost:
    """Of what is left.

    Attributes:
        steps: All.
        left: Not finished yet.
        prepare: Scans to be prepared.
        trainings: Networks to be trained.
        minutes: Of all that, on two cores.
    """

    steps: int
    left: int
    prepare: int
    trainings: int
    minutes: float

    def __str__(self) -> str:
        done = f"{self.steps - self.left} of {self.steps} steps are done; " if self.left < self.steps else ""
        return (
            f"{done}{self.left} steps to do, {self.prepare} scans to prepare, {self.trainings} networks to train: "
            f"about {max(self.minutes, 1):.0f} min on two cores; Ctrl-C and the same command go on later"
        )


def cost(benchmark: Benchmark) -> Cost:
    """Counted from the plan and what is kept from earlier."""
    plan, left = benchmark.plan, benchmark.left()
    missing = _missing(plan)
    seconds = _PREPARE * missing
    segmented = plan.split.train and any(s.leg in _SEGMENTED for s in left)
    trainings = {"segmenter"} if segmented and not plan.segmenter else set[str]()
    for source, name in dict.fromkeys((s.source, s.system) for s in left):
        own = [s for s in left if (s.source, s.system) == (source, name)]
        of, entry = benchmark.steps[own[0]]
        seconds += (_share(plan, entry) * entry.seconds + _again(plan, entry, of)) * plan.scans_of(entry, "", of)
        seconds += sum(_MEASURE[s.leg] * plan.scans_of(entry, s.leg, of) for s in own)
        if entry.trained:
            trainings.add(name if name in _ONCE else f"{name} {source}")
    seconds += _SCAN * len({s.source for s in left}) * len(plan.tested(plan.target_set))
    return Cost(len(benchmark.steps), len(left), missing, len(trainings), seconds / 60 + plan.minutes * len(trainings))


def _share(plan: Plan, entry: Entry) -> float:
    """Of the turns of the published iteration that it takes."""
    iterates = entry.name.startswith("latent")
    return plan.turns / HarmonizeSettings(method=entry.name).iteration.iterations if iterates and plan.turns else 1.0


def _again(plan: Plan, entry: Entry, source: Source) -> float:
    as_it_came = source.kind == "real" or source.name in FROM_RAW
    return _AGAIN * entry.again if plan.target.info.recipe.n4 and as_it_came else 0.0


def _missing(plan: Plan) -> int:
    recipe, wanted = plan.target.info.recipe, dict[str, Sequence[str]]()
    for name in (plan.target_set, *plan.source_sets, *plan.travelers):
        wanted[name] = plan.tested(name)
    teachers, held = plan.teachers()
    total = 0
    for name, subjects in wanted.items():
        folder = plan.splits[name].folder
        for subject in (*subjects, *((*teachers, *held) if name == plan.target_set else ())):
            total += not kept_file(plan.heads, folder, subject, plan.splits[name].files(subject), recipe).exists()
    return total
