"""A scan file through a simulated scanner, in its own space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from blindharmony.errors import InputError
from blindharmony.image import Volume, read_volume
from blindharmony.prep.mask import BrainMask, check_grid, read_mask
from blindharmony.prep.orient import Orient
from blindharmony.prep.step import Scan
from blindharmony.simulation.simulate import Simulated, simulate


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
    """As :func:`~blindharmony.simulation.simulate.simulate`, with voxel size, slice axis and mask from the scan.

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
    native, orient, find = Scan(scan.data, scan.affine), Orient(), BrainMask()
    turn = orient.params(native)
    upright = orient.apply(native, turn)
    found = find.apply(upright, find.params(upright))
    back = orient.undo(found, turn, native).mask
    assert back is not None
    return np.asarray(back)


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
        found = read_mask(path)
        check_grid(found, Scan(scan.data, scan.affine))
    except InputError as error:
        raise InputError(error.what, remedy=error.remedy, path=path) from error
    return found.inside()


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
