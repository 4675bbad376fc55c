"""White matter in a segmentation against the manual one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WHITE = 3


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    r"""Overlap :math:`2 |A \cap B| / (|A| + |B|)`, 0…1; NaN if both are empty.

    Example:
        >>> dice(np.array([True, True, False]), np.array([True, False, False])) == 2 / 3
        True
    """
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else float("nan")


def volume_error(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """How much larger the found volume is than the true one, %."""
    size = int(truth.sum())
    return 100 * (int(found.sum()) - size) / size if size else float("nan")


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Dice and volume error; ``volume`` is the error's size, ``volume_signed`` with its sign (%)."""
    signed = volume_error(found, truth)
    return {"dice": dice(found, truth), "volume": abs(signed), "volume_signed": signed}
