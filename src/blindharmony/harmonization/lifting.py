r"""How far to trust a first curve when the bias field is found again in the contrast it gives.

.. math:: T_w(y) = y + w\,\bigl(T(y) - y\bigr), \qquad w = \max\Bigl(0,\; 1 - \frac{(2e)^2}{d^2}\Bigr)

:math:`d` is how far the curve is from changing nothing, :math:`e` its own error bar (both root mean squares over
ranks). Bias correction notices contrast: in a scan whose contrast is the target's already, a curve that is only error
would send it astray. And it works on logarithms, between the darkest and the brightest voxel: what small errors at
the ends of a curve do to it is more than what they do to the image. So a curve is lifted by its parabola,

.. math:: \log T(y) \approx a + b \log y + c \log^2 y,

fitted where the brain's intensities are and going on straight beyond them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve_map import CurveMap

Curve = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_SURE = 2.0
# Between these ranks of the brain the parabola is fitted; every voxel counts the same.
_RANKS = np.linspace(0.02, 0.995, 200)
_LEAST, _FLATTEST, _BELIEVED, _DEGREE = 1e-3, 0.1, 1.0, 2
_REACH = np.geomspace(1e-4, 4, 600)


def lifting_share(distance: float, error: float) -> float:
    """The share :math:`w`, in [0, 1).

    Example:
        >>> lifting_share(0.1, 0.01), lifting_share(0.01, 0.01)
        (0.96, 0.0)
    """
    return max(0.0, 1 - (_SURE * error / max(distance, 1e-9)) ** 2)


def lifting_curve(curve: Curve, share: float, values: NDArray[np.float32], error: float = np.inf) -> CurveMap:
    """The curve :math:`T_w`, through the parabola of :math:`T` if that lies within its usual error.

    A curve that lies two away is lifted as it is, and in between in part.

    Args:
        curve: Prepared intensities → intensities like the target's.
        share: How far it is trusted.
        values: Prepared intensities of the brain.
        error: Usual error of the curve, root mean square, flow units.

    Example:
        >>> gamma = CurveMap.through(np.linspace(0.1, 2, 50), np.linspace(0.1, 2, 50) ** 0.7)
        >>> lifted = lifting_curve(gamma, 1.0, np.linspace(0.3, 1, 100, dtype=np.float32))
        >>> bool(abs(lifted(np.array([0.01], np.float32))[0] / 0.01**0.7 - 1) < 0.05)
        True
    """
    at = np.quantile(values, _RANKS)
    at = at[at > _LEAST * at[-1]]
    own = curve(_REACH.astype(np.float32))
    # A brain of hardly more than zeros has no parabola.
    if len(np.unique(at)) <= _DEGREE:
        return CurveMap.through(_REACH, _REACH + share * (np.maximum.accumulate(own) - _REACH))
    x, y = np.log(at), np.log(np.maximum(curve(at.astype(np.float32)).astype(np.float64), _LEAST))
    bend = np.polynomial.Polynomial.fit(x, y, _DEGREE)
    off = y - bend(x)
    doubt = np.clip(np.sqrt(((np.exp(y) * off) ** 2).mean()) / error - _BELIEVED, 0, 1)
    near = np.clip(np.log(_REACH), x[0], x[-1])
    smooth = np.exp(bend(near) + np.maximum(bend.deriv()(near), _FLATTEST) * (np.log(_REACH) - near))
    out = smooth + doubt * (own - smooth)
    return CurveMap.through(_REACH, _REACH + share * (np.maximum.accumulate(out) - _REACH))


def rms(values: NDArray[np.floating]) -> float:
    """Root mean square.

    Example:
        >>> rms(np.array([3.0, -3.0]))
        3.0
    """
    return float(np.sqrt(np.mean(np.square(values))))
