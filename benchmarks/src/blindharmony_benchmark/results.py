"""From finished steps to the rows of the table, and how sure a figure is with few subjects.

Intervals (bootstrap) and tests (flipped signs) are over subjects, not over scans or voxels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap, permutation_test, spearmanr

from blindharmony_benchmark.measures import TISSUES, average, balanced_accuracy, distance
from blindharmony_benchmark.registry import BASELINE, ENTRIES
from blindharmony_benchmark.scanners import HARD, PAPER, near_real_site
from blindharmony_benchmark.travelers import summary

# Resamplings; up to 14 subjects every flip of signs is tried.
_RESAMPLINGS = 2**14


def interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean over subjects, bias-corrected and accelerated (BCa).

    With a handful of subjects it is too narrow: four subjects cover the truth in about 80 % of cases, not 95 %.

    Source:
        Efron, "Better bootstrap confidence intervals", JASA 82 (1987); :func:`scipy.stats.bootstrap`.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> 1 < low < 3 < high < 5
        True
    """
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return float("nan"), float("nan")
    if np.ptp(x) == 0:  # resampling has nothing to draw from
        return float(x[0]), float(x[0])
    with warnings.catch_warnings(action="ignore", category=DegenerateDataWarning):
        drawn = bootstrap((x,), np.mean, confidence_level=level, n_resamples=_RESAMPLINGS, method="BCa", rng=seed)
    low, high = drawn.confidence_interval
    if np.isnan(low):  # the values hardly differ: the correction is not defined
        return float(x.min()), float(x.max())
    return float(low), float(high)


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    r"""Two-sided p-value that paired differences have mean zero: signs are flipped.

    Exact up to 14 subjects, :math:`p \ge 2^{1-n}`: four subjects cannot give less than 0.125.

    Source:
        Fisher's paired permutation test; :func:`scipy.stats.permutation_test`.

    Example:
        >>> sign_flip([1.0, 2.0, 1.5, 1.2])
        0.125
    """
    d = np.asarray(differences, np.float64)
    d = d[np.isfinite(d)]
    if d.size == 0:
        return float("nan")
    test = permutation_test((d,), np.mean, permutation_type="samples", n_resamples=_RESAMPLINGS, rng=seed)
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's method: the chance that any of them is wrong stays what it says.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    steps = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


#: Leg → the measure that systems are ranked by, and whether more is better.
MAIN = {
    "simulated": ("psnr", True),
    "real": ("tissue", False),
    "segmentation": ("dice", True),
    "travelers": ("difference", False),
}
#: Where people were on every scanner of the travelers' leg: one cell of a system for all of them.
ALL_SCANNERS = "all scanners"
#: Systems whose volumes are also shown after ComBat.
COMBAT_AFTER = ("nothing", "n4", "n4-match", "pooled-match", "curve", "group")
#: Means over sources, and which sources they are of, for systems that ran on all of them.
AVERAGES: Mapping[str, Callable[[str], bool]] = {
    "near real sites": near_real_site,
    "paper's eight": lambda source: source in PAPER,
    "all hard": lambda source: source in HARD,
}
_OWN_FIGURES = ("seconds", "fit_seconds", "memory_mb", "failed")


@dataclass(frozen=True, eq=False)
class Cell:
    """One system on one source in one leg.

    Attributes:
        leg: As in the plan.
        source: Domain or set, or a name of ``AVERAGES``.
        system: Row.
        scans: Subject → measures.
        about: What it was allowed to see, seconds, memory, why it failed.
        whole: Measures of all scans together.
        curve: Intensity curve of the first subject: ``x``, ``truth``, ``found``.
    """

    leg: str
    source: str
    system: str
    scans: Mapping[str, Mapping[str, float]]
    about: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def values(self, measure: str) -> dict[str, float]:
        """Subject → one measure, where it is a number."""
        found = {s: m.get(measure) for s, m in self.scans.items()}
        return {s: float(v) for s, v in found.items() if v is not None and np.isfinite(v)}

    @property
    def unchanged(self) -> int:
        """How many scans are the truth to the last bit: their PSNR is no number."""
        return sum(m.get("ssim") == 1 and s not in self.values("psnr") for s, m in self.scans.items())


def cell_of(content: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> Cell:
    """A finished step's figures.

    Args:
        content: Of the step's file.
        own: Profiles of the target's own unseen scans.
    """
    leg, scans = str(content["leg"]), content.get("scans", [])
    about = {k: content[k] for k in ("sees", "together", *_OWN_FIGURES) if k in content}
    place = (leg, str(content["source"]), str(content["system"]))
    if leg == "real" and scans and own:
        return Cell(*place, {s["subject"]: _site(s, own) for s in scans}, about, _sites(scans, own))
    numbers = {s["subject"]: {k: v for k, v in s.items() if k != "subject"} for s in scans}
    return Cell(*place, numbers, about, _people(scans) if leg == "simulated" else {}, content.get("curve", {}))


def _people(scans: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Whether differences between people survive: rank correlation of grey/white contrast with the truth's."""
    pairs = [(s["contrast"], s["truth_contrast"]) for s in scans if None not in (s["contrast"], s["truth_contrast"])]
    if len(pairs) < 3 or len({a for a, _ in pairs}) < 2:
        return {}
    return {"people": float(spearmanr(*zip(*pairs, strict=True))[0])}


def _site(scan: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    mean = average(own)
    found = {k: scan[k] for k in ("excess", "bits", "order", "edges") if k in scan}
    gap = None if scan["contrast"] is None else scan["contrast"] - mean["contrast"]
    tissue = distance(scan, mean, tuple(TISSUES))
    found |= {"contrast": gap, "tissue": tissue, "histogram": distance(scan, mean, ("all",))}
    widths = [o["fwhm"] for o in own if o.get("fwhm") is not None]
    if len(widths) > 1 and scan.get("fwhm") is not None:
        found["width"] = (scan["fwhm"] - float(np.mean(widths))) / float(np.std(widths, ddof=1))
    return found


def _sites(scans: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {"probe": balanced_accuracy([s["features"] for s in scans], [o["features"] for o in own])}
    if len(own) > 1:
        apart = [distance(o, average([x for x in own if x is not o]), tuple(TISSUES)) for o in own]
        found["own"] = float(np.mean(apart))
    return found


def traveled(contents: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """One cell a system for the travelers' leg, from its finished steps on every scanner.

    A system that failed, or did not run, on a scanner that others ran on has none.
    """
    steps = [c for c in contents if c["leg"] == "travelers"]
    scanners = {c["source"] for c in steps}
    found = []
    for system in dict.fromkeys(c["system"] for c in steps):
        own = {str(c["source"]): c for c in steps if c["system"] == system}
        failed = [c["failed"] for c in own.values() if "failed" in c]
        about = {k: next(iter(own.values())).get(k) for k in ("sees", "together")}
        if failed:
            found.append(Cell("travelers", ALL_SCANNERS, system, {}, {**about, "failed": failed[0]}))
        elif set(own) == scanners and len(scanners) > 1:
            scans = {name: c["scans"] for name, c in own.items()}
            for k in _OWN_FIGURES[:3]:
                about[k] = round(float(np.mean([c.get(k, 0) for c in own.values()])), 2)
            for combat in (False, True) if system in COMBAT_AFTER else (False,):
                people, together = summary(scans, then_combat=combat)
                name = f"{system} + combat" if combat else system
                found.append(Cell("travelers", ALL_SCANNERS, name, people, about, together))
    return found


def averaged(cells: Iterable[Cell]) -> list[Cell]:
    """Each system's mean over the sources of ``AVERAGES``, if it ran on all of those that anybody ran on."""
    cells, found = list(cells), []
    for leg in ("simulated", "segmentation"):
        for name, belongs in AVERAGES.items():
            part = [c for c in cells if c.leg == leg and belongs(c.source) and c.scans]
            sources = {c.source for c in part}
            if len(sources) < 2:
                continue
            for system in dict.fromkeys(c.system for c in part):
                own = [c for c in part if c.system == system]
                if len(own) == len(sources):
                    found.append(_mean(leg, name, system, own))
    return found


def _mean(leg: str, name: str, system: str, own: Sequence[Cell]) -> Cell:
    scans = {}
    for subject in own[0].scans:
        names = own[0].scans[subject]
        found = {k: [v for c in own if (v := c.values(k).get(subject)) is not None] for k in names}
        scans[subject] = {k: float(np.mean(x)) for k, x in found.items() if x}
    about = {k: v for k, v in own[0].about.items() if k in ("sees", "together")}
    for k in ("seconds", "memory_mb"):
        about[k] = round(float(np.mean([c.about.get(k, 0) for c in own])), 2)
    people = [c.whole["people"] for c in own if "people" in c.whole]
    return Cell(leg, name, system, scans, about, {"people": float(np.mean(people))} if people else {})


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The table: one row for each cell, with intervals, and tests against the baseline and the best rival.

    The p-values of one system in one leg are also corrected for the number of sources (Holm); means over sources are
    no further tests.
    """
    table = [_row(c, [x for x in cells if (x.leg, x.source) == (c.leg, c.source)]) for c in cells]
    for word in ("baseline", "rival"):
        families: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in table:
            if row["source"] not in AVERAGES and row.get(f"p_{word}") is not None:
                families.setdefault((row["leg"], row["system"]), []).append(row)
        for family in families.values():
            for row, p in zip(family, holm([row[f"p_{word}"] for row in family]), strict=True):
                row[f"holm_{word}"] = _round(p)
    return table


def _row(cell: Cell, beside: Sequence[Cell]) -> dict[str, Any]:
    main, more = MAIN[cell.leg]
    row: dict[str, Any] = {"leg": cell.leg, "source": cell.source, "system": cell.system}
    row |= {k: cell.about.get(k) for k in ("sees", "together")}
    values = list(cell.values(main).values())
    row["scans"] = len(cell.scans)
    if cell.unchanged:
        row["unchanged"] = cell.unchanged
    if values:
        low, high = interval(values)
        row |= {main: _round(np.mean(values)), f"{main}_low": _round(low), f"{main}_high": _round(high)}
        row[f"{main}_worst"] = _round(min(values) if more else max(values))
    for k in dict.fromkeys(k for m in cell.scans.values() for k in m):
        if k != main and cell.values(k):
            row[k] = _round(np.mean(list(cell.values(k).values())))
    row |= {k: _round(v) for k, v in cell.whole.items()}
    row |= _tests(cell, beside, main, more)
    row |= {k: cell.about[k] for k in _OWN_FIGURES if k in cell.about}
    return row


def _tests(cell: Cell, beside: Sequence[Cell], main: str, more: bool) -> dict[str, Any]:
    rivals = [c for c in beside if c.values(main) and c.system != cell.system]
    baseline = next((c for c in rivals if c.system == BASELINE), None)
    others = [c for c in rivals if not _ours(c.system)]
    found: dict[str, Any] = {}
    if baseline:
        found |= _against(cell, baseline, main, "baseline")
    if others:
        best = (max if more else min)(others, key=lambda c: float(np.mean(list(c.values(main).values()))))
        found |= {"rival": best.system, **_against(cell, best, main, "rival")}
    return found


def _ours(system: str) -> bool:
    name = system.partition(" + ")[0]
    return name in ENTRIES and ENTRIES[name].ours


def _against(cell: Cell, other: Cell, main: str, word: str) -> dict[str, Any]:
    one, two = cell.values(main), other.values(main)
    both = [one[s] - two[s] for s in one if s in two]
    # Where some scans are the truth itself, the mean of the others says nothing about all.
    if not both or cell.unchanged or other.unchanged:
        return {}
    found = {f"over_{word}": _round(np.mean(both)), f"p_{word}": _round(sign_flip(both))}
    found |= zip((f"over_{word}_low", f"over_{word}_high"), map(_round, interval(both)), strict=True)
    # Cohen's d of paired differences: how many of their spreads the mean difference is.
    spread = float(np.std(both, ddof=1)) if len(both) > 1 else 0.0
    return {**found, f"effect_{word}": _round(np.mean(both) / spread)} if spread > 0 else found


def _round(value: Any) -> float | None:
    number = float(value)
    return round(number, 4) if np.isfinite(number) else None
