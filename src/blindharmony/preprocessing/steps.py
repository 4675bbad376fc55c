"""What a preparation step promises, and the steps that need no more than a scan.

What every preparation step promises: its numbers are recorded, and it can be undone.

Axes in the order right, anterior, superior: a permutation and flips, no interpolation.

The smooth brightness drift of the receive coil, estimated by N4 inside the brain.

The two steps that change intensities on the scan's own grid: bias field and gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from blindharmony.errors import PreprocessingError
from blindharmony.preprocessing.grid import from_itk, mask_box, sitk, threads, to_itk

Params = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Scan:
    """An image on its way from the scanner to the flow.

    Attributes:
        data: Intensities, shape ``(X, Y, Z)``.
        affine: Voxel to world (mm), shape ``(4, 4)``.
        mask: Brain, once it is known.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def inside(self) -> NDArray[np.bool_]:
        """The brain, or every voxel as long as no mask is known."""
        return np.ones(self.data.shape, bool) if self.mask is None else self.mask


class Step(Protocol):
    """One step: ``params`` looks at the scan, ``apply`` and ``undo`` only follow what it found.

    The law every step keeps, for all scans ``s``: ``undo(apply(s, p), p, s)`` equals ``s``. A step that loses
    detail (resampling) undoes only what was *changed* after it, and takes the rest from ``s``.
    """

    @property
    def name(self) -> str:
        """What results and messages call it."""

    def params(self, scan: Scan) -> Params:
        """Everything the step needs to know about this scan."""

    def apply(self, scan: Scan, params: Params) -> Scan:
        """The scan after this step."""

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """The scan ``before`` with what happened to ``changed`` since."""


axes: Any = orientations  # without types


@dataclass(frozen=True)
class Orient:
    """Bring the axes closest to RAS+ (oblique scans stay oblique).

    Example:
        >>> scan = Scan(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.diag([-1.0, 1, 1, 1]))
        >>> step = Orient()
        >>> params = step.params(scan)
        >>> step.apply(scan, params).data[0, 0, 0]
        np.float32(12.0)
    """

    name: str = "orient"

    def params(self, scan: Scan) -> Params:
        """The axis codes of the scan, e.g. ``"LAS"``, and how its axes map to RAS+."""
        turn = axes.io_orientation(scan.affine)
        return {"axes": "".join(axes.ornt2axcodes(turn)), "turn": turn}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """Permute and flip."""
        affine = scan.affine @ axes.inv_ornt_aff(params["turn"], scan.data.shape)
        mask = None if scan.mask is None else axes.apply_orientation(scan.mask, params["turn"])
        return Scan(np.ascontiguousarray(axes.apply_orientation(scan.data, params["turn"])), affine, mask)

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """Permute and flip back."""
        back = axes.ornt_transform(axes.axcodes2ornt("RAS"), axes.axcodes2ornt(params["axes"]))
        mask = before.mask if changed.mask is None else axes.apply_orientation(changed.mask, back)
        return Scan(np.ascontiguousarray(axes.apply_orientation(changed.data, back)), before.affine, mask)


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


@dataclass(frozen=True)
class BiasN4:
    """Divide by the coil's bias field, ``data / exp(b)``; see :func:`~blindharmony.preprocessing.steps.log_bias_n4`."""

    shrink_mm: float = 4.0
    name: str = "n4"

    def params(self, scan: Scan) -> Params:
        """The log bias field and its standard deviation inside the mask."""
        field = log_bias_n4(scan.data, scan.affine, scan.inside(), shrink_mm=self.shrink_mm)
        return {"log_bias": field, "log_bias_sd": float(field[scan.inside()].std())}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """Take the field out."""
        return replace(scan, data=(scan.data * np.exp(-params["log_bias"])).astype(np.float32))

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """Put the field back."""
        return replace(changed, data=(changed.data * np.exp(params["log_bias"])).astype(np.float32))


@dataclass(frozen=True)
class Gain:
    """Divide by one number, so that the root mean square inside the mask becomes 1.

    Before the mean, values are clipped at their 99.9th percentile: a few bright vessels or a remnant of fat
    do not count. Of the gains tried, this one leaves the scans of one scanner most alike.

    Example:
        >>> scan = Scan(np.full((3, 3, 3), 5, dtype=np.float32), np.eye(4))
        >>> Gain().params(scan)["gain"]
        5.0
    """

    name: str = "gain"

    def params(self, scan: Scan) -> Params:
        """The gain, in the scan's units."""
        values = scan.data[scan.inside()].astype(np.float64)
        gain = float(np.sqrt(np.square(values.clip(0, max(0.0, np.quantile(values, 0.999)))).mean()))
        if not gain > 0:
            raise PreprocessingError("no voxel of the brain is positive", remedy="check the mask")
        return {"gain": gain}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """Divide."""
        return replace(scan, data=(scan.data / np.float32(params["gain"])).astype(np.float32))

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """Multiply."""
        return replace(changed, data=(changed.data * np.float32(params["gain"])).astype(np.float32))
