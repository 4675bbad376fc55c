r"""Which of the target's people a scan shows: the quantile curve of this head, from features that no scanner changes.

Gaussian-process regression from rank features :math:`f` (``harmonization.summary``) to quantile
curves :math:`Q`, taught by the target's own scans as they are and as seen through random other scanners:

.. math:: \hat Q(f) = \bar Q + k(f)^\top (K + N)^{-1} (Q_{1..R} - \bar Q), \qquad
          k(f, f') = \lambda \ell^2 \exp\bigl(-\|f - f'\|^2 / 2\ell^2\bigr)\; w^\top P w'

The noise :math:`N` is shared half and half by all rows of one person and by each row alone: six versions of one head
are not six people, nor are two scans of one. A scan unlike anything seen in training gets the mean curve: masked
histogram matching.

**Tissue contrast moves the features** most: taught by heads as they are alone, the curves are further off through
another contrast than the mean curve is (docs/concepts/roads-not-taken.md). So every head is shown in contrasts as far
apart as those of real sites, blurred and noisy (:mod:`~blindharmony.training.person`), and all rows count the same.

In models made before, the versions of a head were its noisy, blurred and thickly sliced copies. Noise and blur move the
features too, and another way in every head, so such a version mostly speaks for scans of its kind: :math:`P` is 1 for
the same version (as it is, noisy, blurred, ...) and less for another. Which versions a scan is like, :math:`w`, follows
from its texture :math:`\tau` (``harmonization.summary``) by Bayes' rule, a Gaussian for each version; a row of training
is its own version.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, eq. 2.25, 2.26 and 5.12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from blindharmony.settings import PersonSettings

Array = NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")


# Matrix products differ in their last digits with the number of threads, and a scanner's hash would with them.
def _one_thread(f: Callable[P, R]) -> Callable[P, R]:
    return cast(Callable[P, R], threadpool_limits.wrap(limits=1, user_api="blas")(f))


@dataclass(frozen=True, eq=False)
class PersonModel:
    """Rank features of the target's scans and the quantile curves they belong to.

    Attributes:
        features: One row a version of a head, two equal blocks, shape ``(R, F)``.
        curves: Their quantile curves, as blurred and noisy as they are, flow units, shape ``(R, Q)``.
        heads: Which head a row belongs to; the first row of a head is the head itself, shape ``(R,)``, and the others
            are its versions, the same ones in the same order for every head.
        textures: Noise, blur and slices of each row, shape ``(R, T)``, if its versions are kinds that are told apart;
            None: all versions count the same.
        people: Whose head a row belongs to, shape ``(R,)``, if some are scans of one person; None: all are different.
        contrasts: Fluid/white and gray/white ratio that each row was seen in, shape ``(R, 2)``; None in models that
            were taught without other contrasts.
        voxel_error: How far single voxels lie from the best increasing curve in random scanners, root mean square by
            rank, flow units, shape ``(Q,)``: other contrasts of the tissues, noise, blur. None if it is not known.
        settings: Numbers of the regression.

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
    textures: Array | None = None
    people: NDArray[np.int64] | None = None
    contrasts: Array | None = None
    voxel_error: Array | None = None
    settings: PersonSettings = PersonSettings()

    @property
    def _length(self) -> float:
        """The length scale that suits the rows: through other contrasts, heads lie further apart."""
        return self.settings.length if self.contrasts is None else self.settings.contrast_length

    @property
    def _prior(self) -> float:
        """Variance of a head of which nothing is known, in variances of the noise."""
        strength = self.settings.strength if self.contrasts is None else self.settings.contrast_strength
        return strength * self._length**2

    @property
    def _people(self) -> NDArray[np.int64]:
        return self.heads if self.people is None else self.people

    @cached_property
    def mean(self) -> Array:
        """The mean curve of the heads as they are."""
        return np.asarray(self.curves[self.themselves].mean(0))

    @cached_property
    def themselves(self) -> NDArray[np.bool_]:
        """The rows of the heads as they are, without noise or blur."""
        return np.concatenate([[True], self.heads[1:] != self.heads[:-1]])

    @cached_property
    def wanted(self) -> Array:
        """The curve that each row leads to: its head's own, sharp and free of noise, shape ``(R, Q)``.

        The restorer was taught scans that have the histogram of the truth, and gives back the detail that belongs to
        it. Given a narrower one, of the head as blurred, it would leave the contrast between tissues too low. Models
        that were taught without other contrasts lead to the curves of their versions.
        """
        if self.contrasts is None:
            return self.curves
        return np.asarray(self.curves[self.themselves][np.cumsum(self.themselves) - 1])

    @cached_property
    def _scale(self) -> tuple[Array, Array]:
        """Centre and spread of the features of the heads as they are; each block counts the same."""
        heads = self.features[self.themselves]
        centre = heads.mean(0)
        blocks = np.split((heads - centre) ** 2, 2, axis=1)
        spread = [np.full(b.shape[1], np.sqrt(2 * b.sum(1).mean()) + 1e-12) for b in blocks]
        return centre, np.concatenate(spread)

    def _kernel(self, a: Array, b: Array) -> Array:
        centre, spread = self._scale
        a, b = (a - centre) / spread, (b - centre) / spread
        distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.asarray(self._prior * np.exp(-distance / (2 * self._length**2)))

    @cached_property
    def versions(self) -> NDArray[np.int64]:
        """Which version of its head a row is; 0 is the head itself."""
        starts = np.flatnonzero(self.themselves)
        return np.asarray(np.arange(len(self.heads)) - np.repeat(starts, np.diff([*starts, len(self.heads)])))

    @cached_property
    def _kinds(self) -> tuple[Array, Array]:
        """Mean texture of each version, ``(V, T)``, and what makes their common covariance the identity, ``(T, T)``."""
        assert self.textures is not None
        kinds = [self.textures[self.versions == v] for v in range(self.versions.max() + 1)]
        covariance = np.mean([np.atleast_2d(np.cov(t.T)) if len(t) > 1 else np.eye(t.shape[1]) for t in kinds], 0)
        off = self.settings.shrinkage
        covariance = (1 - off) * covariance + off * np.diag(np.diag(covariance)) + 1e-6 * np.eye(len(covariance))
        whitening = np.asarray(np.linalg.cholesky(np.linalg.inv(covariance)), np.float64)
        return np.array([t.mean(0) for t in kinds]), whitening

    def likeness(self, texture: Array | None) -> Array:
        """How much each row speaks for a scan of this texture, shape ``(R,)``: 1 if it is surely the row's version."""
        if self.textures is None or texture is None:
            return np.ones(len(self.heads))
        means, whitening = self._kinds
        evidence = -0.5 * (((texture - means) @ whitening) ** 2).sum(1)
        evidence[0] += self.settings.as_it_is
        share = np.exp(evidence - evidence.max())
        share /= share.sum()
        other = self.settings.other_version
        return np.asarray(other + (1 - other) * share[self.versions])

    @cached_property
    def _among(self) -> Array:
        """The kernel between the rows."""
        kernel = self._kernel(self.features, self.features)
        if self.textures is None:
            return kernel
        return np.asarray(kernel * np.where(self.versions[:, None] == self.versions, 1.0, self.settings.other_version))

    def _with(self, features: Array, texture: Array | None) -> Array:
        """The kernel between a scan and the rows, shape ``(R,)``."""
        return np.asarray(self._kernel(features[None], self.features)[0] * self.likeness(texture))

    @cached_property
    def _precision(self) -> Array:
        same = (self._people[:, None] == self._people).astype(np.float64)
        shared = self.settings.shared
        noise = shared * same + (1 - shared) * np.eye(len(self.heads))
        return np.asarray(np.linalg.inv(self._among + noise))

    @cached_property
    def _weights(self) -> Array:
        return np.asarray(self._precision @ (self.wanted - self.mean))

    @_one_thread
    def curve(self, features: Array, texture: Array | None = None) -> Array:
        """The most probable quantile curve of a head with these features and this texture, ``(F,), (T,) → (Q,)``.

        Where the features leave open more than people differ by, it is the nearer to the mean curve the more they do.
        """
        difference = self._with(features, texture) @ self._weights
        return np.asarray(self.mean + difference / max(float(self.open_share(self.surprise(features, texture))), 1))

    def open_share(self, surprises: ArrayLike) -> Array:
        """What the features leave open (eq. 2.26), in variances among people: 1 is as little as without them."""
        surprises = np.maximum(surprises, 0)
        # The prior of models that were taught without other contrasts ranks heads; it is no variance.
        if self.contrasts is None:
            return np.asarray(surprises, np.float64)
        everything = self._prior * self.noise.mean() / max((self.spread**2).mean(), 1e-30)
        return np.asarray(surprises * max(everything, 1.0))

    @_one_thread
    def surprise(self, features: Array, texture: Array | None = None) -> float:
        """How little the features say: 0 among the target's own heads, 1 for nothing like them."""
        k = self._with(features, texture)
        return float(1 - k @ self._precision @ k / self._prior)

    def certainty(self, surprises: ArrayLike) -> Array:
        r"""How much each scan of a group shall count, adding up to 1: inversely to the variance of what is said of it.

        .. math:: w_j \propto \bigl(1 + \lambda \ell^2 s_j\bigr)^{-1}

        where the features say all, only the noise (1) is left; where they say nothing, all of the prior.

        Example:
            >>> model = PersonModel(np.eye(2), np.eye(2), np.arange(2))
            >>> model.certainty([0.0, 0.0, 0.05]).round(2).tolist()
            [0.45, 0.45, 0.09]
            >>> model.certainty([-0.1, 0.0]).tolist()
            [0.5, 0.5]
        """
        # Told apart by version, a head can look better known than the model allows: no better than surely.
        certainty = 1 / (1 + self._prior * np.maximum(surprises, 0))
        return np.asarray(certainty / certainty.sum())

    @cached_property
    @_one_thread
    def error(self) -> Array:
        """Root mean square error about versions of heads left out of training, by rank, shape ``(Q,)``."""
        return np.asarray(np.sqrt(((self._left_out_rows[0] - self.wanted) ** 2).mean(0)))

    @cached_property
    def spread(self) -> Array:
        """Root mean square difference of people from other people's mean, by rank, shape ``(Q,)``."""
        people = len(np.unique(self._people))
        return np.asarray(np.sqrt(((self.wanted - self.mean) ** 2).mean(0)) * people / max(people - 1, 1))

    @cached_property
    @_one_thread
    def noise(self) -> Array:
        """Variance of what features do not tell, by rank, shape ``(Q,)``; its mean fits the errors left out."""
        predicted, variance = self._left_out_rows
        errors = (predicted - self.wanted) ** 2
        if self.contrasts is None:
            return np.asarray(errors.mean(0))
        return np.asarray(errors.mean(0) * (errors / variance[:, None]).mean() / max(errors.mean(), 1e-30))

    def _variances(self, surprises: Array) -> Array:
        """What is not known of each head's curve, by rank, shape ``(n, Q)``: no more than people differ by."""
        return np.asarray(self.noise + np.minimum(self.open_share(surprises), 1)[:, None] * self.spread**2)

    def group_share(self, surprises: ArrayLike, weights: ArrayLike | None = None) -> float:
        r"""How far the curves of a group's heads are believed, from the mean curve (0) to all the way (1, one head).

        .. math:: s = \Bigl(1 + (n - 1)\, \rho\, \min\bigl(1,\; \bar{\sigma^2} / e\bigr)\Bigr)^{-1}, \qquad
                  e = \bar{d^2} - \bar{\sigma^2}, \quad n = \Bigl(\sum_j w_j^2\Bigr)^{-1}

        What is said of the heads has two parts: what features tell of people, which is averaged out like the people
        themselves, and what a scanner does to the features of all, which is not. The second part is the share
        :math:`\rho` of the first one (:math:`e`), but no more than of the error: ``common_error``, and :math:`1/N` for
        the :math:`N` people who taught, a sample too. The more heads, the nearer is their true mean to everybody's:
        :math:`s` has the least mean square error. Symbols as in :meth:`deviation`.

        Args:
            surprises: Of the heads, shape ``(n,)``.
            weights: Of the heads, adding up to 1; equal if not given.
        """
        surprises, w = _weighted(surprises, weights)
        unknown = float((w @ self._variances(surprises)).mean())
        told = float((self.spread**2).mean()) - unknown
        common = self.settings.common_error + 1 / len(np.unique(self._people))
        return 1 / (1 + (1 / float((w**2).sum()) - 1) * common * (min(1.0, unknown / told) if told > 0 else 1.0))

    def deviation(self, surprises: ArrayLike, weights: ArrayLike | None = None) -> Array:
        r"""How far the mean curve of some heads is off, one standard deviation by rank, shape ``(Q,)``.

        .. math:: \sigma^2 = \sum_j w_j^2 \bar\sigma_j^2 + \frac1N \Bigl(1 - \sum_j w_j^2\Bigr) \sum_j w_j
                  \bar\sigma_j^2, \qquad \bar\sigma_j^2 = s\, \sigma_j^2 + (1 - s)\, d^2, \qquad
                  \sigma_j^2 = c + d^2 \min\bigl(1,\; s_j \max(1,\, \lambda \ell^2 \bar c / \bar{d^2})\bigr)

        :math:`c` is the :attr:`noise`, :math:`d` the :attr:`spread`: what the features leave open (eq. 2.26) is shared
        out among the ranks as people differ, and no head is known worse than by the mean curve. Curves of a group are
        believed by the share :math:`s` (:meth:`group_share`); what of the people is left shrinks with their number,
        and the mean curve of the :math:`N` people who taught is a sample too.

        Args:
            surprises: Of the heads, shape ``(n,)``.
            weights: Of the heads, adding up to 1; equal if not given.
        """
        surprises, w = _weighted(surprises, weights)
        share, alone = self.group_share(surprises, w), float((w**2).sum())
        variances = share * self._variances(surprises) + (1 - share) * self.spread**2
        teachers = len(np.unique(self._people))
        return np.asarray(np.sqrt(w**2 @ variances + (1 - alone) / teachers * (w @ variances)))

    @cached_property
    def _left_out_rows(self) -> tuple[Array, Array]:
        """Every row's curve without its person in training, ``(R, Q)``, and its variance in noises, ``(R,)``."""
        residual = self.wanted - self.mean
        predicted, variance = np.empty_like(residual), np.empty(len(residual))
        for person in np.unique(self._people):
            rows = np.flatnonzero(self._people == person)
            covariance = np.linalg.inv(self._precision[np.ix_(rows, rows)])
            predicted[rows] = self.wanted[rows] - covariance @ self._weights[rows]
            variance[rows] = np.diag(covariance)
        return predicted, variance

    def left_out(self) -> Array:
        """What each head's curve would have been without any row of its person in training, shape ``(heads, Q)``."""
        return np.asarray(self._left_out_rows[0][self.themselves])


def _weighted(surprises: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    surprises = np.atleast_1d(np.asarray(surprises, np.float64))
    equal = np.full(len(surprises), 1 / len(surprises))
    return surprises, equal if weights is None else np.asarray(weights, np.float64)
