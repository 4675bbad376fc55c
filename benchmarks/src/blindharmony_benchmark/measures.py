"""Figures of merit: against the truth where there is one, against the target's own scans where there is none.

- Against the truth, the scan that the target scanner really made of this head: :func:`likeness` (PSNR, SSIM, anatomy,
  tissue contrast).
- White matter in a segmentation against the manual one: :func:`overlap` (Dice: higher is better; error of the volume:
  nearer to 0 is better).
- A site probe, taught anew for every method: :func:`balanced_accuracy` is how well a classifier can still tell the
  scanner (0.5 is chance, and best).
- Real scans have no truth: :func:`profile` and :func:`site` describe a scan, :func:`distance` is how far it is from the
  target's own unseen scans (lower is better).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from blindharmony.models.target import Target
from blindharmony.quality.metrics import (
    local_spearman,
    new_edges,
    psnr,
    smoothness_mm,
    ssim,
    tissue_contrast,
    wasserstein,
)
from blindharmony.quality.typicality import typicality
from blindharmony_benchmark.system import Picture

_BINS, _LEAST = 48, 50
# Farther than any of the filters reaches.
_MARGIN = 8


def likeness(truth: NDArray[np.float32], scan: Picture, image: NDArray[np.float32]) -> dict[str, Any]:
    """PSNR, SSIM, anatomy and tissue contrast of one harmonized scan.

    Peak of PSNR and SSIM is the truth's 99th percentile in the mask.

    Args:
        truth: Flow units, shape ``(X, Y, Z)``.
        scan: What the system was given.
        image: What it made of it.
    """
    reach = float(np.quantile(truth[scan.mask], 0.99))
    true, made, mask = _boxed(scan.mask, truth, image)
    return {
        "psnr": psnr(true, made, mask, data_range=reach),
        "ssim": ssim(true, made, mask, data_range=reach),
        **anatomy(scan, image),
        "contrast": contrast(scan, image),
    }


def of_truth(truth: NDArray[np.float32], scan: Picture) -> dict[str, float]:
    """The truth's own contrast, and its new edges: seen from a source of another contrast it has some too."""
    before, after, mask = _boxed(scan.mask, scan.image, truth)
    return {"truth_edges": 100 * new_edges(after, before, mask), "truth_contrast": contrast(scan, truth)}


def _boxed(
    mask: NDArray[np.bool_], one: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    # Half of the template grid is air, and filters take as long there as in the brain.
    bounds = ndimage.find_objects(mask.astype(np.uint8))[0]
    spans = zip(bounds, mask.shape, strict=True)
    box = tuple(slice(max(s.start - _MARGIN, 0), min(s.stop + _MARGIN, n)) for s, n in spans)
    return one[box], other[box], mask[box]


def anatomy(scan: Picture, image: NDArray[np.float32]) -> dict[str, float]:
    """Whether the anatomy was kept: order of intensities in cubes of 9 mm (-1…1), new edges (%)."""
    before, after, mask = _boxed(scan.mask, scan.image, image)
    return {"order": local_spearman(before, after, mask), "edges": 100 * new_edges(after, before, mask)}


def contrast(scan: Picture, image: NDArray[np.float32]) -> float:
    """Grey over white matter, medians inside the manual labels; without labels as the report finds it."""
    if scan.labels is not None:
        grey, white = (float(np.median(image[scan.labels == k])) for k in (2, 3))
        return grey / white if white > 0 else float("nan")
    try:
        return tissue_contrast(image, scan.mask)
    except ValueError:
        return float("nan")


def curve_points(scan: Picture, images: Mapping[str, NDArray[np.float32]]) -> dict[str, list[float]]:
    """Median of images in bins of the scan's intensity: the intensity curve that was found, and the true one.

    Args:
        scan: What the system was given; its ``plain`` intensities are ``x``.
        images: By name.
    """
    x = scan.plain[scan.mask]
    edges = np.linspace(0, float(np.quantile(x, 0.995)), _BINS + 1)
    order = np.argsort(x, kind="stable")
    cuts = np.searchsorted(x[order], edges)
    kept = [b for b in range(_BINS) if cuts[b + 1] - cuts[b] >= _LEAST]
    found = {"x": [round(float((edges[b] + edges[b + 1]) / 2), 4) for b in kept]}
    for name, image in images.items():
        values = image[scan.mask][order]
        found[name] = [round(float(np.median(values[cuts[b] : cuts[b + 1]])), 4) for b in kept]
    return found


WHITE = 3


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    r"""Overlap :math:`2 |A \cap B| / (|A| + |B|)`, 0…1; NaN if both are empty.

    Example:
        >>> dice(np.array([True, True, False]), np.array([True, False, False])) == 2 / 3
        True
    """
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else float("nan")


def volume_error(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """How much larger the found volume is than the true one, %."""
    size = int(truth.sum())
    return 100 * (int(found.sum()) - size) / size if size else float("nan")


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Dice and volume error; ``volume`` is the error's size, ``volume_signed`` with its sign (%)."""
    signed = volume_error(found, truth)
    return {"dice": dice(found, truth), "volume": abs(signed), "volume_signed": signed}


_RIDGE = 1.0


def probe_hits(one: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each scan's site was told right by ridge regression on the other scans' standardised features.

    A frozen probe flatters: it is taught again for every method, on its harmonized scans, leaving one subject out.

    Args:
        one: Features of one site's scans, shape ``(scans, features)``.
        other: Of the other's.
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    x = np.concatenate([first, second])
    y = np.concatenate([np.ones(len(first)), -np.ones(len(second))])
    hit = np.zeros(len(y), bool)
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        centre, spread = x[rest].mean(0), x[rest].std(0) + 1e-9
        a, b = (x[rest] - centre) / spread, (x[i] - centre) / spread
        weight = np.where(y[rest] > 0, 0.5 / max((y[rest] > 0).sum(), 1), 0.5 / max((y[rest] < 0).sum(), 1))
        slope = np.linalg.solve(
            (a * weight[:, None]).T @ a + _RIDGE * np.eye(a.shape[1]), (a * weight[:, None]).T @ y[rest]
        )
        offset = -(weight * (a @ slope - y[rest])).sum()
        hit[i] = np.sign(b @ slope + offset) == y[i]
    return hit[: len(first)], hit[len(first) :]


def balanced_accuracy(one: ArrayLike, other: ArrayLike) -> float:
    """Mean over the two sites of the share told right: 0.5 is chance, 1 means the scanner still shows.

    Example:
        >>> balanced_accuracy([[0.0], [0.1], [0.2]], [[5.0], [5.1], [5.2]])
        1.0
    """
    first, second = probe_hits(one, other)
    return float((first.mean() + second.mean()) / 2)


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
    """All that comparisons with the target's people need: contrast, quantiles of tissues and brain, texture, width."""
    values = {t: image[w & mask] for t, w in where.items()}
    white = float(np.median(values["white"]))
    return {
        "contrast": float(np.median(values["grey"])) / white if white > 0 else float("nan"),
        "quantiles": {t: np.quantile(v, _LEVELS).round(5).tolist() for t, v in values.items()},
        "features": features(image, mask & where["all"]).round(6).tolist(),
        "fwhm": smoothness_mm(image, mask),
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
    judged = {} if found is None else {"excess": found.worst.z, "bits": found.bits}
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
