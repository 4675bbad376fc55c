r"""What a scanner's intensity curve usually is: a parabola in logarithms.

.. math:: \log T(q) = a + b \log q + c \log^2 q, \qquad
          (a, b, c) = \arg\min \sum_u \hat Q(u)^2 \bigl(\log \hat Q(u) - \log T(Q_y(u))\bigr)^2

A gain moves it, a gamma turns it, saturation bends it. What ranks get wrong about a person is narrower: it sits where
one tissue ends and another begins. So the parabola through a person's expected intensities (least squares in flow
units, every voxel counts the same) has less of that error than they. Where it lies further from them than errors do,
the scanner is none of these, and what was asked for is kept:

.. math:: x_h = \hat Q + w\,(T - \hat Q), \qquad w = \operatorname{clip}(\tfrac32 - r / e,\, 0,\, 1)

:math:`r` is the root mean square of :math:`T - \hat Q` and :math:`e` the usual error of :math:`\hat Q`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve_map import CurveMap

Array = NDArray[np.float64]

# Below a thousandth of the brightest there is rounding.
_DARKEST, _FEWEST, _DEGREE, _BELIEVED = 1e-3, 16, 2, 1.5
_FOLD, _POWERS, _KNOTS = 2.0, (0.25, 4.0), 24


def smooth_curve(source: Array, wanted: Array, error: float) -> CurveMap:
    """The curve of a scanner, with as little of the errors about persons as its smoothness allows.

    Args:
        source: Intensities of the scan (or mean scan) at evenly spaced ranks, not decreasing, ``(Q,)``.
        wanted: What they should become, as far as ranks tell, flow units, not decreasing, ``(Q,)``.
        error: Usual error of ``wanted``, root mean square, flow units.

    Example:
        >>> q = np.linspace(0.2, 1.5, 256)
        >>> curve = smooth_curve(q**1.5, q + 0.01 * np.sin(20 * q), 0.01)
        >>> bool(np.abs(curve(q**1.5) - q).max() < 0.004)
        True
    """
    at = np.flatnonzero((source > _DARKEST * source[-1]) & (wanted > _DARKEST * wanted[-1]))
    if len(np.unique(source[at])) >= _FEWEST:
        fit = np.polynomial.Polynomial.fit(np.log(source[at]), np.log(wanted[at]), _DEGREE, w=wanted[at])
        change = np.zeros_like(wanted)
        change[at] = np.exp(fit(np.log(source[at]))) - wanted[at]
        belief = np.clip(_BELIEVED - np.sqrt((change[at] ** 2).mean()) / max(error, 1e-9), 0, 1)
        wanted = np.maximum.accumulate(np.maximum(wanted + belief * change, 0))
    return _with_dark_end(CurveMap.through(source, wanted))


def _with_dark_end(curve: CurveMap) -> CurveMap:
    r"""The curve, below its darkest knot going on as :math:`y \propto x^p`.

    A straight line to zero would make a gamma's dark end wrong by any factor, and bias correction works on logarithms.
    """
    x, y = curve.x[1:], curve.y[1:]
    later = int(np.searchsorted(x, _FOLD * x[0])) if len(x) else 0
    if later in (0, len(x)) or not 0 < y[0] < y[later] or x[0] < _DARKEST * x[-1]:
        return curve
    power = np.clip(np.log(y[later] / y[0]) / np.log(x[later] / x[0]), *_POWERS)
    down = np.geomspace(_DARKEST, 1, _KNOTS)[:-1]
    return CurveMap(np.concatenate([[0], x[0] * down, x]), np.concatenate([[0], y[0] * down**power, y]))
