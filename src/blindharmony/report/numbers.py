"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def number(value: float) -> str:
    """Four significant digits, a minus sign proper, thousands apart.

    Example:
        >>> number(12345.678).split(), number(-0.012346), number(3.0), number(2e-9)
        (['12', '346'], '−0.01235', '3', '2e−09')
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "−∞" if value < 0 else "∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        text = f"{value:.3g}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}".replace(",", "\u202f")  # narrow, and no line breaks at it
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−")


def plain(value: Any) -> str:
    """Any recorded value as one short text.

    Example:
        >>> plain([1.0, 2.5]), plain({"a": 1}), plain(True), plain("N4")
        ('1, 2.5', 'a 1', 'yes', 'N4')
    """
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | float | np.number):
        return number(float(value))
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return "; ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        # Rows of a matrix stay apart from each other.
        nested = any(isinstance(entry, list | tuple) for entry in value)
        return (" | " if nested else ", ").join(plain(entry) for entry in value)
    return "none" if value is None else str(value)
