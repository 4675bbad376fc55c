"""What another scanner would have made of a scan.

:func:`simulate` puts one scan through one simulated scanner, as arrays; :func:`simulate_volume` does it with a scan as
it was read, in its own space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import ArrayLike, NDArray

from blindharmony.errors import InputError, PreprocessingError, UsageError
from blindharmony.io.volume import Volume, read_volume
from blindharmony.preprocessing.brain import ExtractBrain, check_grid, mask_on, read_mask
from blindharmony.preprocessing.steps import Reorient, Scan
from blindharmony_benchmark.simulation.domains import DOMAINS, Domain
from blindharmony_benchmark.simulation.effects import View

_SCANNER, _SCAN = 0, 1


@dataclass(frozen=True, eq=False)
class Simulated:
    """What came out of a simulated scanner.

    Attributes:
        image: Intensities, float32, shape of the scan.
        domain: Name of the scanner.
        settings: The scanner's own settings: equal for all scans of one ``seed``.
        found: What was measured or used for this scan alone.
    """

    image: NDArray[np.float32]
    domain: str
    settings: Mapping[str, Any]
    found: Mapping[str, Any]


def draw_scanner(domain: str, seed: int = 0) -> dict[str, Any]:
    """The settings of a simulated scanner; only ``all`` and ``site`` depend on the seed.

    Raises:
        UsageError: If there is no such domain, or the seed is negative.

    Example:
        >>> draw_scanner("bias"), draw_scanner("all", 1) == draw_scanner("all", 2)
        ({'Peak': 0.3}, False)
    """
    return _domain(domain).settings(_generator(_SCANNER, seed))


def simulate(
    image: NDArray[np.floating],
    mask: NDArray[np.bool_],
    spacing: Sequence[float],
    domain: str,
    *,
    labels: ArrayLike | None = None,
    seed: int = 0,
    scan_seed: int = 0,
    top: float | None = None,
    level: float | None = None,
    slice_axis: int = 2,
    changed: Mapping[str, Any] | None = None,
) -> Simulated:
    """Make what another scanner would have made of a scan.

    ``seed`` is the scanner, ``scan_seed`` the scan: a group scanned on one scanner shares ``seed``, and each of its
    scans has its own ``scan_seed``, from which come the shape of the bias field and the noise. By default, curves
    and noise follow each scan's own intensities, as in the paper. If the group is in one common unit, give the
    same ``top`` and ``level`` for all: then one scanner is exactly one curve and one noise level.

    Args:
        image: Intensities, shape ``(X, Y, Z)``; exact zeros are background and stay zero.
        mask: Brain, same shape.
        spacing: Voxel size, mm, three numbers.
        domain: A name in ``DOMAINS``.
        labels: 0 none, 1 CSF, 2 grey, 3 white matter, same shape.
        seed: The scanner.
        scan_seed: The scan.
        top: Intensity that the monotone curves call 1; the scan's maximum in the mask if None.
        level: White-matter-like intensity that noise refers to; the 90th percentile in the mask if None.
        slice_axis: The array axis closest to inferior-superior.
        changed: Settings of the scanner that are to be others than those of its seed.

    Raises:
        UsageError: If there is no such domain, it needs labels, or an option is out of range.
        InputError: If labels do not fit the scan.
        PreprocessingError: If no brain voxel is above zero.

    Example:
        >>> scan = np.arange(64.0).reshape(4, 4, 4)
        >>> made = simulate(scan, scan > 0, (1, 1, 1), "gamma1.5")
        >>> made.image.max(), made.found
        (np.float32(63.0), {'Top': 63.0})
    """
    chosen = _domain(domain)
    if chosen.needs_labels and labels is None:
        raise UsageError(
            f"the domain '{domain}' changes tissues and needs to know them",
            remedy="give --labels, a file with 1 CSF, 2 gray and 3 white matter on the scan's grid",
        )
    for name, value in (("top", top), ("level", level)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{name} is {value:g}", remedy="give an intensity above zero")
    scan = np.asarray(image, dtype=np.float64)
    if mask.shape != scan.shape or not (scan[mask] > 0).any():
        raise PreprocessingError("no voxel of the brain is positive", remedy="check the mask")
    x, y, z = (float(s) for s in spacing)
    tissues = None if labels is None else _tissues(np.asarray(labels), scan.shape)
    view = View(scan, mask, (x, y, z), tissues, slice_axis, top, level)
    settings = draw_scanner(domain, seed) | dict(changed or {})
    made, found = chosen.make(view, settings, _generator(_SCAN, seed, scan_seed))
    return Simulated(np.where(view.data, made, 0.0).astype(np.float32), domain, settings, found)


def _domain(name: str) -> Domain:
    if name not in DOMAINS:
        raise UsageError(f"there is no domain '{name}'", remedy=f"choose one of {', '.join(DOMAINS)}")
    return DOMAINS[name]


def _generator(*words: int) -> np.random.Generator:
    if min(words) < 0:
        raise UsageError("a seed is negative", remedy="give a whole number from 0 on")
    return np.random.default_rng(list(words))


def _tissues(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if labels.shape != shape:
        raise InputError(
            f"the labels have {labels.shape} voxels, the scan {shape}", remedy="give labels on the scan's own grid"
        )
    odd = np.setdiff1d(labels, [0, 1, 2, 3])
    if odd.size:
        raise InputError(
            f"the labels hold {odd[0]:g}, not only 0 to 3", remedy="give labels 1 CSF, 2 gray, 3 white matter"
        )
    return labels.astype(np.uint8)


def simulate_volume(
    scan: Volume,
    domain: str,
    *,
    mask: NDArray[np.bool_] | None = None,
    labels: NDArray[np.generic] | None = None,
    seed: int = 0,
    scan_seed: int = 0,
    top: float | None = None,
) -> Simulated:
    """As :func:`simulate`, with voxel size, slice axis and mask from the scan.

    Without a mask, the brain of a stripped scan is its foreground, and that of a whole head is found by the
    included network. The mask only says where to measure; the head outside is changed as well.

    Args:
        scan: The scan.
        domain: A name in ``DOMAINS``.
        mask: Brain on the scan's grid.
        labels: 0 none, 1 CSF, 2 grey, 3 white matter, on the scan's grid.
        seed: The scanner.
        scan_seed: The scan.
        top: Intensity that the monotone curves call 1.

    Raises:
        BlindHarmonyError: As ``simulate``; or if no brain is found.
    """
    i, j, k = scan.spacing.tolist()
    return simulate(
        scan.data,
        brain_of(scan) if mask is None else mask,
        (i, j, k),
        domain,
        labels=labels,
        seed=seed,
        scan_seed=scan_seed,
        top=top,
        slice_axis=slice_axis(scan),
    )


def brain_of(scan: Volume) -> NDArray[np.bool_]:
    """The brain's voxels, in the scan's own axes: foreground of a stripped scan, else found by the network.

    Raises:
        PreprocessingError: If none is found.
    """
    native, reorient, extract = Scan(scan.data, scan.affine), Reorient(), ExtractBrain()
    orientation = reorient.estimate(native)
    upright = reorient.apply(native, orientation)
    masked = extract.apply(upright, extract.estimate(upright))
    brain = reorient.undo(masked, orientation, native).mask
    assert brain is not None
    return np.asarray(brain)


def slice_axis(scan: Volume) -> int:
    """The array axis closest to inferior-superior.

    Example:
        >>> slice_axis(read_volume(np.eye(256).reshape(16, 64, 64), affine=np.eye(4)[[2, 0, 1, 3]]))
        1
    """
    axes: NDArray[np.float64] = orientations.io_orientation(scan.affine)
    return int(np.flatnonzero(axes[:, 0] == 2)[0])


def read_brain(path: Path, scan: Volume) -> NDArray[np.bool_]:
    """A mask file, checked to lie on the scan.

    Raises:
        InputError: If it cannot be read or lies elsewhere.
    """
    try:
        return mask_on(read_mask(path), Scan(scan.data, scan.affine))
    except InputError as error:
        raise InputError(error.what, remedy=error.remedy, path=path) from error


def read_labels(path: Path, scan: Volume) -> NDArray[np.float32]:
    """A label file, checked to lie on the scan.

    Raises:
        InputError: If it cannot be read or lies elsewhere.
    """
    volume = read_volume(path)
    try:
        check_grid(Scan(volume.data, volume.affine), Scan(scan.data, scan.affine))
    except InputError as error:
        raise InputError(
            error.what.replace("the mask", "the label file"), remedy="give labels on the scan's own grid", path=path
        ) from error
    return volume.data
