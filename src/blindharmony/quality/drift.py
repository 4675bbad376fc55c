r"""Has a scanner changed? Its scans in order of date, against those that it made before.

The scans are of different people, so each number differs from scan to scan anyway. A change of protocol, coil or
software moves all scans from one day on. Every scan is compared with all scans before it since the last change,

.. math:: t_n = \sqrt{\frac{n-1}{n}}\; \frac{x_n - \bar x_{n-1}}{s_{n-1}}, \qquad
          u_n = \Phi^{-1}\bigl(F_{n-2}(t_n)\bigr)

(:math:`F_{n-2}`: Student's distribution). As long as nothing changes the :math:`u_n` are independent standard normal
numbers whatever the scanner's mean and spread are, which nobody has to know beforehand. Their cumulative sums,

.. math:: S^\pm_n = \max(0,\; S^\pm_{n-1} \pm u_n - k),

stay near zero, and grow by :math:`\delta - k` a scan once the mean has moved by :math:`\delta` standard deviations. One
odd person moves no sum by more than :math:`u = 3` does. An alarm is a sum above :math:`h`, which follows from how
seldom a false alarm shall be (:func:`alarm_limit`). The day of the change is where two means explain the scans best.

Source: Page 1954 (cumulative sums); Hawkins 1987, The Statistician 36, 299-315 (self-starting); Siegmund 1985 (the
limit).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

#: Shift that the sums are made for, in standard deviations, is twice this.
_SLACK = 0.5
# Of scans before a first comparison: with fewer, one odd person would set mean and spread.
_FIRST = 5
_MOST = 3.0


@dataclass(frozen=True)
class Change:
    """A number of a scanner has moved.

    Attributes:
        measure: Its name.
        at: Index of the first scan after the change.
        noticed: Index of the scan at which it was certain.
        before: Mean before, since the last change.
        after: Mean from there to the scan at which it was certain.
        spread: Standard deviation of scans before.
    """

    measure: str
    at: int
    noticed: int
    before: float
    after: float
    spread: float

    @property
    def size(self) -> float:
        """How far the mean moved, in standard deviations of the scans before."""
        moved = self.after - self.before
        return moved / self.spread if self.spread else math.copysign(math.inf, moved)

    @property
    def sentence(self) -> str:
        """The change in words."""
        way = "rose" if self.after > self.before else "fell"
        percent = f" ({100 * (self.after / self.before - 1):+.0f} %)" if self.before else ""
        times = f"{abs(self.size):.1f} times the usual difference between scans" if self.spread else "from no spread"
        return f"{self.measure} {way} from {self.before:.3g} to {self.after:.3g}{percent}, {times}"


def alarm_limit(measures: int, *, scans: int = 100, rate: float = 0.05) -> float:
    r"""The limit :math:`h` of the sums.

    The mean number of scans to a false alarm of one sum is :math:`(e^{2kb} - 2kb - 1) / 2k^2`, :math:`b = h + 1.166`
    (Siegmund 1985). There are two sums for each measure.

    Args:
        measures: How many numbers are watched together.
        scans: Number of scans that the rate is for.
        rate: Probability of a false alarm in any of them.

    Example:
        >>> round(alarm_limit(4), 1)
        7.8
    """
    from scipy.optimize import brentq  # slow to import, and every command imports this module

    wanted = 2 * measures * scans / -math.log1p(-rate)

    def off(h: float) -> float:
        x = 2 * _SLACK * (h + 1.166)
        return math.log((math.exp(x) - x - 1) / (2 * _SLACK**2)) - math.log(wanted)

    return float(brentq(off, 0.1, 50))


def changes(values: Mapping[str, ArrayLike], *, rate: float = 0.05) -> list[Change]:
    """What of a scanner changed and when, in order of the scans.

    Args:
        values: Measure → its value in every scan, in order of date, all of the same length; NaN where it is not known.
        rate: Probability of a false alarm within a hundred scans, all measures together.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> contrast = np.r_[rng.normal(0.70, 0.02, 30), rng.normal(0.76, 0.02, 30)]
        >>> [(change.measure, change.at) for change in changes({"contrast": contrast})]
        [('contrast', 30)]
        >>> changes({"contrast": contrast[:30]})
        []
    """
    limit = alarm_limit(max(len(values), 1), rate=rate)
    every = [change for name, column in values.items() for change in _of_one(name, np.asarray(column, float), limit)]
    return sorted(every, key=lambda change: (change.at, change.measure))


def _of_one(name: str, values: Array, limit: float) -> list[Change]:
    """Changes of one measure; after each, the chart begins anew with the scans since."""
    known = np.flatnonzero(np.isfinite(values))
    x, start, out = values[known], 0, list[Change]()
    while (alarm := _alarm(x[start:], limit)) is not None:
        seen = x[start : start + alarm + 1]
        at = _change_point(seen)
        before, after = seen[:at], seen[at:]
        spread = float(before.std(ddof=1)) if np.ptp(before) > 0 else 0.0
        where = (int(known[start + at]), int(known[start + alarm]))
        out.append(Change(name, *where, float(before.mean()), float(after.mean()), spread))
        start += at
    return out


def scores(values: Array) -> Array:
    """The numbers :math:`u_n`, 0 for the first scans, which there is too little to compare with.

    Example:
        >>> scores(np.array([1.0, 2.0, 1.5, 1.2, 1.8, 1.5])).round(2).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    u = np.zeros(len(values))
    if len(values) <= _FIRST:
        return u
    # About their middle the squares of near numbers lose no digits.
    x = values - np.median(values)
    n = np.arange(_FIRST, len(x))
    mean = np.cumsum(x)[n - 1] / n
    spread = np.sqrt(np.maximum(np.cumsum(x * x)[n - 1] - n * mean**2, 0) / (n - 1))
    # Scans that all have one value, as rounded numbers may: any other is a change.
    t = np.sqrt(n / (n + 1)) * (x[n] - mean) / np.maximum(spread, 1e-9 * np.abs(values).max() + 1e-300)
    u[_FIRST:] = np.copysign(np.minimum(-special.ndtri(special.stdtr(n - 1, -np.abs(t))), _MOST), t)
    return u


def _alarm(values: Array, limit: float) -> int | None:
    """Index at which a sum first passes the limit."""
    up = down = 0.0
    for n, u in enumerate(scores(values)):
        up, down = max(0.0, up + u - _SLACK), max(0.0, down - u - _SLACK)
        if max(up, down) > limit:
            return n
    return None


def _change_point(values: Array) -> int:
    """The index that splits the values into two parts of means as far apart as chance allows least."""
    n = np.arange(1, len(values))
    total = np.cumsum(values)[:-1]
    gap = (values.sum() - total) / (len(values) - n) - total / n
    return int(np.argmax(gap**2 * n * (len(values) - n))) + 1


def usual(values: Sequence[float] | Array, shifts: Sequence[Change]) -> list[tuple[int, int, float, float]]:
    """First and last scan, mean and spread of every stretch without a change.

    Example:
        >>> usual([1.0, 3.0, 9.0, 11.0], [Change("x", 2, 3, 2.0, 10.0, 1.4)])
        [(0, 1, 2.0, 1.41...), (2, 3, 10.0, 1.41...)]
    """
    x = np.asarray(values, np.float64)
    borders = [0, *(change.at for change in shifts), len(x)]
    stretches = []
    for first, end in pairwise(borders):
        part = x[first:end][np.isfinite(x[first:end])]
        if len(part):
            spread = float(part.std(ddof=1)) if len(part) > 1 else 0.0
            stretches.append((first, end - 1, float(part.mean()), spread))
    return stretches
