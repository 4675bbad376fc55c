"""All that a scanner's curve is fitted from, for one scan: a few hundred numbers instead of a volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.match import source_quantiles
from blindharmony.harmonization.ranks import rank_features
from blindharmony.harmonization.texture import texture
from blindharmony.target import Target

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScanSummary:
    """One scan before the fit.

    Attributes:
        quantiles: Its intensities at the target's ranks in the region that is compared, prepared units, ``(Q,)``.
        whole: Its intensities at evenly spaced ranks in the whole brain, shape ``(1000,)``.
        person: The quantile curve that this head would have on the target scanner, as far as its ranks tell, ``(Q,)``.
        surprise: How little the ranks tell: 0 like the target's heads, 1 nothing like them.
    """

    quantiles: Array
    whole: Array
    person: Array
    surprise: float


def summarize(image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target) -> ScanSummary:
    """Quantiles of a prepared scan, and the person seen in them.

    Without a person model in the target, every person is the mean one.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    quantiles, region = source_quantiles(image, mask, target)
    whole = whole_quantiles(image, mask)
    if target.person is None:
        return ScanSummary(quantiles, whole, target.mean_curve, 1.0)
    matched = np.where(region, CurveMap.through(quantiles, target.mean_curve)(image), 0).astype(np.float32)
    features = rank_features(matched, region, target.atlas)
    own = texture(matched, region)
    # A sum of kernels may fold over where few scans taught it; an intensity curve must not.
    person = np.maximum.accumulate(np.maximum(target.person.curve(features, own), 0))
    return ScanSummary(quantiles, whole, person, target.person.surprise(features, own))


def whole_quantiles(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> Array:
    """Intensities at a thousand evenly spaced ranks of the whole brain; they set a scan's gain."""
    return np.asarray(np.quantile(image[mask], (np.arange(1000) + 0.5) / 1000))
