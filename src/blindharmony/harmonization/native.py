r"""Return to native space: the change of intensity travels, the scan itself is never resampled.

.. math:: x = \operatorname{undo}\bigl(m(y) + R^{-1}(x_h - m(x_0))\bigr)

:math:`y` is the prepared scan on its own grid, :math:`x_0` the same on the template's grid, :math:`x_h` the harmonized
image there, :math:`m` the part of the change that is a curve of intensity, :math:`R^{-1}` resampling. At last every
preparation step is undone but those that harmonize: gain and bias field, unless the scan's own field is to be kept.

A scan with voxels of about 1 mm that the restorer refined takes another way: resampling would blunt the refinement, so
the restorer runs anew on the scan's own grid, :math:`x = \operatorname{undo}(r(m(y)))`, as strong as it was on the
template's.

What was done to the scan is told in steps (:func:`steps_of`): the scan as it came, the bias field taken out, the
curve, the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.intensity import Curve, CurveMap, Estimate
from blindharmony.harmonization.refine import on_own_grid, refine
from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import Prepared
from blindharmony.preprocessing.steps import Scan
from blindharmony.settings import HarmonizeSettings

_NEGLIGIBLE = 1e-6  # of a change, flow units: rounding


def to_scan(
    prepared: Prepared, estimate: Estimate, target: Target, settings: HarmonizeSettings = HarmonizeSettings()
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The harmonized scan and its brain in the axes of the file, intensities in the target scanner's units.

    Args:
        prepared: The scan and the way to the template grid.
        estimate: The harmonized image there.
        target: Its unit is that of the result.
        settings: Whether the scan's own bias field is put back, where the restorer computes, and numbers.
    """
    native = carry_to_native(prepared, estimate, target, settings)
    if settings.keep_bias:
        native = native * own_bias(prepared)

    def harmonized(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return intensity_curve(prepared, estimate, settings)(values) * np.float32(target.info.unit)

    data = prepared.to_file((native * target.info.unit).astype(np.float32), harmonized)
    brain = prepared.to_file_grid(prepared.native.inside().astype(np.float32)) > 0.5
    return data, brain


def carry_to_native(
    prepared: Prepared, estimate: Estimate, target: Target, settings: HarmonizeSettings = HarmonizeSettings()
) -> NDArray[np.float32]:
    r"""The harmonized scan on its own grid, flow units, RAS+ axes: :math:`m(y) + R^{-1}(x_h - m(x))`.

    :math:`m` is the part of the change that is a curve of intensity; it is evaluated at the scan's own voxels, inside
    the brain and outside, so that no edge appears where the mask ends. Only what it does not explain is resampled
    (:math:`R^{-1}`), and only inside the mask. A method that changes voxels freely gets the curve that explains most.

    Args:
        prepared: The scan and the way to the template grid.
        estimate: The harmonized image there.
        target: Its restorer works on the scan's own grid where voxels are of about 1 mm, with the strength that was
            found on the template grid: interpolation would blunt it.
        settings: Where the restorer computes, and numbers.
    """
    last = prepared.history[-1]
    curve = intensity_curve(prepared, estimate, settings)
    native = replace(last.before, data=curve(last.before.data))
    if estimate.refinement and on_own_grid(native.spacing, settings.refinement):
        inside = native.inside()
        change = refine(
            np.where(inside, native.data, 0),
            inside,
            target,
            strength=estimate.refinement,
            own_grid=True,
            device=settings.device,
            settings=settings.refinement,
        )
        return np.where(inside, change.image, native.data)
    inside = prepared.scan.inside()
    unexplained = np.where(inside, estimate.image - curve(prepared.scan.data), 0).astype(np.float32)
    if not np.abs(unexplained).max() > _NEGLIGIBLE:
        return native.data
    on_template = last.step.apply(native, last.result)
    changed = replace(on_template, data=on_template.data + unexplained)
    returned: NDArray[np.float32] = last.step.undo(changed, last.result, native).data
    return returned


def intensity_curve(prepared: Prepared, estimate: Estimate, settings: HarmonizeSettings) -> Curve:
    """The change that is a curve of intensity: the method's own, or the one that explains most of what it did."""
    if estimate.intensity_map is not None:
        return estimate.intensity_map
    bins = settings.iteration.curve_bins
    return fitted_curve(prepared.scan.data, estimate.image, prepared.scan.inside(), bins)


def fitted_curve(
    before: NDArray[np.float32], after: NDArray[np.float32], mask: NDArray[np.bool_], bins: int = 200
) -> CurveMap:
    """The increasing curve that best explains ``after`` from ``before``: bin means of equal counts, sorted.

    Example:
        >>> x = np.linspace(0.1, 1, 4000, dtype=np.float32)
        >>> curve = fitted_curve(x, 2 * x, np.ones(4000, bool))
        >>> bool(np.allclose(curve(x), 2 * x, atol=1e-4))
        True
    """
    x, y = before[mask].astype(np.float64), after[mask].astype(np.float64)
    order = np.argsort(x, kind="stable")
    parts = np.array_split(order, min(bins, max(2, x.size // 10)))
    # Pool adjacent violators would be exact; a running maximum is enough for bins of many thousand voxels.
    return CurveMap.through(np.array([x[p].mean() for p in parts]), np.maximum.accumulate([y[p].mean() for p in parts]))


def own_bias(prepared: Prepared) -> NDArray[np.float32]:
    """The scan's own bias field, on its own grid in RAS+ axes; a single 1 if none was taken out."""
    bias = prepared.bias_field
    return np.asarray(np.exp(bias.log_bias) if bias else 1, np.float32)


def as_it_came(prepared: Prepared) -> Scan:
    """The scan on its own grid in RAS+ axes before anything was done to its intensities.

    Where a step that was added moves voxels, it is the scan after that step.
    """
    native = prepared.native
    for applied in prepared.history[1:]:
        before = applied.before
        if before.data.shape == native.data.shape and np.array_equal(before.affine, native.affine):
            return before
    return native


@dataclass(frozen=True, eq=False)
class Steps:
    """An image of the brain after each step, all with the mean and in the unit of the result, zero outside the brain.

    Attributes:
        scan: As it came.
        unshaded: With the bias field taken out.
        curved: With the intensity curve applied.
        result: With noise and blur taken out.

    Example:
        >>> flat, dark = np.full(4, 2.0), np.array([1.0, 1.0, 3.0, 3.0])
        >>> maps = Steps(flat, dark, dark, dark).maps
        >>> {name: float(np.abs(change).mean()) for name, change in maps.items()}
        {'shading': 1.0, 'contrast': 0.0, 'noise and blur': 0.0}
    """

    scan: NDArray[Any]
    unshaded: NDArray[Any]
    curved: NDArray[Any]
    result: NDArray[Any]

    @property
    def maps(self) -> dict[str, NDArray[Any]]:
        """What each step changed: uneven shading, contrast between tissues, noise and blur. They add up to it all."""
        return {
            "shading": self.unshaded - self.scan,
            "contrast": self.curved - self.unshaded,
            "noise and blur": self.result - self.curved,
        }


def steps_of(
    prepared: Prepared, unshaded: NDArray[np.float32], estimate: Estimate, settings: HarmonizeSettings
) -> Steps:
    """The scan after each step, on the template grid in flow units.

    Args:
        prepared: The scan and the way to the template grid.
        unshaded: The scan as prepared in its own contrast: its bias field taken out, and nothing else done.
        estimate: The harmonized image.
        settings: Whether the scan's own bias field was put back.
    """
    last, inside = prepared.history[-1], prepared.scan.inside()

    def on_template(values: NDArray[np.float32]) -> NDArray[np.float32]:
        moved = last.step.apply(replace(last.before, data=values), last.result)
        return np.where(inside, moved.data, np.float32(0))

    scan, flat = on_template(as_it_came(prepared).data), np.where(inside, unshaded, np.float32(0))
    curved = np.where(inside, intensity_curve(prepared, estimate, settings)(prepared.scan.data), np.float32(0))
    result = estimate.image
    if settings.keep_bias and prepared.bias_field is not None:
        field = on_template(own_bias(prepared))
        flat, curved, result = scan, curved * field, result * field
    scan, flat, curved = (with_mean_of(result, image, inside) for image in (scan, flat, curved))
    return Steps(scan, flat, curved, result)


def with_mean_of(result: NDArray[Any], image: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[Any]:
    """An image times the one number that gives its brain the mean of the result's: brightness as a whole is no change.

    Example:
        >>> with_mean_of(np.array([4.0, 2.0]), np.array([1.0, 2.0]), np.ones(2, bool)).tolist()
        [2.0, 4.0]
    """
    wanted, mean = (float(x[inside].mean(dtype=np.float64)) for x in (result, image))
    return image * image.dtype.type(wanted / mean) if mean else image
