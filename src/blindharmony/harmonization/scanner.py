r"""The model of a source scanner: one increasing curve for all its scans, one gain for each.

.. math:: x_j = T(g_j\, y_j), \qquad \operatorname{rms}(x_j) = 1

:math:`y_j` are prepared scans. A scan's ranks say which quantile curve :math:`\hat Q_j` its person would have on the
target scanner. Alone it is mapped by :math:`\hat Q_j \circ F_j`. Scans of one scanner share the curve that gives the
mean scan, rank by rank, the intensities of the mean person:

.. math:: \sum_j w_j\, T\bigl(g_j\, Q_{y_j}(u)\bigr) = \bar Q(u) + s \sum_j w_j \bigl(\hat Q_j(u) - \bar Q(u)\bigr)
          \quad \text{for every rank } u

Heads that are like some of the target's people count more than heads unlike any, about whom little can be said
(:math:`w_j`, ``target.person``). What is left of the errors about single persons shrinks with their number, and true
differences between people survive, because nobody is forced onto a curve of their own. The more they are, the nearer
is their true mean to that of everybody, :math:`\bar Q`, while what a scanner does to all their features stays: so the
share :math:`s` of what is said about them goes from 1 for one scan to 0, pooled matching, for very many
(:meth:`~blindharmony.models.person.PersonModel.group_share`). (The least-squares curve
through all :math:`(Q_{y_j}, \hat Q_j)` is flatter than the true one: a bright scan is partly a bright person.) The
gains follow from the scale that preparation gives every target scan. Either curve is then made as smooth as most
scanners are and errors about people are not (:mod:`~blindharmony.harmonization.intensity`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import ScannerError, UsageError
from blindharmony.files import parse_json, read_text, write_text
from blindharmony.harmonization.intensity import CurveMap, evident_share, rms, smooth_curve
from blindharmony.harmonization.summary import ScanSummary, whole_quantiles
from blindharmony.models.target import Target
from blindharmony.settings import CurveSettings, HarmonizeSettings

Array: TypeAlias = NDArray[np.float64]

Number = TypeVar("Number", int, float, str)

_FORMAT = 2
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a text"}
# What a file may hold: more is damage, or would only overflow later. The first curve, and eight rounds after it.
_MAX_ROUNDS = 9
_MAX_KNOTS, _MAX_VALUE, _MAX_SLOPE, _MAX_DISTANCE = 100_000, 1e3, 1e6, 1e100


@dataclass(frozen=True, eq=False)
class ScannerModel:
    """The curve of one source scanner towards one target.

    Attributes:
        curve: Prepared intensity times gain → flow units of the target.
        scans: How many scans it was fitted to.
        target: Digest of the target model.
        disagreement: Root mean square difference between the shared curve and each scan's own (flow units).
        lift: How far the curve is trusted to give the contrast for bias correction
            (:mod:`~blindharmony.harmonization.intensity`).
        next_round: The curve for what is left after bias correction in the contrast of this one.
        distances: How far its scans are from the target's own as they came and harmonized with the curve, standard
            deviations, mean of the scans; None if nobody has looked.

    Example:
        >>> line = np.array([0.0, 1.0, 2.0])
        >>> model = ScannerModel(CurveMap(line, line**2), scans=4, target="bf33283b501b", disagreement=0.01)
        >>> ScannerModel.parse(model.content).digest == model.digest
        True
    """

    curve: CurveMap
    scans: int
    target: str
    disagreement: float
    lift: float = 0.0
    next_round: ScannerModel | None = None
    distances: tuple[float, float] | None = None

    @property
    def helps(self) -> bool:
        """Whether harmonizing with the curve brings its scans nearer to the target; yes, if nobody has looked."""
        return self.distances is None or self.distances[1] < self.distances[0]

    @property
    def effect(self) -> str:
        """What harmonizing does to its scans, in words that follow "its scans"; empty if nobody has looked.

        Example:
            >>> line = np.array([0.0, 1.0])
            >>> ScannerModel(CurveMap(line, line), 4, "bf33283b501b", 0.01, distances=(0.9, 1.2)).effect
            "are 0.90 standard deviations from the target's own, and harmonizing makes it 1.20: contrast left as it was"
        """
        if self.distances is None:
            return ""
        before, after = self.distances
        digits = 2 if round(before, 2) != round(after, 2) else 3
        words = f"are {before:.{digits}f} standard deviations from the target's own, and harmonizing makes it "
        words += f"{after:.{digits}f}"
        return words if self.helps else f"{words}: contrast left as it was"

    @property
    def rounds(self) -> tuple[ScannerModel, ...]:
        """This model, the one for what is left after the first bias correction, and so on."""
        return (self, *(self.next_round.rounds if self.next_round else ()))

    def with_round(self, last: ScannerModel) -> ScannerModel:
        """With one more round of bias correction, and the curve for what is left after it, at the end."""
        following = self.next_round.with_round(last) if self.next_round else replace(last, scans=self.scans)
        return replace(self, next_round=following)

    def gain(self, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
        r"""The factor that gives a scan of this scanner the target's scale: :math:`\operatorname{rms}(T(gy)) = 1`."""
        return _gain(self.curve, whole_quantiles(image, mask))

    @property
    def digest(self) -> str:
        """SHA-256 of the model as written, first 12 digits."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:12]

    @property
    def content(self) -> dict[str, Any]:
        """The model as numbers, words and lists: what is written."""
        return {
            "blindharmony-scanner": _FORMAT,
            "scans": self.scans,
            "target": self.target,
            "disagreement": float(self.disagreement),
            "lift": float(self.lift),
            **({"distances": list(self.distances)} if self.distances else {}),
            **self._fit(),
        }

    def _fit(self) -> dict[str, Any]:
        following = self.next_round
        then = {"then": {"disagreement": float(following.disagreement), **following._fit()}} if following else {}
        return _knots(self.curve) | then

    def _text(self) -> str:
        return json.dumps(self.content, indent=1) + "\n"

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write the model as JSON.

        Raises:
            OutputError: If the file exists and ``overwrite`` is false.
        """
        write_text(path, self._text(), overwrite=overwrite)
        return path

    def checked_for(self, target: Target, path: Path | None = None) -> ScannerModel:
        """This model, if it was fitted for this target.

        Raises:
            ScannerError: If it was not; it would give the intensities of another scanner.
        """
        if self.target != target.digest:
            raise ScannerError(
                f"this scanner model was fitted for another target ({self.target}, not {target.digest})",
                remedy="fit it again with --group --save-scanner",
                path=path,
            )
        return self

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> ScannerModel:
        """The model of its :attr:`content`.

        Raises:
            ValueError: If it is none; the message says what is wrong with it.
        """
        version = _entry(content, "blindharmony-scanner", int)
        if version != _FORMAT:
            raise ValueError(f"its format is {version}, this program reads {_FORMAT}")
        scans, made_for = _entry(content, "scans", int), _entry(content, "target", str)
        lift = _entry(content, "lift", float)
        if scans < 1:
            raise ValueError(f"'scans' is {scans}, not 1 or more")
        if not 0 <= lift <= 1:
            raise ValueError(f"'lift' is {lift:g}, not between 0 and 1")
        parts = [content]
        while (then := parts[-1].get("then")) is not None:
            if not isinstance(then, Mapping):
                raise ValueError("'then' is not a curve")
            if len(parts) == _MAX_ROUNDS:
                raise ValueError(f"it has more than {_MAX_ROUNDS} rounds")
            parts.append(then)
        first, *later = (cls(_curve(p), scans, made_for, _entry(p, "disagreement", float)) for p in parts)
        first = replace(first, lift=lift, distances=_distances(content))
        return reduce(lambda whole, last: whole.with_round(last), later, first)

    @classmethod
    def load(cls, path: Path, target: Target) -> ScannerModel:
        """Read a model that was fitted for this target.

        Raises:
            ScannerError: If it is no scanner model, damaged, or made for another target.
        """
        try:
            content = parse_json(read_text(path, ScannerError))
            if not isinstance(content, Mapping):
                raise ValueError("it is no JSON object")
            model = cls.parse(content)
        except ValueError as error:
            what = f"this is not a scanner model ({str(error)[:120]})"
            raise ScannerError(what, remedy="make one with --save-scanner", path=path) from None
        return model.checked_for(target, path)


def _knots(curve: CurveMap) -> dict[str, list[float]]:
    return {"source": curve.x.tolist(), "harmonized": curve.y.tolist()}


def _entry(content: Mapping[str, Any], name: str, kind: type[Number]) -> Number:
    """An entry of a scanner file, of one kind."""
    value = content.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    # To Python True is 1; to the writer of a file it was something else.
    if type(value) is not kind:
        raise ValueError(f"'{name}' is missing" if value is None else f"'{name}' is not {_KINDS[kind]}")
    entry: Number = value
    return entry


def _distances(content: Mapping[str, Any]) -> tuple[float, float] | None:
    if (values := content.get("distances")) is None:
        return None
    plain = isinstance(values, list) and len(values) == 2 and all(type(v) in (int, float) for v in values)
    # A whole number may be too large for any other kind.
    if not (plain and min(values) >= 0 and max(values) < _MAX_DISTANCE):
        raise ValueError("'distances' are not two numbers of zero or more")
    before, after = values
    return float(before), float(after)


def _curve(content: Mapping[str, Any]) -> CurveMap:
    lists = [content.get(name) for name in ("source", "harmonized")]
    try:
        x, y = (np.array(values, np.float64) for values in lists)
    except (TypeError, ValueError):
        raise ValueError("'source' and 'harmonized' are not lists of numbers") from None
    if x.ndim != 1 or x.shape != y.shape or not 2 <= x.size <= _MAX_KNOTS:
        raise ValueError(f"'source' and 'harmonized' are not equally long lists of 2 to {_MAX_KNOTS} numbers")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and x[0] == y[0] == 0):
        raise ValueError("its curve does not go from zero to zero through finite numbers")
    if not ((np.diff(x) > 0).all() and (np.diff(y) >= 0).all()):
        raise ValueError("its curve is not increasing")
    # Prepared intensities and flow units are around one: what is far from it would only overflow later.
    if max(x[-1], y[-1]) >= _MAX_VALUE or y[-1] == 0 or y[1] > _MAX_SLOPE * x[1]:
        raise ValueError("its curve is constant, too steep, or far from the intensities of a prepared scan")
    return CurveMap(x, y)


def fit_scanner(
    scans: Sequence[ScanSummary],
    target: Target,
    settings: HarmonizeSettings = HarmonizeSettings(),
    *,
    whole: bool = False,
) -> ScannerModel:
    """The scanner model of scans that share a scanner; with one scan, that scan's own curve.

    Args:
        scans: Summaries of prepared scans, at least one.
        target: The target they are harmonized to.
        settings: Numbers of the curve, and of the trust in it for bias correction.
        whole: Whether all of the curve is used whatever it changes, as what is left after another curve. Otherwise it
            goes as far as there is evidence (:mod:`~blindharmony.harmonization.intensity`).

    Raises:
        UsageError: If there is none.
    """
    if not scans:
        raise UsageError("there is no scan to fit a scanner to", remedy="give at least one that can be prepared")
    target = target.asked_with(settings.person)
    persons = own = [s.person for s in scans]
    surprises = np.array([s.surprise for s in scans])
    weights = target.person.certainty(surprises) if target.person else np.full(len(scans), 1 / len(scans))
    usual = rms(target.person.deviation(surprises, weights)) if target.person else None
    if target.person:
        # The mean of many people is near everybody's; what a scanner does to all their features does not average out.
        believed = target.person.group_share(surprises, weights)
        persons = [target.person.mean + believed * (p - target.person.mean) for p in own]
    gains = np.ones(len(scans))
    for _ in range(settings.curve.rounds if len(scans) > 1 else 1):
        sources = [g * s.quantiles for g, s in zip(gains, scans, strict=True)]
        curve = _shared_curve(sources, persons, weights, usual, settings.curve)
        if len(scans) > 1:
            gains = np.array([_gain(curve, s.whole) for s in scans])
            gains /= np.exp(np.log(gains).mean())
    sources = [g * s.quantiles for g, s in zip(gains, scans, strict=True)]
    harmonized = [curve(s.astype(np.float32)).astype(np.float64) for s in sources]
    if target.person:
        error = rms(target.person.deviation(np.zeros(len(scans)), weights))
    else:
        error = rms(target.quantiles.std(0)) * float(np.sqrt((weights**2).sum()))
    # The curve takes scans with their gain: from there to the target it is as far as it changes the contrast.
    change = rms(np.subtract(harmonized, sources))
    share = evident_share(change, error, settings.bias_again.sure)
    off = rms(np.subtract(harmonized, own))
    if usual is not None and not whole:
        used = evident_share(change, usual, settings.curve.evidence)
        curve = CurveMap(curve.x, curve.x + used * (curve.y - curve.x))
    return ScannerModel(curve, len(scans), target.digest, off, share)


def _shared_curve(
    sources: Sequence[Array],
    persons: Sequence[Array],
    weights: Array,
    usual: float | None,
    settings: CurveSettings,
) -> CurveMap:
    """The curve that gives the mean scan, rank by rank, the mean person's intensities; smooth if errors are known."""
    wanted, source = (np.average(q, 0, weights) for q in (persons, sources))
    curve = CurveMap.through(source, wanted)
    for _ in range(settings.rounds if len(sources) > 1 else 0):
        # The mean of curved values is not the curve of the mean: what is still off is taken out on the target's side.
        reached = np.average([curve(s.astype(np.float32)) for s in sources], 0, weights)
        curve = CurveMap(curve.x, CurveMap.through(reached, wanted)(curve.y.astype(np.float32)).astype(np.float64))
    if usual is None:
        return curve
    return smooth_curve(source, curve(source.astype(np.float32)).astype(np.float64), usual, settings)


def _gain(curve: CurveMap, values: Array) -> float:
    """The factor with which the curve gives these values a root mean square of 1 (bisection in the log)."""
    low, high = np.log(0.1), np.log(10.0)
    for _ in range(50):
        middle = (low + high) / 2
        out = curve((np.exp(middle) * values).astype(np.float32)).astype(np.float64)
        # Preparation clips the brightest thousandth when it sets the scale.
        rms = np.sqrt((np.minimum(out, np.quantile(out, 0.999)) ** 2).mean())
        low, high = (middle, high) if rms < 1 else (low, middle)
    return float(np.exp((low + high) / 2))
