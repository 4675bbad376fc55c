"""Normalisation by landmarks and moments, mapped back to the target's unit through the pooled target's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.evidence.system import Material, Picture, Sees, System
from blindharmony.evidence.systems.plain import inside
from blindharmony.target import Target

_LANDMARKS = np.array([0.01, *np.arange(0.1, 1.0, 0.1), 0.99])
_POOL = 20_000
_GRID, _BANDWIDTHS, _TAIL, _TAU = 80, 80, 0.96, 0.05


def nyul(image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target) -> NDArray[np.float32]:
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


def target_values(target: Target) -> NDArray[np.float64]:
    """Intensities of the pooled target, evenly spaced in rank, shape ``(20000,)``."""
    return np.interp((np.arange(_POOL) + 0.5) / _POOL, target.levels, target.mean_curve)


def last_peak(values: NDArray[np.floating]) -> float:
    """The brightest peak of the smoothed histogram below its 96 % quantile: white matter in a T1-weighted brain.

    A Gaussian kernel density with a bandwidth of 1/80 of the brightest value, on a grid of 80 points.

    Source: Reinhold et al. 2019 and their ``intensity-normalization``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> two = np.concatenate([rng.normal(1, 0.1, 9000), rng.normal(2, 0.1, 9000)])
        >>> round(last_peak(two), 1)
        2.0
    """
    kept = values[values <= np.quantile(values, _TAIL)]
    fine = 20
    counts, edges = np.histogram(kept, _GRID * fine, (float(kept.min()), float(kept.max())))
    width = float(kept.max()) / _BANDWIDTHS / max(float(edges[1] - edges[0]), 1e-12)
    density = ndimage.gaussian_filter1d(counts.astype(np.float64), width, mode="constant")[fine // 2 :: fine]
    centres = ((edges[:-1] + edges[1:]) / 2)[fine // 2 :: fine]
    peaks = np.flatnonzero((density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])) + 1
    return float(centres[peaks[-1] if peaks.size else int(np.argmax(density))])


def white_stripe(values: NDArray[np.floating]) -> tuple[float, float]:
    """Mean and standard deviation of the voxels within ± 5 % (in rank) of the white-matter peak.

    Source: Shinohara et al. 2014.
    """
    rank = float(np.mean(values < last_peak(values)))
    low, high = np.quantile(values, [max(rank - _TAU, 0), min(rank + _TAU, 1)])
    stripe = values[(values > low) & (values < high)]
    return float(stripe.mean()), max(float(stripe.std()), 1e-9)


def moments(values: NDArray[np.floating]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(values.mean()), max(float(values.std()), 1e-9)


class Nyul(System):
    """N4, then Nyúl's landmarks."""

    name: ClassVar[str] = "nyul"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Piecewise linear."""
        return [nyul(s.image, s.mask, material.target) for s in scans]


class ZScore(System):
    r"""N4, then mean and spread inside the mask: :math:`x = m_t + s_t (y - m) / s`."""

    name: ClassVar[str] = "z-score"
    sees: ClassVar[Sees] = "target scans"
    measure = staticmethod(moments)

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """One straight line."""
        centre, spread = self.measure(target_values(material.target))
        out = []
        for s in scans:
            mean, sd = self.measure(s.image[s.mask & material.target.fit_region])
            out.append(inside(s, centre + spread * (s.image - mean) / sd))
        return out


class WhiteStripe(ZScore):
    """N4, then mean and spread of the white stripe."""

    name: ClassVar[str] = "white-stripe"
    measure = staticmethod(white_stripe)
