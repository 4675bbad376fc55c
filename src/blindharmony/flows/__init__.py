"""Normalizing flows for 2-D and 3-D images: exact densities, exact inverses.

:class:`Pyramid` is the density of a whole head, one :class:`LevelFlow` for each resolution. :class:`MultiScaleFlow`
is the published flow of slices, and rivals. Both, and every layer of both, are a :class:`Bijection`:
``to_latent(x, condition)`` and ``to_image(z, condition)``. Read :mod:`~blindharmony.flows.bijection` (the contract),
:mod:`~blindharmony.flows.couplings`, :mod:`~blindharmony.flows.transforms` (the other layers),
:mod:`~blindharmony.flows.networks`, then a flow: :mod:`~blindharmony.flows.pyramid` or
:mod:`~blindharmony.flows.glow`.
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
