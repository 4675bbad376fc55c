"""Where this head lies in template space: one affine, found by mutual information."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from blindharmony.errors import PreprocessingError
from blindharmony.prep.grid import mask_box, shifted
from blindharmony.prep.itk import THREADS, matrix_ras, to_itk
from blindharmony.prep.template import Template

_SEED = 20231
_MIN_OVERLAP = 0.80


@dataclass(frozen=True)
class Registration:
    """An affine and how well it fits.

    Attributes:
        matrix: Template world (mm) → scan world (mm), shape ``(4, 4)``: the direction resampling needs.
        overlap: Dice overlap of the scan's brain mask with the template's.
    """

    matrix: NDArray[np.float64]
    overlap: float


def register_affine(
    brain: NDArray[np.float32], affine: NDArray[np.float64], mask: NDArray[np.bool_], template: Template
) -> Registration:
    """Affine (12 parameters) between a masked brain and the template.

    Moments of the two brain masks give translation and scale, then Mattes mutual information is climbed at
    4 mm and 2 mm: rigid + scale first, then all twelve parameters.

    Args:
        brain: Scan, zero outside the mask, shape ``(X, Y, Z)``.
        affine: Voxel to world (mm).
        mask: Brain mask.
        template: What to register to.

    Raises:
        PreprocessingError: If the result overlaps the template's brain by less than 80 % (Dice).

    Source:
        Mattes et al., IEEE TMI 22 (2003); SimpleITK's implementation.
    """
    box, _ = mask_box(mask, margin=4)
    brain, mask, affine = brain[box], mask[box], shifted(affine, box)
    moving = to_itk(np.where(mask, brain, 0).astype(np.float32), affine)
    moving_mask = to_itk(mask.astype(np.float32), affine)
    fixed = to_itk(template.data, template.affine)
    fixed_mask = to_itk((template.data > 0).astype(np.float32), template.affine)
    start = sitk.Similarity3DTransform()
    c_fixed, size_fixed = _moments(template.data > 0, template.affine)
    c_moving, size_moving = _moments(mask, affine)
    start.SetCenter(c_fixed.tolist())
    start.SetTranslation((c_moving - c_fixed).tolist())
    start.SetScale(float(size_moving / size_fixed))
    try:
        similar = _climb(fixed, moving, start, shrink=(4,), smooth=(2.0,))
        full = sitk.AffineTransform(3)
        full.SetMatrix(similar.GetMatrix())
        full.SetCenter(similar.GetCenter())
        full.SetTranslation(similar.GetTranslation())
        full = _climb(fixed, moving, full, shrink=(4, 2), smooth=(2.0, 1.0))
    except RuntimeError as error:
        raise PreprocessingError("registration to the template failed", remedy=_REMEDY) from error
    warped = sitk.Resample(moving_mask, fixed_mask, full, sitk.sitkLinear, 0.0)
    a, b = sitk.GetArrayViewFromImage(warped) > 0.5, sitk.GetArrayViewFromImage(fixed_mask) > 0.5
    overlap = float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    if overlap < _MIN_OVERLAP:
        raise PreprocessingError(
            f"registration to the template failed (overlap of the brains {overlap:.2f}, expected > 0.8)", remedy=_REMEDY
        )
    return Registration(matrix_ras(full), overlap)


_REMEDY = "check the orientation in the header and the brain mask"


def _climb(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform, shrink: tuple[int, ...], smooth: tuple[float, ...]
) -> sitk.Transform:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(THREADS)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescentLineSearch(1.0, 60, convergenceMinimumValue=1e-5, convergenceWindowSize=8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(shrink))
    method.SetSmoothingSigmasPerLevel(list(smooth))
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start


def _moments(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Centre (LPS mm) and root-mean-square radius (mm) of a mask."""
    points = np.argwhere(mask)[::7] @ affine[:3, :3].T + affine[:3, 3]
    centre = points.mean(0)
    return centre * [-1, -1, 1], float(np.sqrt(((points - centre) ** 2).sum(1).mean()))
