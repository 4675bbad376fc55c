"""Real scans have no truth: how far are they from the target's own unseen scans?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.evidence.measures.likeness import anatomy
from blindharmony.evidence.system import Picture
from blindharmony.harmonization.typicality import typicality
from blindharmony.report.metrics import wasserstein
from blindharmony.target import Target

TISSUES = {"csf": 1, "grey": 2, "white": 3}
_AGREED = 0.7
_LEVELS = np.linspace(0.01, 0.99, 99)

Regions = Mapping[str, NDArray[np.bool_]]


def regions(own: Sequence[Picture], target: Target) -> dict[str, NDArray[np.bool_]]:
    """Where nearly everybody has one tissue, and ``all``: the region in which scans are compared.

    Manual labels of the target's scans agree there (share over 0.7); without labels, thirds of the mean head's
    brightness.
    """
    inside = target.fit_region
    labelled = [s.labels for s in own if s.labels is not None]
    if labelled:
        shares = {t: np.mean([x == k for x in labelled], 0) for t, k in TISSUES.items()}
        return {**{t: np.asarray(s > _AGREED) & inside for t, s in shares.items()}, "all": inside}
    atlas, core = target.atlas, ndimage.binary_erosion(inside, iterations=2)
    low, high = np.quantile(atlas[inside], [0.15, 0.6])
    parts = {"csf": core & (atlas < low), "grey": core & (atlas > low) & (atlas < high), "white": core & (atlas > high)}
    return {**parts, "all": inside}


def profile(image: NDArray[np.float32], mask: NDArray[np.bool_], where: Regions) -> dict[str, Any]:
    """All that comparisons with the target's people need: contrast, quantiles of tissues and brain, texture."""
    values = {t: image[w & mask] for t, w in where.items()}
    white = float(np.median(values["white"]))
    return {
        "contrast": float(np.median(values["grey"])) / white if white > 0 else float("nan"),
        "quantiles": {t: np.quantile(v, _LEVELS).round(5).tolist() for t, v in values.items()},
        "features": features(image, mask & where["all"]).round(6).tolist(),
    }


def features(image: NDArray[np.float32], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What the site probe sees: twenty quantiles, and the median local variation in ten bins of brightness."""
    inner = ndimage.binary_erosion(region, iterations=2)
    smooth = ndimage.uniform_filter(image, 3)
    order = np.argsort(smooth[inner], kind="stable")
    rough = np.abs(image - smooth)[inner][order]
    texture = [float(np.log(np.median(part) + 1e-4)) for part in np.array_split(rough, 10)]
    return np.concatenate([np.quantile(image[region], np.linspace(0.025, 0.975, 20)), texture])


def site(scan: Picture, image: NDArray[np.float32], where: Regions, target: Target) -> dict[str, Any]:
    """Of one harmonized scan: its profile, its typicality under the flow, and whether the anatomy was kept."""
    found = typicality(image, scan.mask, target)
    judged = {} if found is None else {"excess": found.excess, "bits": found.bits}
    return {**profile(image, scan.mask, where), **judged, **anatomy(scan, image)}


def distance(one: Mapping[str, Any], other: Mapping[str, Any], parts: Sequence[str] = tuple(TISSUES)) -> float:
    """Mean over tissues of the Wasserstein distance of two profiles, flow units."""
    pairs = [(np.array(one["quantiles"][t]), np.array(other["quantiles"][t])) for t in parts]
    return float(np.mean([wasserstein(a, b, _LEVELS) for a, b in pairs]))


def average(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean scan's profile."""
    names = found[0]["quantiles"]
    return {
        "contrast": float(np.mean([f["contrast"] for f in found])),
        "quantiles": {t: np.mean([f["quantiles"][t] for f in found], 0).tolist() for t in names},
    }
