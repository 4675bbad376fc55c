"""Monotone domains: one intensity curve for the whole scan, as in the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from blindharmony.simulation.view import Array, View

Curve = Callable[[Array], Array]


def gamma_curve(power: float) -> Curve:
    """``x ** power`` on [0, 1] and beyond.

    Example:
        >>> gamma_curve(2.0)(np.array([0.0, 0.5, 1.0])).tolist()
        [0.0, 0.25, 1.0]
    """

    def curve(x: Array) -> Array:
        return np.asarray(np.power(x, power), dtype=np.float64)

    return curve


def exp_curve(x: Array) -> Array:
    """``exp(x)``, brought back to [0, 1]: ``(exp(x) - 1) / (e - 1)``; beyond 1 its tangent, as a spike would overflow.

    Example:
        >>> exp_curve(np.array([0.0, 1.0, 2.0])).round(3).tolist()
        [0.0, 1.0, 2.582]
    """
    inside = np.minimum(x, 1.0)
    return np.asarray((np.expm1(inside) + np.e * (x - inside)) / np.expm1(1.0), dtype=np.float64)


def log_curve(x: Array) -> Array:
    """``log(1 + 3x)``, brought back to [0, 1]: ``log(1 + 3x) / log 4``."""
    return np.asarray(np.log1p(3 * x) / np.log1p(3.0), dtype=np.float64)


# The paper's eight, with x the intensity as a share of the top.
CURVES: Mapping[str, Curve] = {
    "exp": exp_curve,
    "log": log_curve,
    **{f"gamma{power}": gamma_curve(power) for power in (0.7, 0.8, 0.9, 1.2, 1.3, 1.5)},
}


def through_curve(view: View, curve: Curve) -> tuple[Array, float]:
    """Min-max to [0, 1], curve, min-max back: ``top * curve(x / top)``, and the ``top`` that was used.

    The minimum is 0, the background. Intensities above ``top`` (fat of a whole head) follow the same formula
    (``exp``: its tangent). The few negative voxels that resampling leaves are mirrored, ``-curve(-x)``,
    so that the order is kept.

    Source:
        Jeong et al., BlindHarmony, ICCV 2023, simulated source domains. There the slice is the unit, here the
        volume: a curve that differs from slice to slice is no scanner.
    """
    top = float(view.image[view.mask].max()) if view.top is None else view.top
    x = view.image / top
    return top * np.sign(x) * curve(np.abs(x)), top
