r"""A target scan as random other scanners might show it, for a network that shall undo any of them.

.. math:: y = \bigl|\,k * \bigl(e^{b}\,[(1 - w)\, c_1(x) + w\, c_2(x)]\bigr) + n\,\bigr|

:math:`c_1, c_2` increasing curves, :math:`w` a smooth weight between them, so that contrast differs from place to place
and order is not kept; :math:`b` a smooth log bias field; :math:`k, n` blur, thick slices and noise. All are drawn,
wider than real scanners differ, and none is taken from a scanner that a system will be judged on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.training.random_scanner import Image, Mask, spoil

_TOP = 2.0  # what the curves call 1, flow units: above every tissue
_GAMMA, _BUMP, _APART, _FIELD = (0.6, 1.7), 0.3, 0.25, 0.3
_OFTEN = 0.5


def random_scan(image: Image, mask: Mask, rng: np.random.Generator) -> Image:
    """The scan on a random scanner, rms 1 in the mask, zero outside.

    Args:
        image: Target scan, flow units.
        mask: Brain.
        rng: Source of randomness.
    """
    power, bump = np.exp(rng.uniform(*np.log(_GAMMA))), rng.uniform(-_BUMP, _BUMP)
    seen = _curve(image, power, bump)
    if rng.random() < _OFTEN:
        other = _curve(image, power * np.exp(rng.uniform(-_APART, _APART)), bump + rng.uniform(-_BUMP, _BUMP) / 2)
        seen += (0.5 + 0.5 * smooth_field(image.shape, rng)) * (other - seen)
    if rng.random() < _OFTEN:
        seen *= np.exp(rng.uniform(0, _FIELD) * smooth_field(image.shape, rng))
    seen = _unit(np.where(mask, seen, 0).astype(np.float32), mask)
    return _unit(spoil(seen, mask, rng), mask)


def smooth_field(shape: tuple[int, ...], rng: np.random.Generator, waves: int = 3) -> NDArray[np.float32]:
    """A random smooth field with values in [-1, 1]: products of the first cosines along each axis.

    Example:
        >>> field = smooth_field((8, 9, 10), np.random.default_rng(0))
        >>> field.shape, float(np.abs(field).max())
        ((8, 9, 10), 1.0)
    """
    k = np.arange(waves)
    weights = rng.normal(size=(waves,) * 3) / (1.0 + k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    weights[0, 0, 0] = 0
    x, y, z = (np.cos(np.pi * k[:, None] * (np.arange(n) + 0.5) / n) for n in shape)
    field = np.einsum("abc,ax,by,cz->xyz", weights, x, y, z, optimize=True)
    return np.asarray(field / max(float(np.abs(field).max()), 1e-12), np.float32)


def _curve(image: Image, power: float, bump: float) -> Image:
    share = np.clip(image / _TOP, 0, 1)
    # The sine bends the middle without leaving [0, 1] or turning back: its slope is at least 1 - bump.
    bent = share + bump * np.sin(2 * np.pi * share) / (2 * np.pi)
    return np.asarray(_TOP * bent**power, np.float32)


def _unit(image: Image, mask: Mask) -> Image:
    level = float(np.sqrt(np.mean(np.square(image[mask], dtype=np.float64))))
    return image / np.float32(max(level, 1e-6))
