"""Brain masks as people store them: binary, 0/255, probability, label image, stripped scan, with scaling slopes.

A mask is no scan, and the checks of a scan do not fit it. What counts is which voxels are *inside*:

- two levels, whatever they are: the upper one;
- a plateau at the top with smooth edges (probability, resampled mask): above half-way between background and top;
- labels or a stripped scan: everything that is not background;
- a signed distance map has its outline at 0 and may have either sign inside: refused by name.

A brain mask must be as plausible as one that the network finds: 300 to 2600 ml, less than nine tenths of the field of
view, and not inside out. A lesion mask may be empty, and has at most 500 ml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import InputError
from blindharmony.io.volume import Source, border, load_array, noticed, opened, placed

# A term neonate's brain has 350 ml, the largest healthy adult's 2000.
MIN_ML, MAX_ML = 300.0, 2600.0
# The territory of a whole middle cerebral artery, or a large tumor with its edema, has 300 to 400 ml.
MAX_LESION_ML = 500.0
# A brain in its own bounding box fills little more than half of it.
MAX_SHARE = 0.9
# Whole numbers up to here are labels of tissues (0 to 3, 0 to 9, ...), above they may be a probability (0 to 255).
_MOST_TISSUES = 20
# As many levels are labels, also where a scaling slope made them no whole numbers.
_FEW_LEVELS = 8
# Share of the foreground within a tenth of the top, or of the plateau below what interpolation overshoots: nearly all
# of a mask, little of a stripped scan.
_PLATEAU, _FLAT = 0.5, 0.05
# An interpolated mask overshoots by a tenth, by four tenths at corners if it was moved by cubic splines; a distance map
# is as far from 0 on both sides, and has no plateau unless it was cut off.
_OVERSHOOT, _RINGING = 0.3, 0.6


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask of the brain, or of lesions, with its place.

    Attributes:
        inside: Which voxels it names, shape ``(i, j, k)``.
        affine: Voxel to world (mm), shape ``(4, 4)``.
        path: Its file, if it has one.
        warnings: What is odd about it, one sentence each.
    """

    inside: NDArray[np.bool_]
    affine: NDArray[np.float64]
    path: Path | None = None
    warnings: tuple[str, ...] = ()


def load_mask(source: Source, affine: NDArray[np.float64] | None = None) -> Mask:
    """Read a brain mask from a file, an image or an array.

    Args:
        source: As for :func:`~blindharmony.io.volume.read_volume`.
        affine: Of an array, which has no place of its own.

    Raises:
        InputError: If it cannot be read, is a distance map, or is no plausible brain.
    """
    return _loaded(source, affine, inside_of, check_plausible, "mask")


def load_lesion(source: Source, affine: NDArray[np.float64] | None = None) -> Mask:
    """Read a mask of lesions, through the same door as brain masks.

    Args:
        source: As for :func:`~blindharmony.io.volume.read_volume`.
        affine: Of an array, which has no place of its own.

    Returns:
        Its ``inside`` is empty if every voxel of the file is zero: a head without lesions.

    Raises:
        InputError: If it cannot be read, is a distance map, or has more inside than a lesion can have.

    Example:
        >>> spots = np.zeros((40, 40, 40), np.uint8)
        >>> load_lesion(spots, np.eye(4)).inside.any()
        np.False_
        >>> spots[10:13, 10, 10] = 1
        >>> int(load_lesion(spots, np.eye(4)).inside.sum())
        3
    """

    def inside(values: NDArray[np.generic], path: Path | None) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
        none = np.zeros(values.shape, bool)
        return (none, ()) if not np.any(values) else inside_of(values, path)

    return _loaded(source, affine, inside, _check_lesion, "lesion mask")


def _check_lesion(inside: NDArray[np.bool_], voxel_mm3: float, path: Path | None) -> None:
    millilitres = float(np.count_nonzero(inside)) * voxel_mm3 / 1000
    if millilitres > MAX_LESION_ML:
        raise InputError(
            f"the lesion mask has {millilitres:.0f} ml inside, more than any lesion ({MAX_LESION_ML:.0f} ml)",
            remedy="give a mask that is 1 in the lesions and 0 elsewhere",
            path=path,
        )


def _loaded(
    source: Source,
    affine: NDArray[np.float64] | None,
    inside_of: Callable[[NDArray[np.generic], Path | None], tuple[NDArray[np.bool_], tuple[str, ...]]],
    check: Callable[[NDArray[np.bool_], float, Path | None], None],
    name: str,
) -> Mask:
    try:
        in_memory = isinstance(source, np.ndarray) or hasattr(source, "detach")
        image, path, notes = opened(source, affine if in_memory else None)
        shape, matrix, oddities = placed(image, path)
        notes = (*notes, *oddities)
        with noticed(notes):
            values, longer = load_array(image, path)
        with noticed((*notes, *longer)):
            inside, repaired = inside_of(values.reshape(shape), path)
            check(inside, float(abs(np.linalg.det(matrix[:3, :3]))), path)
    except InputError as error:
        if error.path is not None:
            raise
        # Without a name of its own the trouble would seem to be the scan's.
        raise InputError(f"the {name} cannot be used: {error.what}", remedy=error.remedy) from error
    return Mask(inside, matrix, path, (*notes, *longer, *repaired))


def inside_of(values: NDArray[np.generic], path: Path | None = None) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which voxels a stored mask has inside, and what was repaired.

    Args:
        values: The voxels with slope and intercept applied.
        path: The file, for messages.

    Raises:
        InputError: If all voxels are the same, or they are distances.

    Example:
        >>> inside_of(np.array([0, 0, 1, 2, 3]))[0].tolist()                    # tissue labels
        [False, False, True, True, True]
        >>> int(inside_of(np.append(np.linspace(0, 1, 11), np.ones(50)))[0].sum())    # a probability, above 0.5
        55
    """
    repaired: tuple[str, ...] = ()
    data: NDArray[Any] = np.asarray(values)
    if data.dtype.kind == "f" and not (finite := np.isfinite(data)).all():
        repaired = (f"{np.count_nonzero(~finite)} voxels of the mask were NaN or infinite and count as outside",)
        data = np.where(finite, data, min(0.0, float(data[finite].min())) if finite.any() else 0)
    low, high = float(data.min()), float(data.max())
    if low == high:
        what = "everything is inside" if high > 0 else "nothing is inside"
        raise InputError(f"every voxel of the mask is {high:g}: {what}", remedy="give another mask", path=path)
    levels = np.unique(data).astype(np.float64)
    whole = data.dtype.kind in "biu" or bool((levels == np.rint(levels)).all())
    # Of scaled integers the same level may differ in its last digits.
    ends = np.minimum(levels - low, high - levels) < 1e-5 * (high - low)
    if len(levels) == 2 or (ends.all() and not whole):
        return data > low + (high - low) / 2, repaired
    background = max(low, 0.0)
    few = len(levels) <= _FEW_LEVELS or (whole and high <= _MOST_TISSUES)
    foreground = data > background + 0.05 * (high - background)
    upper = data[data > (background + high) / 2]
    plateau = float(np.median(upper)) if upper.size else high
    top = data > background + 0.9 * (high - background)
    flat = np.abs(data - plateau) <= _FLAT * (plateau - background)
    level = not few and np.count_nonzero(top | flat) > _PLATEAU * int(foreground.sum())
    if low < -(_RINGING if level else _OVERSHOOT) * high:
        raise InputError(
            f"the mask is a map of distances, from {low:.3g} to {high:.3g}",
            remedy="give the binary mask (of SynthStrip the one that -m writes, not --sdt)",
            path=path,
        )
    if few:
        return data > low + (levels[1] - low) / 2, repaired
    if level:
        return data > (background + plateau) / 2, repaired
    return (data > low if whole and low >= 0 else data > background + 1e-3 * (high - background)), repaired


def check_plausible(inside: NDArray[np.bool_], voxel_mm3: float, path: Path | None = None) -> None:
    """Check that a mask can be a brain.

    Args:
        inside: The mask.
        voxel_mm3: Volume of a voxel.
        path: The file, for messages.

    Raises:
        InputError: If it covers the field of view, is inside out, or has a volume that no brain has.
    """
    share = float(inside.mean())
    if share > MAX_SHARE or np.mean(inside[border(inside.shape)]) > MAX_SHARE:
        raise InputError(
            f"the mask has {share:.0%} of the field of view inside, to its very border",
            remedy="give a mask that is 0 outside the brain",
            path=path,
        )
    millilitres = float(np.count_nonzero(inside)) * voxel_mm3 / 1000
    if not MIN_ML <= millilitres <= MAX_ML:
        raise InputError(
            f"the mask has {millilitres:.0f} ml inside, which no brain has",
            remedy=f"give the mask of the whole brain ({MIN_ML:.0f} to {MAX_ML:.0f} ml)",
            path=path,
        )
