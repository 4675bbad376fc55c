"""Systems that need no training.

- What costs nothing: one gain (:class:`Nothing`), the bias field alone (:class:`BiasOnly`), the range of intensities
  (:class:`MinMax`).
- Histogram matching: with the mask and without, before N4 and after, one by one and pooled, and as ITK does it.
- Normalisation by landmarks and moments (:class:`Nyul`, :class:`ZScore`, :class:`WhiteStripe`), mapped back to the
  target's unit through the pooled target's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import UsageError
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import harmonize_match, source_quantiles
from blindharmony.models.target import Target
from blindharmony_benchmark.system import Material, Picture, Say, Sees, System


class Nothing(System):
    """The scan as it came, on the template grid, with the gain that every scan gets."""

    name: ClassVar[str] = "nothing"
    sees: ClassVar[Sees] = "nothing"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """The scans."""
        return [s.plain for s in scans]


class BiasOnly(System):
    """The scan with N4's bias field taken out, in its own contrast: what most of the other systems start from."""

    name: ClassVar[str] = "n4"
    sees: ClassVar[Sees] = "nothing"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """The scans, corrected."""
        return [s.image for s in scans]


class MinMax(System):
    r"""One straight line: darkest to darkest, brightest to brightest voxel of the brain.

    .. math:: x = \bar a + (\bar b - \bar a) \frac{y - \min y}{\max y - \min y}

    with :math:`\bar a` and :math:`\bar b` the mean minimum and maximum of the target's training scans.
    """

    name: ClassVar[str] = "min-max"
    sees: ClassVar[Sees] = "target scans"

    def __init__(self) -> None:
        self.ends: tuple[float, float] | None = None

    def fit(self, material: Material, say: Say) -> None:
        """Mean minimum and maximum of the training scans."""
        if material.training:
            low, high = np.mean([_ends(p) for p in material.training], 0).tolist()
            self.ends = low, high

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """The scans on the target's range."""
        curve = material.target.mean_curve
        to_low, to_high = self.ends or (float(curve[0]), float(curve[-1]))
        found = []
        for scan in scans:
            low, high = _ends(scan)
            found.append(inside(scan, to_low + (to_high - to_low) * (scan.image - low) / max(high - low, 1e-9)))
        return found


def _ends(scan: Picture) -> tuple[float, float]:
    values = scan.image[scan.mask]
    return float(values.min()), float(values.max())


def inside(scan: Picture, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Values of the template grid, not negative, zero outside the scan's mask."""
    return np.where(scan.mask, np.maximum(values, 0), 0).astype(np.float32)


_WHOLE = 4096


def pooled(
    images: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]], target: Target
) -> list[NDArray[np.float32]]:
    """One histogram-matching curve for a group: its mean quantile curve to the target's."""
    mean = np.mean([source_quantiles(x, m, target)[0] for x, m in zip(images, masks, strict=True)], 0)
    curve = CurveMap.through(mean, target.mean_curve)
    return [np.where(m, curve(x), 0).astype(np.float32) for x, m in zip(images, masks, strict=True)]


def matched_whole(scan: Picture, target: Target) -> NDArray[np.float32]:
    """Histogram matching as image libraries do it: background and all, to the mean target head with its background."""
    ranks = (np.arange(_WHOLE) + 0.5) / _WHOLE
    empty = 1 - target.fit_region.mean()
    reference = np.where(ranks <= empty, 0, np.interp((ranks - empty) / (1 - empty), target.levels, target.mean_curve))
    source = np.quantile(scan.plain, ranks)
    # Where many voxels share one intensity they share the mean of their ranks' intensities.
    knots, where = np.unique(source, return_inverse=True)
    values = np.bincount(where, weights=reference) / np.bincount(where)
    return inside(scan, np.interp(scan.plain, knots, values))


class Match(System):
    """Histogram matching inside the mask to the pooled target, without bias correction."""

    name: ClassVar[str] = "match"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank."""
        return [harmonize_match(s.plain, s.mask, material.target).image for s in scans]


class MatchWhole(System):
    """Histogram matching of the whole image, background included, without bias correction."""

    name: ClassVar[str] = "match-whole"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank."""
        return [matched_whole(s, material.target) for s in scans]


class CorrectedMatch(System):
    """N4, then histogram matching inside the mask: the rival to beat."""

    name: ClassVar[str] = "n4-match"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank."""
        return [harmonize_match(s.image, s.mask, material.target).image for s in scans]


class PooledMatch(System):
    """N4, then one histogram-matching curve for all scans of the scanner."""

    name: ClassVar[str] = "pooled-match"
    sees: ClassVar[Sees] = "target scans"
    together: ClassVar[bool] = True

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Rank by rank of the mean scan."""
        return pooled([s.image for s in scans], [s.mask for s in scans], material.target)


class Taught(System):
    """A system that measures the target's training scans before it sees a scan."""

    sees: ClassVar[Sees] = "target scans"

    def __init__(self) -> None:
        self.training: tuple[Picture, ...] = ()

    def fit(self, material: Material, say: Say) -> None:
        """Look at the training scans.

        Raises:
            UsageError: If there are none.
        """
        if not material.training:
            raise UsageError("there are no target scans to learn from", remedy=f"leave {self.name} out")
        self.training = material.training
        self.look(say)

    def look(self, say: Say) -> None:
        """What is measured of them."""


# As ANTs sets the filter where it matches histograms of images (ImageMath, antspyx).
_ITK_BINS, _ITK_POINTS = 255, 64


class ItkMatch(Taught):
    """N4, then ITK's histogram matching filter as ANTs calls it: 255 bins, 64 points, background and all.

    The reference is one scan, as the filter wants it: the training scan whose quantiles are nearest to the mean curve.

    Source: Nyúl, Udupa & Zhang 2000; ``HistogramMatchingImageFilter`` of ITK.
    """

    name: ClassVar[str] = "itk-match"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Scan by scan."""
        target = material.target
        away = [np.abs(source_quantiles(p.image, p.mask, target)[0] - target.mean_curve).mean() for p in self.training]
        reference = SimpleITK.GetImageFromArray(self.training[int(np.argmin(away))].image)
        matched = (
            SimpleITK.HistogramMatching(SimpleITK.GetImageFromArray(s.image), reference, _ITK_BINS, _ITK_POINTS, False)
            for s in scans
        )
        return [inside(s, SimpleITK.GetArrayFromImage(x)) for s, x in zip(scans, matched, strict=True)]


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
