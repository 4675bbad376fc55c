"""How large the scans of a cohort are, and what that costs in memory and disk."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

# Measured: 1.4 GB for 15 million voxels, 3.0 GB for a whole head of 30 million (0.7 mm).
_BASE_GB, _GB_A_VOXEL, _LEAST_GB = 1.0, 7e-8, 2.0
# Kept of a prepared scan: its mask, its bias field, and the fields of two more looks.
_KEPT_BYTES = 1 + 3 * 4


def largest(paths: Iterable[Path]) -> int:
    """Voxels of the largest scan, by the headers; what cannot be read counts nothing here."""
    return max((_voxels(path) for path in paths), default=0)


def memory_gb(voxels: int) -> float:
    """What a worker needs for a scan of so many voxels.

    Example:
        >>> [round(memory_gb(int(millions * 1e6)), 1) for millions in (5, 15, 30, 75)]
        [2.0, 2.0, 3.1, 6.2]
    """
    return max(_LEAST_GB, _BASE_GB + _GB_A_VOXEL * voxels)


def kept_gb(voxels: int) -> float:
    """Disk that a prepared scan takes at most while its group is fitted.

    Example:
        >>> round(kept_gb(256 * 256 * 176), 2)
        0.15
    """
    return _KEPT_BYTES * max(voxels, 1) / 1e9


def _voxels(path: Path) -> int:
    import nibabel as nib  # late: options are checked before anything slow is read

    from blindharmony.image.declared import check_header

    try:
        check_header(path)  # a header of a stranger may ask for any amount of memory
        image: Any = nib.load(path)
        return prod(int(n) for n in image.shape)
    except Exception:  # a damaged scan has its own message when its turn comes
        return 0
