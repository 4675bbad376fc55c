"""Normalizing flows for 2-D and 3-D images: exact densities, exact inverses.

``x → z`` is the fast, differentiated direction; see :mod:`blindharmony.flow.bijection` for what
every layer promises, and :class:`MultiScaleFlow` for the density of a whole image.
"""

from blindharmony.flow.bijection import Bijection, Condition
from blindharmony.flow.multiscale import MultiScaleFlow
from blindharmony.flow.presets import glow_3d, published_2d, small_2d
from blindharmony.flow.spec import MultiScaleSpec

__all__ = [
    "Bijection",
    "Condition",
    "MultiScaleFlow",
    "MultiScaleSpec",
    "glow_3d",
    "published_2d",
    "small_2d",
]
