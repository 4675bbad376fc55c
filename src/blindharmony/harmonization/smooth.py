r"""What a scanner's intensity curve can be: smooth in logarithms, while errors about a person have the shape of people.

.. math:: \log T(q) = a + b \log q + c \log^2 q + r(\log q), \qquad \log \hat Q = \log T + \varepsilon, \qquad
          r \sim \mathcal{GP}(0, \tau^2 k_\ell), \quad \varepsilon \sim \mathcal N(0, C)

The covariance :math:`C` of what ranks get wrong about a person is known from heads left out of training. Persons
differ in how much there is of each tissue, which bends a curve in narrow places; a scanner bends it as a whole. So
much of an error can be told from a curve. :math:`\tau` and :math:`\ell` are averaged over by their evidence. Where
the smooth curve is further from what was asked for than an error can be, the scanner is no smooth one, and nothing is
changed.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 (explicit basis) and 5.4.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from blindharmony.harmonization.curve_map import CurveMap

Array = NDArray[np.float64]

# Standard deviations of the offset, the slope and the bend in natural logarithms, around no change.
_BASIS = np.array([1.0, 0.5, 0.3])
_LENGTHS = (0.2, 0.8)
_TAUS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
# Every fourth of the target's ranks; below a thousandth of the brightest there is rounding.
_STEP, _DARKEST, _FEWEST = 4, 1e-3, 16
# Rounding: in flow units, and relative.
_ROUNDING, _RELATIVE = 5e-4, 1e-3
# The smooth curve is believed up to one and a half usual errors away, and a whole one further not at all.
_BELIEVED = 1.5
_FOLD, _POWERS, _KNOTS = 2.0, (0.25, 4.0), 24


def smooth_curve(source: Array, wanted: Array, covariance: Array) -> CurveMap:
    """The most probable curve of a scanner.

    Args:
        source: Intensities of the scan (or mean scan) at the target's ranks, not decreasing, ``(Q,)``.
        wanted: What they should become, as far as ranks tell, flow units, not decreasing, ``(Q,)``.
        covariance: Of the errors in ``wanted``, ``(Q, Q)``.

    Example:
        >>> q = np.linspace(0.2, 1.5, 256)
        >>> waves = 0.01 * np.sin(np.outer([12.0, 20.0], q))
        >>> curve = smooth_curve(q**1.5, q + waves.sum(0), waves.T @ waves)
        >>> bool(np.abs(waves.sum(0)).max() > 0.018 and np.abs(curve(q**1.5) - q).max() < 0.002)
        True
    """
    with threadpool_limits(limits=1, user_api="blas"):
        return _with_dark_end(source, _smoothed(source, wanted, covariance))


def _smoothed(source: Array, wanted: Array, covariance: Array) -> Array:
    at = np.flatnonzero(source > _DARKEST * source[-1])[::_STEP]
    if len(np.unique(source[at])) < _FEWEST:
        return wanted
    x, y = np.log(source[at]), np.maximum(wanted[at], _DARKEST)
    x = x - x.mean()
    # The error of a logarithm is the relative error.
    noise = covariance[np.ix_(at, at)] / np.outer(y, y) + np.diag((_ROUNDING / y) ** 2 + _RELATIVE**2)
    level = np.log(y).mean()
    evidence, curves = zip(*(_posterior(x, np.log(y) - level - x, k, noise) for k in _kernels(x)), strict=True)
    share = np.exp(np.array(evidence) - max(evidence))
    found = share / share.sum() @ np.exp(np.array(curves) + x + level)
    change = np.interp(np.arange(len(wanted)), at, found - y)
    usual = np.sqrt(np.diag(covariance).mean()) + _ROUNDING
    belief = np.clip(1 + _BELIEVED - np.sqrt((change**2).mean()) / usual, 0, 1)
    return np.maximum.accumulate(np.maximum(wanted + belief * change, 0))


def _kernels(x: Array) -> list[Array]:
    """Prior covariances of the curve at log intensities: the basis alone, and with every amplitude and length."""
    basis = np.stack([np.ones_like(x), x, x**2]) * _BASIS[:, None]
    plain, apart = basis.T @ basis, (x[:, None] - x) ** 2
    return [plain] + [plain + t**2 * np.exp(-apart / (2 * s**2)) for s in _LENGTHS for t in _TAUS]


def _posterior(x: Array, y: Array, prior: Array, noise: Array) -> tuple[float, Array]:
    """Log evidence and posterior mean."""
    root = np.linalg.cholesky(prior + noise)
    half = np.linalg.solve(root, y)
    return float(-half @ half / 2 - np.log(np.diag(root)).sum()), prior @ np.linalg.solve(root.T, half)


def _with_dark_end(source: Array, harmonized: Array) -> CurveMap:
    r"""The curve through these knots; below the darkest it goes on as :math:`y \propto x^p`.

    A straight line to zero would make a gamma's dark end wrong by any factor, and bias correction works on logarithms.
    """
    curve = CurveMap.through(source, harmonized)
    x, y = curve.x[1:], curve.y[1:]
    later = int(np.searchsorted(x, _FOLD * x[0])) if len(x) else 0
    if later in (0, len(x)) or not 0 < y[0] < y[later]:
        return curve
    power = np.clip(np.log(y[later] / y[0]) / np.log(x[later] / x[0]), *_POWERS)
    down = np.geomspace(_DARKEST, 1, _KNOTS)[:-1]
    return CurveMap(np.concatenate([[0], x[0] * down, x]), np.concatenate([[0], y[0] * down**power, y]))
