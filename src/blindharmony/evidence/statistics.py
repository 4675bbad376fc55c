"""How sure a figure is with few subjects: bootstrap intervals and sign-flip tests, both over subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DRAWS, _EXACT = 10_000, 14


def interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean: subjects are drawn with replacement, percentiles of the means.

    With a handful of subjects it is too narrow: four subjects cover it in 79 % of cases, eight in 88 %.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> 1 < low < 3 < high < 5
        True
    """
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = x[rng.integers(0, x.size, (_DRAWS, x.size))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    r"""Two-sided p-value that paired differences have mean zero: signs are flipped in every way.

    Exact up to 14 subjects, :math:`p \ge 2^{1-n}`: four subjects cannot give less than 0.125. Beyond, 10 000 draws.

    Example:
        >>> sign_flip([1.0, 2.0, 1.5, 1.2])
        0.125
    """
    d = np.asarray(differences, np.float64)
    d = d[np.isfinite(d)]
    if d.size == 0:
        return float("nan")
    if d.size <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**d.size)[:, None] >> np.arange(d.size)) & 1)
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (_DRAWS, d.size))
        signs = np.concatenate([np.ones((1, d.size), int), 1 - 2 * drawn])
    means = np.abs((signs * d).mean(1))
    return float(np.mean(means >= abs(d.mean()) - 1e-12))
