"""What people use now: curves from the target's quantiles alone."""

from __future__ import annotations

import numpy as np

from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.match import source_quantiles

_LANDMARKS = np.array([0.01, *np.arange(0.1, 1.0, 0.1), 0.99])


def nyul(image, mask, target):
    """Piecewise linear between eleven landmarks, straight on beyond them.

    Source: Nyúl, Udupa & Zhang 2000, with the landmarks 1, 10, 20 … 90, 99 %.
    """
    x = np.quantile(image[mask & target.fit_region], _LANDMARKS)
    y = np.interp(_LANDMARKS, target.levels, target.mean_curve)
    slopes = np.diff(y) / np.maximum(np.diff(x), 1e-9)
    out = np.interp(image, x, y)
    out = np.where(image < x[0], y[0] + slopes[0] * (image - x[0]), out)
    out = np.where(image > x[-1], y[-1] + slopes[-1] * (image - x[-1]), out)
    return np.where(mask, np.maximum(out, 0), 0).astype(np.float32)


def matched(image, mask, target):
    """Masked histogram matching of one scan to the pooled target."""
    quantiles, _ = source_quantiles(image, mask, target)
    return np.where(mask, CurveMap.through(quantiles, target.mean_curve)(image), 0).astype(np.float32)


def pooled(images, masks, target):
    """One histogram-matching curve for a group: its mean quantile curve to the target's."""
    mean = np.mean([source_quantiles(x, m, target)[0] for x, m in zip(images, masks, strict=True)], 0)
    curve = CurveMap.through(mean, target.mean_curve)
    return [np.where(m, curve(x), 0).astype(np.float32) for x, m in zip(images, masks, strict=True)]
