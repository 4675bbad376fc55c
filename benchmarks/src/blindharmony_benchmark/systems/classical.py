"""Systems that need no training.

- What costs nothing: one gain (:class:`Nothing`), the bias field alone (:class:`BiasOnly`), the range of intensities
  (:class:`MinMax`).
- Histogram matching: with the mask and without, before N4 and after, one by one and pooled.
- Normalisation by landmarks and moments (:class:`Nyul`, :class:`ZScore`, :class:`WhiteStripe`), mapped back to the
  target's unit through the pooled target's own.
- :class:`Spectrum`: the target's amplitude at low frequencies, the scan's own phase.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from blindharmony.files import read_text, write_text
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import harmonize_match, source_quantiles
from blindharmony.models.target import Target
from blindharmony.quality.metrics import psnr
from blindharmony_benchmark.simulation.simulate import simulate
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


BETAS = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08)
_TAUGHT_BY = ("gamma0.7", "gamma1.5", "log")
_MOST_HEADS = 3


def amplitude(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Amplitudes of the spectrum (of the real transform: half of the last axis), float32."""
    return np.asarray(np.abs(fft.rfftn(np.asarray(image, np.float32))), np.float32)


def spectrum_swap(image: NDArray[np.float32], reference: NDArray[np.float32], beta: float) -> NDArray[np.float32]:
    """The image with the reference's amplitude in the window, its own phase everywhere.

    Args:
        image: Shape ``(X, Y, Z)``.
        reference: :func:`amplitude` of another image of this shape.
        beta: Half width of the window, share of each axis; 0 is the mean alone.

    Example:
        >>> x = np.random.default_rng(0).uniform(size=(8, 8, 8)).astype(np.float32)
        >>> bool(np.allclose(spectrum_swap(x, amplitude(x), 0.25), x, atol=1e-5))
        True
    """
    found = fft.rfftn(np.asarray(image, np.float32))
    near = [np.abs(fft.fftfreq(n)) <= beta for n in image.shape[:2]]
    near.append(fft.rfftfreq(image.shape[2]) <= beta)
    window = near[0][:, None, None] & near[1][None, :, None] & near[2][None, None, :]
    own = np.abs(found)
    scale = np.where(window, reference / np.maximum(own, 1e-12), 1)
    return np.asarray(fft.irfftn(found * scale, image.shape), np.float32)


class Spectrum(System):
    r"""N4, then the mean target head's amplitude at low frequencies; the window is tuned on training scans.

    .. math:: x = \mathcal F^{-1}\bigl[(W A_t + (1 - W) |\mathcal F y|)\, e^{i \arg \mathcal F y}\bigr]

    :math:`W` is 1 in a centred window of half width :math:`\beta` of each axis, :math:`A_t` the amplitude of the mean
    target head. In 3D, on whole volumes.

    Source: the family of Fourier domain adaptation (Yang & Soatto 2020) and spectrum swapping for MRI (Guan et al.
    2022); the published window and transform of the latter are not known, so the window is tuned.
    """

    name: ClassVar[str] = "spectrum"
    sees: ClassVar[Sees] = "target scans"

    def __init__(self) -> None:
        self.beta: float | None = None

    def fit(self, material: Material, say: Say) -> None:
        """Choose the window: training scans through three simulated curves, nearest to themselves afterwards."""
        file = material.folder / f"spectrum-{material.target.digest or 'unsaved'}.json"
        if file.exists():
            self.beta = float(json.loads(read_text(file))["beta"])
            return
        heads = material.training[:_MOST_HEADS]
        if not heads:
            self.beta = BETAS[1]
            return
        reference, total = self._reference(material), np.zeros(len(BETAS))
        for index, head in enumerate(heads):
            for domain in _TAUGHT_BY:
                say("spectrum: tuning", index / len(heads))
                made = simulate(head.image, head.mask, (1, 1, 1), domain).image
                seen = Picture(head.subject, made, head.mask, made)
                reach = float(np.quantile(head.image[head.mask], 0.99))
                for b, beta in enumerate(BETAS):
                    out = inside(seen, spectrum_swap(made, reference, beta))
                    total[b] += psnr(head.image, out, head.mask, data_range=reach)
        self.beta = BETAS[int(np.argmax(total))]
        shown = dict(zip(map(str, BETAS), (total / len(heads) / len(_TAUGHT_BY)).round(2).tolist(), strict=True))
        content = {"beta": self.beta, "psnr": shown, "heads": [h.subject for h in heads]}
        write_text(file, json.dumps(content, indent=1) + "\n", overwrite=True)

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Swap."""
        reference = self._reference(material)
        beta = BETAS[1] if self.beta is None else self.beta
        return [inside(s, spectrum_swap(s.image, reference, beta)) for s in scans]

    def _reference(self, material: Material) -> NDArray[np.float32]:
        target = material.target
        return amplitude(np.where(target.fit_region, target.atlas, 0))
