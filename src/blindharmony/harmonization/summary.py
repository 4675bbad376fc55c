r"""What a scan tells about its person and its scanner: ranks, texture, quantiles; and histogram matching.

Only the *order* of the intensities says who is in the scan, so a scan and the same scan through any increasing curve
give the same numbers.

**Rank features.** Voxels are sorted into ``BINS`` equally full bins of rank; for each bin

.. math:: a_k = \operatorname{mean}\{A(v) : v \in \text{bin}_k\}, \qquad
          t_k = \log \operatorname{q}_{75}\{|x_0(v) - \bar x_0(v)| : v \in \text{bin}_k\}

:math:`A` is the target's mean head at the same place in template space, :math:`x_0` the histogram-matched scan and
:math:`\bar x_0` its mean over 3×3×3 voxels. :math:`a` says which brightness is *expected* where this rank is found;
:math:`t` how much the image *varies* there, which is the slope of the true curve in disguise: a steep curve makes
texture coarse. Only the shape of :math:`t` counts, not its level, so that a noisier scanner is no other person.

**Texture.** How noisy, how blurred and how thickly sliced a scan is, in three numbers that no intensity curve changes:

.. math:: \tau = \Bigl(\overline{\log \operatorname{med}|x - \bar x_3|},\;
          \overline{\log \operatorname{med}|\bar x_3 - \bar x_7|},\; \max_a \rho_a - \min_a \rho_a\Bigr), \qquad
          \rho_a = \log \operatorname{med} |\partial_a^2 x|

:math:`x` is the histogram-matched scan, :math:`\bar x_3` and :math:`\bar x_7` its means over 3 and 7 voxels, medians
are taken in eight bins of brightness, and :math:`a` is one of the three axes. Noise raises the first number, blur
lowers the first two, thick slices raise the third.

**Summary.** All that a scanner's curve is fitted from, for one scan: a few hundred numbers instead of a volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import PreprocessingError
from blindharmony.harmonization.intensity import CurveMap, Estimate
from blindharmony.models.target import Target
from blindharmony.preprocessing.grid import mask_box
from blindharmony.settings import CurveSettings

Array: TypeAlias = NDArray[np.float64]

# A person model was learnt from features with these numbers and understands no others: they are no settings.
BINS = 24
_RANK_RIM, _TEXTURE_RIM = 2, 3  # voxels inside the border
_TEXTURE_BINS = 8
_LEAST_ROUGHNESS = 1e-4  # flow units, so that a flat image has a logarithm


def rank_features(
    matched: NDArray[np.float32], region: NDArray[np.bool_], atlas: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The expected brightness and the local variation for each bin of rank, shape ``(2 · BINS,)``.

    Args:
        matched: Histogram-matched image, template grid, flow units, zero outside ``region``.
        region: Voxels that are compared.
        atlas: Mean target head, same grid and units.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.uniform(0.5, 1.5, (16, 16, 16)).astype(np.float32)
        >>> features = rank_features(x, np.ones(x.shape, bool), x)
        >>> features.shape, bool(np.all(np.diff(features[:BINS]) > 0))
        ((48,), True)
    """
    expected = [np.mean(b, dtype=np.float64) for b in by_rank(matched[region], atlas[region], BINS)]
    inner = ndimage.binary_erosion(region, iterations=_RANK_RIM)
    smooth = ndimage.uniform_filter(matched, 3)
    rough = [np.quantile(b, 0.75) for b in by_rank(smooth[inner], np.abs(matched[inner] - smooth[inner]), BINS)]
    varied = np.log(np.array(rough) + _LEAST_ROUGHNESS)
    return np.concatenate([expected, varied - varied.mean()])


Real = TypeVar("Real", np.float32, np.float64)


def by_rank(order: NDArray[np.float32], values: NDArray[Real], bins: int) -> list[NDArray[Real]]:
    """The values in equally full bins of the rank of ``order``.

    Example:
        >>> [part.tolist() for part in by_rank(np.array([3, 1, 2, 0], np.float32), np.arange(4.0), 2)]
        [[3.0, 1.0], [2.0, 0.0]]
    """
    return np.array_split(values[ranking(order)], bins)


def ranking(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Where the values lie, the smallest first, equal ones in their order: a stable ``argsort``, five times as fast.

    Sorted as whole numbers, the value's bits before the place's: plain numbers are sorted with vector instructions.

    Example:
        >>> ranking(np.array([2.0, -1.0, 0.0, -0.0, -3.0], np.float32)).tolist()
        [4, 1, 2, 3, 0]
    """
    bits = (np.ascontiguousarray(values, np.float32) + np.float32(0)).view(np.int32)  # −0 becomes 0
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    keys = (rising << 32) | np.arange(rising.size)
    keys.sort()
    return np.asarray(keys & 0xFFFFFFFF)


def texture(matched: NDArray[np.float32], region: NDArray[np.bool_]) -> Array:
    """The three numbers of a scan.

    Args:
        matched: Histogram-matched image, template grid, flow units, zero outside ``region``.
        region: Voxels that are compared.

    Returns:
        Shape ``(3,)``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, inside = rng.normal(1, 0.1, (16, 16, 16)).astype(np.float32), np.ones((16, 16, 16), bool)
        >>> noisy, smooth = texture(x, inside), texture(ndimage.uniform_filter(x, 3), inside)
        >>> bool(noisy[0] > smooth[0] and noisy[2] < 0.1)
        True
    """
    inner = ndimage.binary_erosion(region, iterations=_TEXTURE_RIM)
    if not inner.any():
        return np.zeros(3)
    narrow = ndimage.uniform_filter(matched, 3)
    wide = ndimage.uniform_filter(narrow, 5)
    order = np.array_split(ranking(narrow[inner]), _TEXTURE_BINS)
    fine, coarse = np.abs(matched[inner] - narrow[inner]), np.abs(narrow[inner] - wide[inner])
    along = [np.log(np.median(_bend(matched, axis)[inner]) + _LEAST_ROUGHNESS) for axis in range(3)]
    levels = [
        np.mean([np.log(np.median(values[b]) + _LEAST_ROUGHNESS) for b in order if b.size]) for values in (fine, coarse)
    ]
    return np.array([*levels, max(along) - min(along)], np.float64)


def _bend(x: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """How far each voxel lies from the middle of its two neighbours along an axis, doubled."""
    return np.asarray(np.abs(ndimage.convolve1d(x, np.array([1, -2, 1], np.float32), axis, mode="nearest")))


def source_quantiles(
    image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target, settings: CurveSettings = CurveSettings()
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Quantiles of a scan at the target's ranks, and the region they were taken in.

    The region is where the scan has brain *and* the target's own masks agree that there is brain.

    Raises:
        PreprocessingError: If hardly anything is left of the brain there.
    """
    return region_quantiles(image, mask, target, least_voxels=settings.least_voxels)


def region_quantiles(
    image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target, *, least_voxels: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The same for whoever judges a scan: how much brain a curve needs, its fit has asked.

    Raises:
        PreprocessingError: If fewer voxels are left of the brain there.
    """
    region = mask & target.fit_region
    if region.sum() < least_voxels:
        raise PreprocessingError(
            f"only {region.sum()} brain voxels lie where the template has brain",
            remedy="check the mask and the header",
        )
    return np.quantile(np.sort(image[region]), target.levels), region  # sorted first: three times as fast


def harmonize_match(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    target: Target,
    settings: CurveSettings = CurveSettings(),
    *,
    fitted: NDArray[np.bool_] | None = None,
) -> Estimate:
    r"""Give every voxel the target's mean intensity of its rank: :math:`x_h = \bar Q(F_y(y))`.

    Args:
        image: Template grid, flow units.
        mask: Brain.
        target: Its mean quantile curve is used; no flow.
        settings: Numbers.
        fitted: Voxels whose ranks count; the whole brain if not given.
    """
    quantiles, _ = source_quantiles(image, mask if fitted is None else fitted, target, settings)
    curve = CurveMap.through(quantiles, target.mean_curve)
    return Estimate(inside_only(image, mask, curve), intensity_map=curve)


def inside_only(image: NDArray[np.float32], mask: NDArray[np.bool_], curve: CurveMap) -> NDArray[np.float32]:
    """The image through a curve inside the mask, zero outside, where no time is spent.

    Example:
        >>> square = CurveMap(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 4.0]))
        >>> inside_only(np.array([1.0, 2.0], np.float32), np.array([False, True]), square).tolist()
        [0.0, 4.0]
    """
    out = np.zeros(image.shape, np.float32)
    out[mask] = curve(image[mask])
    return out


@dataclass(frozen=True, eq=False)
class ScanSummary:
    """One scan before the fit.

    Attributes:
        quantiles: Its intensities at the target's ranks in the region that is compared, prepared units, ``(Q,)``.
        whole: Its intensities at evenly spaced ranks in the whole brain, shape ``(1000,)``.
        person: The quantile curve that this head would have on the target scanner, as far as its ranks tell, ``(Q,)``.
        surprise: How little the ranks tell: 0 like the target's heads, 1 nothing like them.
        distances: How far the scan is from the target's own as it came and harmonized with the curve of its scanner,
            if that was looked at.
    """

    quantiles: Array
    whole: Array
    person: Array
    surprise: float
    distances: tuple[float, float] | None = None


def summarize(
    image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target, settings: CurveSettings = CurveSettings()
) -> ScanSummary:
    """Quantiles of a prepared scan, and the person seen in them.

    Without a person model in the target, every person is the mean one.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    quantiles, region = source_quantiles(image, mask, target, settings)
    whole = whole_quantiles(image, mask)
    if target.person is None:
        return ScanSummary(quantiles, whole, target.mean_curve, 1.0)
    # Only around the region: filters reach three voxels, and beyond it all is zero.
    box, _ = mask_box(region, margin=4)
    region = region[box]
    matched = inside_only(image[box], region, CurveMap.through(quantiles, target.mean_curve))
    features = rank_features(matched, region, target.atlas[box])
    roughness = None if target.person.textures is None else texture(matched, region)
    # A sum of kernels may fold over where few scans taught it; an intensity curve must not.
    person = np.maximum.accumulate(np.maximum(target.person.curve(features, roughness), 0))
    return ScanSummary(quantiles, whole, person, target.person.surprise(features, roughness))


def whole_quantiles(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> Array:
    """Intensities at a thousand evenly spaced ranks of the whole brain; they set a scan's gain."""
    return np.asarray(np.quantile(np.sort(image[mask]), (np.arange(1000) + 0.5) / 1000))
