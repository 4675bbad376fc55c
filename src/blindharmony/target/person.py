r"""Which of the target's people a scan shows: the quantile curve of this head, from features that no scanner changes.

Gaussian-process regression from rank features :math:`f` (``harmonization.ranks``) to quantile
curves :math:`Q`, taught by the target's own scans as they are and as seen through other scanners' noise and blur:

.. math:: \hat Q(f) = \bar Q + k(f)^\top (K + N)^{-1} (Q_{1..R} - \bar Q), \qquad
          k(f, f') = \lambda \ell^2 \exp\bigl(-\|f - f'\|^2 / 2\ell^2\bigr)

The noise :math:`N` is shared half and half by all rows of one head and by each row alone: six versions of one head
are not six people. A scan unlike anything seen in training gets the mean curve: masked histogram matching.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, eq. 2.25, 2.26 and 5.12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")

_LENGTH, _STRENGTH, _SHARED = 2.0, 20.0, 0.5


# Matrix products differ in their last digits with the number of threads, and a scanner's hash would with them.
def _one_thread(f: Callable[P, R]) -> Callable[P, R]:
    return cast(Callable[P, R], threadpool_limits.wrap(limits=1, user_api="blas")(f))


@dataclass(frozen=True, eq=False)
class PersonModel:
    """Rank features of the target's scans and the quantile curves they belong to.

    Attributes:
        features: One row a version of a head, two equal blocks, shape ``(R, F)``.
        curves: Their quantile curves, flow units, shape ``(R, Q)``.
        heads: Which head a row belongs to; the first row of a head is the head itself, shape ``(R,)``.

    Example:
        >>> f = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> model = PersonModel(f, np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 5.0]]), np.arange(3))
        >>> model.curve(f[0]).round(1).tolist()
        [1.0, 2.1]
        >>> model.curve(f[0] + 100).round(1).tolist()
        [2.0, 3.3]
    """

    features: Array
    curves: Array
    heads: NDArray[np.int64]

    @cached_property
    def mean(self) -> Array:
        """The mean curve of the heads as they are."""
        return np.asarray(self.curves[self.themselves].mean(0))

    @cached_property
    def themselves(self) -> NDArray[np.bool_]:
        """The rows of the heads as they are, without noise or blur."""
        return np.concatenate([[True], self.heads[1:] != self.heads[:-1]])

    @cached_property
    def _scale(self) -> tuple[Array, Array]:
        """Centre and spread of the features of the heads as they are; each block counts the same."""
        own = self.features[self.themselves]
        centre = own.mean(0)
        blocks = np.split((own - centre) ** 2, 2, axis=1)
        spread = [np.full(b.shape[1], np.sqrt(2 * b.sum(1).mean()) + 1e-12) for b in blocks]
        return centre, np.concatenate(spread)

    def _kernel(self, a: Array, b: Array) -> Array:
        centre, spread = self._scale
        a, b = (a - centre) / spread, (b - centre) / spread
        distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.asarray(_STRENGTH * _LENGTH**2 * np.exp(-distance / (2 * _LENGTH**2)))

    @cached_property
    def _precision(self) -> Array:
        same = (self.heads[:, None] == self.heads).astype(np.float64)
        noise = _SHARED * same + (1 - _SHARED) * np.eye(len(self.heads))
        return np.asarray(np.linalg.inv(self._kernel(self.features, self.features) + noise))

    @cached_property
    def _weights(self) -> Array:
        return np.asarray(self._precision @ (self.curves - self.mean))

    @_one_thread
    def curve(self, features: Array) -> Array:
        """The most probable quantile curve of a head with these features, ``(F,) → (Q,)``."""
        return np.asarray(self.mean + (self._kernel(features[None], self.features) @ self._weights)[0])

    @_one_thread
    def surprise(self, features: Array) -> float:
        """How little the features say: 0 among the target's own heads, 1 for nothing like them."""
        k = self._kernel(features[None], self.features)[0]
        return float(1 - k @ self._precision @ k / (_STRENGTH * _LENGTH**2))

    @cached_property
    @_one_thread
    def error(self) -> Array:
        """Root mean square error about heads left out of training, by rank, shape ``(Q,)``."""
        return np.asarray(np.sqrt(((self.left_out() - self.curves[self.themselves]) ** 2).mean(0)))

    @cached_property
    def spread(self) -> Array:
        """Root mean square difference of a head from the mean of the others, by rank, shape ``(Q,)``."""
        own = self.curves[self.themselves]
        return np.asarray(own.std(0) * len(own) / max(len(own) - 1, 1))

    def left_out(self) -> Array:
        """What each head's curve would have been without any version of it in training, shape ``(heads, Q)``."""
        found = []
        residual = self.curves - self.mean
        for head in np.unique(self.heads):
            rows = np.flatnonzero(self.heads == head)
            missed = np.linalg.solve(self._precision[np.ix_(rows, rows)], self._weights[rows])
            found.append((residual[rows] - missed)[0] + self.mean)
        return np.array(found)
