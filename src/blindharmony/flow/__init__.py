"""Normalizing flows for 2-D and 3-D images: exact densities, exact inverses.

:class:`Pyramid` is the density of a whole head, one :class:`LevelFlow` for each resolution. :class:`MultiScaleFlow`
is the published flow of slices, and rivals. See :mod:`blindharmony.flow.bijection` for what every layer promises;
``x → z`` is the fast, differentiated direction.
"""

from blindharmony.flow.bijection import Bijection, Condition
from blindharmony.flow.level import LevelFlow
from blindharmony.flow.multiscale import MultiScaleFlow
from blindharmony.flow.presets import glow_3d, published_2d, small_2d
from blindharmony.flow.pyramid import Pyramid, PyramidSpec
from blindharmony.flow.spec import MultiScaleSpec

__all__ = [
    "Bijection",
    "Condition",
    "LevelFlow",
    "MultiScaleFlow",
    "MultiScaleSpec",
    "Pyramid",
    "PyramidSpec",
    "glow_3d",
    "published_2d",
    "small_2d",
]
