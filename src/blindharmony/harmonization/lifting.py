r"""How far to trust a first curve when the bias field is found again in the contrast it gives.

.. math:: T_w(y) = y + w\,\bigl(T(y) - y\bigr), \qquad w = \max\Bigl(0,\; 1 - \frac{(2e)^2}{d^2}\Bigr)

:math:`d` is how far the curve is from changing nothing, :math:`e` its own error bar (both root mean squares over
ranks). Bias correction notices contrast: in a scan whose contrast is the target's already, a curve that is only error
would send it astray.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve_map import CurveMap

_SURE = 2.0


def lifting_share(distance: float, error: float) -> float:
    """The share :math:`w`, in [0, 1).

    Example:
        >>> lifting_share(0.1, 0.01), lifting_share(0.01, 0.01)
        (0.96, 0.0)
    """
    return max(0.0, 1 - (_SURE * error / max(distance, 1e-9)) ** 2)


def lifting_curve(curve: CurveMap, share: float) -> CurveMap:
    """The curve :math:`T_w`."""
    return CurveMap(curve.x, curve.x + share * (curve.y - curve.x))


def rms(values: NDArray[np.floating]) -> float:
    """Root mean square.

    Example:
        >>> rms(np.array([3.0, -3.0]))
        3.0
    """
    return float(np.sqrt(np.mean(np.square(values))))
