"""The smooth brightness drift of the receive coil, estimated by N4 inside the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import PreprocessingError
from blindharmony.prep.grid import mask_box
from blindharmony.prep.itk import from_itk, sitk, threads, to_itk


def log_bias_n4(
    data: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    *,
    shrink_mm: float = 4.0,
    iterations: tuple[int, ...] = (50, 50, 50, 50),
    distance_mm: float = 200.0,
) -> NDArray[np.float32]:
    """Log bias field ``b`` with ``data = corrected · exp(b)``, mean zero inside the mask.

    Args:
        data: Intensities, shape ``(X, Y, Z)``.
        affine: Voxel to world (mm).
        mask: Brain.
        shrink_mm: Voxel size at which the field is fitted; the spline is then evaluated at every voxel.
        iterations: Upper bound of iterations for each level; the spline mesh doubles from level to level.
        distance_mm: Distance between knots at the first level.

    Raises:
        PreprocessingError: If N4 fails (for example on a mask without positive voxels).

    Source:
        Tustison et al., "N4ITK", IEEE TMI 29 (2010); SimpleITK's implementation.
    """
    # N4 works on log intensities: a zero inside the brain would be minus infinity.
    positive = mask & (data > 0)
    if positive.sum() < 1000:
        raise PreprocessingError("fewer than 1000 positive voxels in the brain mask", remedy="check the mask")
    # Only the brain's box is fitted; beyond it the field goes on with the value at the edge.
    box, around = mask_box(positive, margin=4)
    image, inside = to_itk(data[box], affine), to_itk(positive[box].astype(np.uint8), affine)
    factors = [max(1, round(shrink_mm / s)) for s in image.GetSpacing()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(list(iterations))
    n4.SetConvergenceThreshold(1e-4)
    try:
        small = sitk.BinShrink(image, factors)
        # A small voxel counts when most of it is brain.
        small_mask = sitk.BinShrink(sitk.Cast(inside, sitk.sitkFloat32), factors) > 0.5
        extent = np.array(small.GetSize()) * np.array(small.GetSpacing())
        n4.SetNumberOfControlPoints([max(1, round(e / distance_mm)) + 3 for e in extent])
        with threads(2):
            n4.Execute(small, small_mask)
            inner = from_itk(n4.GetLogBiasFieldAsImage(image))
    except RuntimeError as error:
        raise PreprocessingError(
            f"the bias field could not be estimated ({str(error).splitlines()[-1].strip()})",
            remedy="check the mask",
        ) from error
    field = np.pad(inner, np.array(around), mode="edge")
    return np.asarray(field - field[positive].mean(), dtype=np.float32)
