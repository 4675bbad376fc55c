"""A given image with its fine details drawn anew: what the coarse levels of a pyramid leave open."""

from __future__ import annotations

import torch
from torch import Tensor

from blindharmony.flow.haar import haar_merge
from blindharmony.flow.level import LevelFlow
from blindharmony.flow.pyramid import Pyramid


@torch.no_grad()
def redraw(
    flow: Pyramid,
    x: Tensor,
    mask: Tensor,
    *,
    levels: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw the finest details of an image from :math:`p(d_1, \dots, d_k \mid c_k)` and keep the rest.

    Args:
        flow: The density.
        x: Image ``(B, 1, *flow.spec.shape)``, flow units.
        mask: Bool, same shape.
        levels: How many levels are drawn, finest first; 0 gives the image back.
        temperature: Standard deviation of the latents.
        generator: Source of randomness, on the CPU; equal states give equal images.

    Returns:
        An image like ``x``, zero outside the mask.

    Example:
        >>> from blindharmony.flow.pyramid import PyramidSpec
        >>> spec = PyramidSpec(shape=(8, 8, 8), widths=(4, 4), blocks=0, bins=4)
        >>> flow = Pyramid(spec, torch.rand(8, 8, 8)).eval()
        >>> x, mask = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8) > 0.2
        >>> bool(torch.allclose(redraw(flow, x, mask, levels=0), x * mask, atol=1e-6))
        True
    """
    parts = flow.split(x, mask)
    masks = [mask, *(part.coarse_mask for part in parts)]
    image = parts[levels - 1].coarse if levels else x.where(mask, 0.0)
    for k in reversed(range(levels)):
        level = parts[k]._replace(coarse=image)
        noise = temperature * torch.randn(level.detail.shape, generator=generator).to(level.detail)
        own: LevelFlow = flow.levels[k]  # type: ignore[assignment]
        detail, _ = own.to_image(noise, flow.context(k, level), level.detail_mask)
        image = haar_merge(level._replace(detail=detail), masks[k])
    return image
