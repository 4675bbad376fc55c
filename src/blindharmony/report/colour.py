"""One diverging colour scale: dark where nothing changed, blue below, orange above."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Blue and orange stay apart in every common form of colour blindness; black is the surrounding air.
_SHARES = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
_COLOURS = np.array([[176, 224, 255], [38, 110, 214], [16, 16, 20], [204, 92, 18], [255, 226, 160]], np.float64)


def diverging(values: NDArray[np.floating[Any]], limit: float) -> NDArray[np.uint8]:
    """Colour each value between ``-limit`` and ``limit``.

    Args:
        values: Any shape.
        limit: Value at the ends of the scale, positive.

    Returns:
        RGB, shape ``(*values.shape, 3)``.

    Example:
        >>> diverging(np.array([-9.0, 0.0, 9.0]), 1.0).tolist()
        [[176, 224, 255], [16, 16, 20], [255, 226, 160]]
    """
    share = np.clip(np.nan_to_num(values) / limit, -1, 1)
    channels = [np.interp(share, _SHARES, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def gradient() -> str:
    """The same scale, left to right, as a CSS image.

    Example:
        >>> gradient()[:37]
        'linear-gradient(90deg,rgb(176 224 255'
    """
    stops = ",".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in _COLOURS.tolist())
    return f"linear-gradient(90deg,{stops})"
