"""Normalizing flows for 2-D and 3-D images: exact densities, exact inverses.

:class:`Pyramid` is the density of a whole head, one :class:`LevelFlow` for each resolution. :class:`MultiScaleFlow`
is the published flow of slices, and rivals. See :mod:`blindharmony.flows.bijection` for what every layer promises;
``x → z`` is the fast, differentiated direction.
"""

from blindharmony.flows.bijection import Bijection, Condition
from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec, glow_3d, published_2d, small_2d
from blindharmony.flows.pyramid import LevelFlow, Pyramid, PyramidSpec

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
