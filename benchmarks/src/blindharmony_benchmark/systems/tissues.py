r"""Normalization by tissues: fuzzy classes of intensity, and what fluid says about the scanner.

All are of the package ``intensity-normalization`` and written from their equations; each is mapped to the target's
unit through the pooled target's own numbers. :math:`m_k` is the mean intensity of fluid, gray and white matter, found
by fuzzy c-means (three classes, exponent 2):

.. math:: \min_{u, c} \sum_{v, k} u_{vk}^2 (y_v - c_k)^2, \qquad \sum_k u_{vk} = 1, \qquad
          m_k = \frac{\sum_v u_{vk} y_v}{\sum_v u_{vk}}

- :class:`TissueMean` (FCM): white matter to the target's, :math:`x = y\, m_3^t / m_3`.
- :class:`TissueMeans` (LSQ): one gain for the three means, :math:`x = y\, (m \cdot m^t) / (m \cdot m)`.
- :class:`Ravel`: after the white stripe, what varies with fluid from scan to scan is taken out of every voxel.

Source: Reinhold et al. 2019 (arXiv 1812.04652); RAVEL, Fortin et al. 2016, NeuroImage 132, 198-212.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.models.target import Target
from blindharmony.quality.metrics import tissue_medians
from blindharmony_benchmark.system import Material, Picture, Sees, System
from blindharmony_benchmark.systems.classical import Taught, WhiteStripe, inside, target_values

_CLASSES, _TURNS, _CLOSE, _LEAST = 3, 100, 1e-5, 1e-12


def tissue_means(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean intensity of fluid, gray and white matter by fuzzy c-means, rising, shape ``(3,)``.

    Args:
        values: Intensities of a T1-weighted brain, or evenly spaced quantiles of them.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> parts = [rng.normal(level, 0.05, 3000) for level in (0.4, 0.8, 1.2)]
        >>> tissue_means(np.concatenate(parts)).round(2).tolist()
        [0.41, 0.8, 1.19]
    """
    y = np.asarray(values, np.float64).ravel()
    centres = np.array(tissue_medians(y))
    for _ in range(_TURNS):
        # The membership in a class falls with the squared distance from its centre.
        near = 1 / np.maximum(np.square(y[:, None] - centres), _LEAST)
        member = near / near.sum(1, keepdims=True)
        before, centres = centres, (member**2 * y[:, None]).sum(0) / (member**2).sum(0)
        if np.abs(centres - before).max() < _CLOSE * centres.max():
            break
    return np.asarray((member * y[:, None]).sum(0) / member.sum(0))


_POOL = 20_000


def _means_of(scan: Picture, target: Target) -> NDArray[np.float64]:
    """Of a scan, from evenly spaced quantiles: as good as all voxels, and a hundred times as fast."""
    return tissue_means(np.quantile(scan.image[scan.mask & target.fit_region], (np.arange(_POOL) + 0.5) / _POOL))


class TissueMean(System):
    """N4, then the mean of white matter."""

    name: ClassVar[str] = "fcm"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """One gain."""
        wanted = tissue_means(target_values(material.target))
        return [inside(s, s.image * self.gain(_means_of(s, material.target), wanted)) for s in scans]

    def gain(self, means: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
        """From the means of a scan and of the target."""
        return float(wanted[-1]) / max(float(means[-1]), _LEAST)


class TissueMeans(TissueMean):
    """N4, then the gain that brings the three means nearest to the target's, by least squares."""

    name: ClassVar[str] = "lsq"

    def gain(self, means: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
        """From the means of a scan and of the target."""
        return float(means @ wanted) / max(float(means @ means), _LEAST)


_CONTROL_SHARE = 0.9


class Ravel(Taught):
    r"""N4, the white stripe, then RAVEL: what fluid has in common from scan to scan is taken out of every voxel.

    Control voxels are fluid in nine tenths of all scans, those of the group and the target's training scans. Their
    intensities, centred voxel by voxel, have a first right singular vector :math:`z` over scans, and with
    :math:`\bar z` its mean over the target's,

    .. math:: x_{vj} = y_{vj} - \beta_v (z_j - \bar z), \qquad
              \beta_v = \frac{\sum_j (z_j - z_\cdot) (y_{vj} - y_{v \cdot})}{\sum_j (z_j - z_\cdot)^2}
    """

    name: ClassVar[str] = "ravel"
    together: ClassVar[bool] = True

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """All scans at once."""
        both = [*scans, *self.training]
        striped = WhiteStripe().harmonize(both, material)
        shared = np.logical_and.reduce([material.target.fit_region, *(p.mask for p in both)])
        voxels = np.stack([x[shared] for x in striped])
        means = [tissue_means(np.quantile(y, (np.arange(_POOL) + 0.5) / _POOL)) for y in voxels]
        fluid = np.mean([y < (m[0] + m[1]) / 2 for y, m in zip(voxels, means, strict=True)], 0)
        left = without_common_factor(voxels, fluid >= min(_CONTROL_SHARE, float(fluid.max())), len(scans))
        for x, values in zip(striped, left, strict=True):
            x[shared] = np.maximum(values, 0)
        return striped[: len(scans)]


def without_common_factor(voxels: NDArray[np.float32], control: NDArray[np.bool_], first: int) -> NDArray[np.float32]:
    """Voxels without what goes along with the first singular vector of the control voxels.

    Args:
        voxels: Shape ``(scans, voxels)``.
        control: Which voxels people do not differ in, shape ``(voxels,)``.
        first: Number of scans before those at whose mean the vector is to be.

    Returns:
        Same shape.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scanner = np.repeat([1.0, 0.0], 5)[:, None]
        >>> voxels = (scanner * rng.uniform(1, 2, 100) + rng.normal(0, 0.01, (10, 100))).astype(np.float32)
        >>> left = without_common_factor(voxels, np.arange(100) < 50, 5)
        >>> bool(np.abs(left).max() < 0.1)
        True
    """
    centred = voxels[:, control] - voxels[:, control].mean(0)
    # Of scans by scans: voxels are many.
    z = np.linalg.eigh((centred @ centred.T).astype(np.float64))[1][:, -1]
    about = z - z.mean()
    size = float(about @ about)
    if size < _LEAST:
        return voxels
    slope = (about / size).astype(np.float32) @ voxels
    return voxels - np.outer((z - z[first:].mean()).astype(np.float32), slope)
