"""Against the truth: the scan that the target scanner really made of this head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.evidence.system import Picture
from blindharmony.report.metrics import local_spearman, new_edges, psnr, ssim, tissue_contrast

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
