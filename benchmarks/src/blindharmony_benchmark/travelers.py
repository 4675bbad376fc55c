r"""People who were on several scanners: how far scanners still differ in them, and whether people still differ.

Travelers are the strictest test of a harmonization. Here they are a set of scans of the same people from several
scanners: real ones (:func:`travelers_of` reads a BIDS study), or the target's test people through simulated scanners
near real sites. Of every harmonized scan :func:`features_of` keeps volumes and radiomics, no voxels. With
:math:`v_{psk}` volume :math:`k` of person :math:`p` on scanner :math:`s` (:class:`Table`):

- **difference between scanners** left in a person (lower is better), per cent:
  :math:`100\,\sqrt{\operatorname{mean}_k \operatorname{var}_s(v_{psk}) / \operatorname{mean}_s(v_{psk})^2}`.
- **differences between people** kept (1 is best): Spearman's rank correlation over people of a volume on one scanner
  with the truth, or, where there is none, between two scanners; mean over volumes and scanners.
- **ICC(2, 1)**, absolute agreement of single scans: mean over volumes; of radiomics the share above 0.75.

Low differences alone prove nothing: to give everybody the same brain would do it. Both axes belong together.

Source: ICC: Shrout and Fleiss, Psychological Bulletin 86 (1979); 0.75: Koo and Li, J. Chiropractic Medicine 15 (2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import bootstrap, rankdata

from blindharmony.errors import NothingFoundError
from blindharmony.io.bids import Scan, bids_scans
from blindharmony.preprocessing.registration import load_template
from blindharmony.study.groups import by_metadata
from blindharmony_benchmark.combat import combat
from blindharmony_benchmark.plan import Split

Volumes = NDArray[np.float64]

#: The scanner that the truth was made on.
TRUTH = "target"
#: From which ICC on a feature counts as reproducible.
REPRODUCIBLE = 0.75
_LEAST_PEOPLE, _LEAST_VOXELS = 3, 50
_RESAMPLINGS, _BIN, _BRIGHTEST = 2000, 0.025, 8.0


def travelers_of(study: Path) -> dict[str, Split]:
    """The scanners of a BIDS study and the people who were on at least two of them.

    Scans belong to one scanner where their sidecars name the same machine, software and sequence. Of several scans of
    one person on one scanner the first is taken.

    Returns:
        Scanner → its people, all of them tested.

    Raises:
        NothingFoundError: If fewer than two scanners share three people.
    """
    scans, _ = bids_scans(study)
    scanners: dict[str, dict[str, Scan]] = {}
    for group in by_metadata(scans):
        for scan in group.scans:
            # A scan whose scanner nobody names is a group of its own.
            if len(group.scans) > 1:
                scanners.setdefault(group.name, {}).setdefault(f"sub-{scan.words['sub']}", scan)
    often = {p for people in scanners.values() for p in people if sum(p in x for x in scanners.values()) > 1}
    found = {name: {p: s for p, s in people.items() if p in often} for name, people in scanners.items()}
    found = {name: people for name, people in found.items() if len(people) >= _LEAST_PEOPLE}
    if len(found) < 2:
        what = (
            f"no two scanners share {_LEAST_PEOPLE} people; scanners by their sidecars: {', '.join(scanners) or 'none'}"
        )
        remedy = "give a study whose sidecars name Manufacturer, model and serial number"
        raise NothingFoundError(what, remedy=remedy, path=study)
    return {
        name: Split(study, (), (), tuple(sorted(people)), {p: s.path for p, s in people.items()})
        for name, people in found.items()
    }


def parts_of_head(region: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Eight parts of the template's grid: left and right, back and front, lower and upper.

    Args:
        region: Brain on the template's grid; its middle parts front from back and upper from lower.

    Example:
        >>> list(parts_of_head(load_template().data > 0))[:2]
        ['left back lower', 'left back upper']
    """
    affine = load_template().affine
    index = np.indices(region.shape, np.float32, sparse=True)
    x, y, z = (affine[k, k] * index[k] + affine[k, 3] for k in range(3))
    middle = [float(np.median(np.broadcast_to(a, region.shape)[region])) for a in (y, z)]
    sides = {"left": x < 0, "right": x >= 0}
    fronts = {"back": y < middle[0], "front": y >= middle[0]}
    levels = {"lower": z < middle[1], "upper": z >= middle[1]}
    return {f"{a} {b} {c}": sides[a] & fronts[b] & levels[c] for a in sides for b in fronts for c in levels}


def features_of(
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    parts: Mapping[str, NDArray[np.bool_]],
) -> dict[str, dict[str, float]]:
    """Volumes (ml) and radiomics of one scan on the template's grid.

    Volumes: of each tissue in all, of grey and white matter in each part, in the person's own space. Radiomics: first
    order features of grey and white matter in each part: 10th percentile, median, 90th percentile, interquartile range,
    entropy (bits; bins of 0.025) and mean gradient (a millimeter), intensities in flow units. Contrast: median of grey
    over median of white matter.

    Args:
        image: Flow units.
        labels: 1 CSF, 2 grey, 3 white matter.
        matrix: Template world (mm) → scan world (mm): its determinant gives the volume.
        parts: From :func:`parts_of_head`.
    """
    voxel = abs(float(np.linalg.det(load_template().affine[:3, :3] @ matrix[:3, :3]))) / 1000
    tissues = {"csf": labels == 1, "grey": labels == 2, "white": labels == 3}
    volumes = {name: voxel * float(inside.sum()) for name, inside in tissues.items()}
    gradient = np.sqrt(sum(ndimage.sobel(image, axis) ** 2 for axis in range(3))) / 32
    radiomics: dict[str, float] = {}
    for tissue in ("grey", "white"):
        for part, where in parts.items():
            inside = tissues[tissue] & where
            volumes[f"{tissue}, {part}"] = voxel * float(inside.sum())
            radiomics |= {f"{n}, {tissue}, {part}": v for n, v in _first_order(image[inside], gradient[inside]).items()}
    medians = {t: float(np.median(image[i])) if i.any() else float("nan") for t, i in tissues.items()}
    contrast = medians["grey"] / medians["white"] if medians["white"] else float("nan")
    return {"volumes": volumes, "radiomics": radiomics, "contrast": {"grey/white": contrast}}


def _first_order(values: NDArray[np.float32], gradient: NDArray[np.floating[Any]]) -> dict[str, float]:
    names = ("10th percentile", "median", "90th percentile", "interquartile range", "entropy", "gradient")
    if values.size < _LEAST_VOXELS:
        return dict.fromkeys(names, float("nan"))
    low, first, middle, third, high = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9]).tolist()
    counts = np.bincount((np.clip(values, 0, _BRIGHTEST) / _BIN).astype(int))
    share = counts[counts > 0] / values.size
    entropy = float(-(share * np.log2(share)).sum())
    return dict(zip(names, (low, middle, high, third - first, entropy, float(gradient.mean())), strict=True))


@dataclass(frozen=True, eq=False)
class Table:
    """One kind of feature of everybody on every scanner.

    Attributes:
        people: Subjects.
        scanners: Names.
        values: Shape ``(people, scanners, features)``.
        truth: Where the truth is known, shape ``(people, features)``.
    """

    people: tuple[str, ...]
    scanners: tuple[str, ...]
    values: Volumes
    truth: Volumes | None

    @classmethod
    def of(cls, kind: str, steps: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
        """From the finished steps of one system.

        Args:
            kind: ``volumes``, ``radiomics`` or ``contrast``.
            steps: Scanner → its scans, as :func:`features_of` describes them, with ``subject`` and, where it is known,
                ``truth``. Only people who were on every scanner count.
        """
        by = {name: {s["subject"]: s for s in scans} for name, scans in steps.items()}
        first = next(iter(by.values()))
        people = tuple(p for p in first if all(p in x for x in by.values()))
        names = list(first[people[0]][kind]) if people else []

        def row(content: Mapping[str, Any]) -> list[float]:
            return [float("nan") if content[kind][n] is None else float(content[kind][n]) for n in names]

        values = np.array([[row(x[p]) for x in by.values()] for p in people])
        known = bool(people) and all("truth" in first[p] for p in people)
        truth = np.array([row(first[p]["truth"]) for p in people]) if known else None
        return cls(people, tuple(by), values, truth)

    @property
    def measured(self) -> Volumes:
        """With the truth as one more scanner, where it is known."""
        return self.values if self.truth is None else np.concatenate([self.values, self.truth[:, None]], 1)

    def with_combat(self) -> Table:
        """The features after ComBat, scanners as sites, brought to the truth's scanner where there is one.

        Its best case: the same people were on every scanner, and on the reference.
        """
        everything = self.measured
        names = (*self.scanners, *(() if self.truth is None else (TRUTH,)))
        flat = everything.reshape(-1, everything.shape[2])
        whole = np.isfinite(flat).all(0)
        site = np.tile(np.array(names), len(self.people))
        out = flat.copy()
        out[:, whole] = combat(flat[:, whole], site, reference=None if self.truth is None else TRUTH)
        values = out.reshape(everything.shape)[:, : len(self.scanners)]
        return Table(self.people, self.scanners, values, self.truth)

    def differences(self) -> dict[str, float]:
        """Person → difference between scanners left, per cent; lower is better.

        Example:
            >>> scans = {s: [{"subject": "a", "volumes": {"grey": v}}] for s, v in (("one", 99.0), ("two", 101.0))}
            >>> {p: round(d, 2) for p, d in Table.of("volumes", scans).differences().items()}
            {'a': 1.41}
        """
        x = self.measured
        variance, mean = x.var(1, ddof=1), x.mean(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            each = [100 * math.sqrt(_mean(v / m**2)) for v, m in zip(variance, mean, strict=True)]
        return dict(zip(self.people, each, strict=True))

    def kept(self) -> float:
        """Mean rank correlation over people with the truth, or between scanners; 1 is best."""
        return _kept(self.values, self.truth)

    def kept_interval(self, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval of :meth:`kept` over people (percentiles)."""
        truth = self.truth

        def statistic(index: NDArray[np.int64]) -> float:
            return _kept(self.values[index], None if truth is None else truth[index])

        drawn = bootstrap(
            (np.arange(len(self.people)),),
            statistic,
            confidence_level=level,
            n_resamples=_RESAMPLINGS,
            method="percentile",
            vectorized=False,
            rng=seed,
        )
        low, high = drawn.confidence_interval
        return float(low), float(high)

    def icc(self) -> Volumes:
        """ICC(2, 1) of every feature."""
        return agreement(self.measured)


def _kept(values: Volumes, truth: Volumes | None) -> float:
    ranks = rankdata(values, axis=0)
    if truth is not None:
        other = rankdata(truth, axis=0)[:, None]
        return _mean(_correlation(ranks, np.broadcast_to(other, ranks.shape)))
    pairs = [(i, j) for i in range(ranks.shape[1]) for j in range(i)]
    return _mean(np.array([_correlation(ranks[:, i], ranks[:, j]) for i, j in pairs]))


def _mean(values: Volumes) -> float:
    """Of what is known: a tissue that a part lacks has no volume, and where all people are alike there is no order."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _correlation(one: Volumes, other: Volumes) -> Volumes:
    a, b = one - one.mean(0), other - other.mean(0)
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Volumes = np.where(size > 0, (a * b).sum(0) / size, np.nan)
    return found


def agreement(values: Volumes) -> Volumes:
    r"""ICC(2, 1), two-way random effects, absolute agreement, single measurement.

    .. math:: \frac{MS_P - MS_E}{MS_P + (k - 1) MS_E + k (MS_S - MS_E) / n}

    Args:
        values: Shape ``(people, scanners, features)``.

    Example:
        >>> people = np.arange(5.0)[:, None, None]
        >>> agreement(np.repeat(people, 3, 1)).round(3)  # scanners agree
        array([1.])
        >>> agreement(people + np.array([0.0, 4.0, 8.0])[:, None]).round(2)  # order kept, level not
        array([0.14])
    """
    n, k = values.shape[:2]
    mean, person, scanner = values.mean((0, 1)), values.mean(1), values.mean(0)
    left = values - person[:, None] - scanner + mean
    of_people = k * ((person - mean) ** 2).sum(0) / (n - 1)
    of_scanners = n * ((scanner - mean) ** 2).sum(0) / (k - 1)
    of_error = (left**2).sum((0, 1)) / ((n - 1) * (k - 1))
    total = of_people + (k - 1) * of_error + k * (of_scanners - of_error) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Volumes = np.where(total > 0, (of_people - of_error) / total, np.nan)
    return found


def summary(
    steps: Mapping[str, Sequence[Mapping[str, Any]]], *, then_combat: bool = False
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Of one system: each person's differences, and what can only be said of all together.

    Args:
        steps: Scanner → its scans.
        then_combat: Whether ComBat is applied to the features afterwards.

    Returns:
        Person → ``difference`` of volumes and ``intensity`` difference (of radiomics' medians); and ``people``,
        its interval ``people_low`` and ``people_high``, ``contrasts`` (rank correlation of the contrast), ``icc`` of
        volumes and ``reproducible``, the share of radiomics with an ICC above 0.75.
    """
    tables = [Table.of(kind, steps) for kind in ("volumes", "radiomics", "contrast")]
    if len(tables[0].people) < _LEAST_PEOPLE:
        return {}, {}
    volumes, radiomics, contrast = (t.with_combat() if then_combat else t for t in tables)
    low, high = volumes.kept_interval()
    icc = radiomics.icc()
    together = {
        "people": volumes.kept(),
        "people_low": low,
        "people_high": high,
        "contrasts": contrast.kept(),
        "icc": _mean(volumes.icc()),
        "reproducible": _mean(np.where(np.isfinite(icc), icc > REPRODUCIBLE, np.nan)),
    }
    each = contrast.differences()
    return {p: {"difference": d, "contrast_difference": each[p]} for p, d in volumes.differences().items()}, together
