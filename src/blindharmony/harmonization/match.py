"""Masked histogram matching to the pooled target: the start of every fit, and the rival to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import PreprocessingError
from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.result import Estimate
from blindharmony.target import Target

_MIN_VOXELS = 10_000


def source_quantiles(
    image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Quantiles of a scan at the target's ranks, and the region they were taken in.

    The region is where the scan has brain *and* the target's own masks agree that there is brain.

    Raises:
        PreprocessingError: If hardly anything is left of the brain there.
    """
    region = mask & target.fit_region
    if region.sum() < _MIN_VOXELS:
        raise PreprocessingError(
            f"only {region.sum()} brain voxels lie where the template has brain",
            remedy="check the mask and the header",
        )
    return np.quantile(image[region], target.levels), region


def harmonize_match(image: NDArray[np.float32], mask: NDArray[np.bool_], target: Target) -> Estimate:
    r"""Give every voxel the target's mean intensity of its rank: :math:`x_h = \bar Q(F_y(y))`.

    Args:
        image: Template grid, flow units.
        mask: Brain.
        target: Its mean quantile curve is used; no flow.
    """
    quantiles, _ = source_quantiles(image, mask, target)
    curve = CurveMap.through(quantiles, target.mean_curve)
    out = np.where(mask, curve(image), 0).astype(np.float32)
    return Estimate(out, intensity_map=curve)
