"""A site probe: can a classifier, taught anew for every method, still tell the scanner?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RIDGE = 1.0


def probe_hits(one: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each scan's site was told right by ridge regression on the other scans' standardised features.

    A frozen probe flatters: it is taught again for every method, on its harmonized scans, leaving one subject out.

    Args:
        one: Features of one site's scans, shape ``(scans, features)``.
        other: Of the other's.
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    x = np.concatenate([first, second])
    y = np.concatenate([np.ones(len(first)), -np.ones(len(second))])
    hit = np.zeros(len(y), bool)
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        centre, spread = x[rest].mean(0), x[rest].std(0) + 1e-9
        a, b = (x[rest] - centre) / spread, (x[i] - centre) / spread
        weight = np.where(y[rest] > 0, 0.5 / max((y[rest] > 0).sum(), 1), 0.5 / max((y[rest] < 0).sum(), 1))
        slope = np.linalg.solve(
            (a * weight[:, None]).T @ a + _RIDGE * np.eye(a.shape[1]), (a * weight[:, None]).T @ y[rest]
        )
        offset = -(weight * (a @ slope - y[rest])).sum()
        hit[i] = np.sign(b @ slope + offset) == y[i]
    return hit[: len(first)], hit[len(first) :]


def balanced_accuracy(one: ArrayLike, other: ArrayLike) -> float:
    """Mean over the two sites of the share told right: 0.5 is chance, 1 means the scanner still shows.

    Example:
        >>> balanced_accuracy([[0.0], [0.1], [0.2]], [[5.0], [5.1], [5.2]])
        1.0
    """
    first, second = probe_hits(one, other)
    return float((first.mean() + second.mean()) / 2)
