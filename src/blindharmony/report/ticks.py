"""Round numbers along an axis."""

from __future__ import annotations

import math


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within ``[low, high]``, at most ``most`` of them.

    Example:
        >>> ticks(0.0, 1730.0)
        [0.0, 500.0, 1000.0, 1500.0]
        >>> ticks(1.0, 1.0)
        [1.0]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(k * step, 12) for k in range(first, last + 1)]
