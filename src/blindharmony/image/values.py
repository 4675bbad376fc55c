"""Are these the intensities of an MR image?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from blindharmony.errors import InputError

MAX_NONFINITE = 0.05
MAX_NEGATIVE = 0.05
MIN_MAGNITUDE, MAX_MAGNITUDE = 1e-12, 1e12
# Fewer steps of single precision between the darkest and the brightest voxel leave nothing of an image.
MIN_STEPS = 1000


def clean_values(data: npt.NDArray[np.generic], path: Path | None) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return the intensities as finite float32, with what was repaired.

    Up to 5 % NaN or infinite voxels become 0 and are reported.

    Raises:
        InputError: If the values are not plain numbers, too many are not finite, or they are empty, constant, beyond
            1e12 or below 1e-12, too close to each other, or negative in more than 5 % of the voxels that are not 0.

    Example:
        >>> values, repaired = clean_values(np.array([1.0, 2.0, np.nan] + 60 * [3.0]), None)
        >>> float(values[2]), repaired
        (0.0, ('1 voxel was NaN or infinite and was set to 0',))
    """
    if data.dtype.kind not in "biuf":
        raise InputError(
            "the image holds colour or complex values",
            remedy="give the magnitude image, one number per voxel",
            path=path,
        )
    data, repaired = _finite(data, path)
    low, high = float(data.min()), float(data.max())
    if max(-low, high) > MAX_MAGNITUDE:
        raise InputError(
            f"intensities reach {max(-low, high):.1e}",
            remedy="check the scaling (scl_slope) in the header or convert the scan again",
            path=path,
        )
    if 0 < max(-low, high) < MIN_MAGNITUDE or 0 < high - low < MIN_STEPS * float(
        np.spacing(np.float32(max(-low, high)))
    ):
        raise InputError(
            f"intensities from {low:.6g} to {high:.6g} are too close to each other",
            remedy="check the scaling (scl_slope, scl_inter) in the header or convert the scan again",
            path=path,
        )
    # After the magnitude check, so the cast cannot overflow; always a copy, so the caller's array and
    # memory-mapped files stay out of reach.
    values = np.array(data, dtype=np.float32)
    if not values.any():
        raise InputError("the image is empty, every voxel is 0", remedy="check the conversion", path=path)
    if values.min() == values.max():
        raise InputError(f"the image is constant, every voxel is {low:g}", remedy="check the conversion", path=path)
    negative = np.count_nonzero(values < 0) / np.count_nonzero(values)
    if negative > MAX_NEGATIVE:
        raise InputError(
            f"{negative:.0%} of the image is negative, as in CT, phase or z-scored images",
            remedy="give the MR magnitude image from before any intensity normalization",
            path=path,
        )
    return values, repaired


def _finite(data: npt.NDArray[np.generic], path: Path | None) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    if data.dtype.kind != "f":
        return data, ()
    bad = ~np.isfinite(data)
    count = int(np.count_nonzero(bad))
    if count == 0:
        return data, ()
    if count > MAX_NONFINITE * data.size:
        raise InputError(
            f"{count / data.size:.0%} of the voxels are NaN or infinite",
            remedy="convert the scan again or repair the step that wrote it",
            path=path,
        )
    what = "1 voxel was" if count == 1 else f"{count} voxels were"
    verb = "was" if count == 1 else "were"
    return np.where(bad, 0, data), (f"{what} NaN or infinite and {verb} set to 0",)
