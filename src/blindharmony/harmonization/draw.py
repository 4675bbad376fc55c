"""Heads that a target's flow makes up: what it has learnt, to be looked at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from blindharmony.errors import TargetError
from blindharmony.flow.pyramid import Pyramid
from blindharmony.flow.redraw import redraw
from blindharmony.harmonization.typicality import reduced
from blindharmony.target import Target

Image = NDArray[np.float32]


def drawn_heads(target: Target, *, temperature: float = 1.0, number: int = 1, seed: int = 0) -> Image:
    """Draw heads inside the brain that at least half of the training masks cover.

    Args:
        target: With a whole-volume flow.
        temperature: Standard deviation of the latents: 1 is what the flow believes, less is nearer to the usual.
        number: How many.
        seed: Head ``i`` is the same at every temperature but for the size of what is random about it, and no head of
            another seed.

    Returns:
        Flow units, the template grid at 2 mm, shape ``(number, 80, 96, 80)``, zero outside.

    Raises:
        TargetError: If the target has no whole-volume flow.
    """
    flow = pyramid_of(target)
    mask = torch.from_numpy(target.coverage > 0.5)[None, None]
    heads = []
    for index in range(number):
        # Neighbouring seeds would share heads if the two were added.
        own = int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(own)
        with torch.inference_mode():
            heads.append(flow.sample(mask, temperature=temperature, generator=generator)[0, 0].numpy())
    return np.stack(heads)


def redrawn(
    target: Target, image: Image, mask: NDArray[np.bool_], *, temperature: float = 1.0, seed: int = 0
) -> list[Image]:
    """A head at 2 mm, then with the finest level drawn anew, then the two finest, and so on to all details.

    Args:
        target: With a whole-volume flow.
        image: Template grid at 1 mm, flow units.
        mask: Brain.
        temperature: Standard deviation of the latents.
        seed: Of what is drawn.

    Returns:
        One image more than the flow has levels of detail, each ``(80, 96, 80)``.

    Raises:
        TargetError: If the target has no whole-volume flow.
    """
    flow = pyramid_of(target)
    x, inside = reduced(image, mask & target.fit_region, 1)
    found = []
    for levels in range(len(flow.levels) + 1):
        generator = torch.Generator().manual_seed(seed)
        found.append(redraw(flow, x, inside, levels=levels, temperature=temperature, generator=generator)[0, 0].numpy())
    return found


def pyramid_of(target: Target) -> Pyramid:
    """The target's whole-volume flow.

    Raises:
        TargetError: If it has none.
    """
    if target.pyramid is None:
        raise TargetError(
            f"the target '{target.info.name}' has no whole-volume flow to draw from",
            remedy="train one with 'blindharmony train'",
        )
    return target.pyramid
