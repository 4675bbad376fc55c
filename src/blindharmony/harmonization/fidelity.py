"""The published distance: how far an image is from showing the same head as the source."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Correlation = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def ncc(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Tell how nearly one image is a linear function of the other: their normalized cross-correlation.

    .. math:: \mathrm{NCC}(x, y) = \frac{\langle x - \bar x,\, y - \bar y\rangle}
        {\lVert x - \bar x\rVert\,\lVert y - \bar y\rVert}

    No gain (of either sign, up to the sign of the answer) and no offset changes it.

    Source: Jeong et al. 2023 (BlindHarmony), section 3.

    Args:
        x: ``(B, C, *space)``, any unit.
        y: Images of the same shape, any unit.
        mask: Places that count, broadcastable to ``x``; ``None`` means all.

    Returns:
        ``(B,)`` in [−1, 1]; 0, with zero gradient, where an image is flat.

    Example:
        >>> x = torch.randn(2, 1, 5, 6)
        >>> [round(r, 5) for r in ncc(x, 3 - 2 * x).tolist()]
        [-1.0, -1.0]
    """
    return cosine(centred(x, mask), centred(y, mask), mask)


def centred(x: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Take the mean off each image.

    .. math:: x - \bar x

    Args:
        x: ``(B, C, *space)``.
        mask: Places the mean is taken over, broadcastable to ``x``; ``None`` means all.

    Returns:
        A tensor like ``x``; exactly zero where an image is flat but for rounding.

    Example:
        >>> centred(torch.tensor([[[1.0, 3.0]]])).tolist()
        [[[-1.0, 1.0]]]
    """
    weight = torch.ones_like(x) if mask is None else mask.to(x.dtype).expand_as(x)

    def total(values: Tensor) -> Tensor:
        return (values * weight).flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))

    rest = x - total(x) / total(torch.ones_like(x)).clamp_min(1)
    # What rounding leaves of a flat image is not a direction.
    flat = total(rest.square()) <= (4 * torch.finfo(x.dtype).eps) ** 2 * total(x.square())
    return torch.where(flat, 0.0, rest)


def cosine(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Tell how nearly one image is a multiple of the other: the cosine of the angle between them.

    .. math:: \cos(x, y) = \langle x, y\rangle \,/\, (\lVert x\rVert\,\lVert y\rVert)

    The published program uses it in place of :func:`ncc`; unlike that, an offset changes it.

    Source: the settings of the published program, second version (2023).

    Args:
        x: ``(B, C, *space)``, any unit.
        y: Images of the same shape, any unit.
        mask: Places that count, broadcastable to ``x``; ``None`` means all.

    Returns:
        ``(B,)`` in [−1, 1]; 0, with zero gradient, where an image is zero.

    Example:
        >>> cosine(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])).tolist()
        [0.9599999785423279]
    """
    if mask is not None:
        x, y = x * mask, y * mask
    x, y = x.flatten(1), y.flatten(1)
    powers = x.square().sum(1), y.square().sum(1)
    some = (powers[0] > 0) & (powers[1] > 0)
    # Twice `where`: the branch not taken must not send NaN into the gradient.
    norms = [torch.where(some, power, 1.0).sqrt() for power in powers]
    return torch.where(some, (x * y).sum(1) / (norms[0] * norms[1]), 0.0)


def sobel(x: Tensor) -> Tensor:
    r"""Differentiate an image along each axis, smoothed along the others.

    .. math:: G_k x = (-1, 0, 1)_k * \prod_{j \ne k} (1, 2, 1)_j * x

    A ramp of slope 1 gives 8 in two dimensions and 32 in three. Borders repeat, so that a flat image gives 0.

    Source: Sobel & Feldman 1968; unnormalised, as in the published method.

    Args:
        x: ``(B, 1, *space)`` with two or three spatial axes.

    Returns:
        ``(B, ndim, *space)``, one derivative an axis.

    Example:
        >>> ramp = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 4)
        >>> sobel(ramp)[0, :, 2, 2].tolist()
        [8.0, 0.0]
    """
    wide, derivatives = F.pad(x, [1, 1] * (x.ndim - 2), mode="replicate"), []
    # Shifted copies, not a convolution of one channel: faster on a processor.
    for along in range(2, x.ndim):
        slope = wide
        for axis in range(2, x.ndim):
            before, here, after = (slope.narrow(axis, start, x.shape[axis]) for start in range(3))
            slope = after - before if axis == along else before + after + 2 * here
        derivatives.append(slope)
    return torch.cat(derivatives, 1)


def non_edge_mask(
    source: Tensor, quantile: float = 0.3, foreground: Tensor | None = None, *, dark_share: float = 0.05
) -> Tensor:
    r"""Mark the flat places of the source, where a harmonized image may show no edge: M.

    .. math:: M_k = 1 \iff \lvert G_k x_s\rvert \le Q_q(\lvert G_k x_s\rvert \text{ in the foreground})

    for each axis k. Named deviation: the published quantile is taken over the whole slice, background too,
    and places strictly below it count. On a skull-stripped slice with more than 30 % background it is 0 and
    the mask is empty. ``foreground=None`` gives that rule, which leaves out values below ``dark_share`` of the largest.

    Source: Jeong et al. 2023 (BlindHarmony), section 3; settings of the published program, second version.

    Args:
        source: ``(B, 1, *space)``, any unit.
        quantile: Share of places that count as flat.
        foreground: Places that may count, same shape; ``None`` for the published rule.
        dark_share: Share of the brightest value, for the published rule.

    Returns:
        Boolean, ``(B, ndim, *space)``; empty where there is no foreground.

    Raises:
        ValueError: If ``quantile`` is not between 0 and 1.

    Example:
        >>> source = torch.zeros(1, 1, 8, 8)
        >>> source[..., 2:6, 2:6] = torch.rand(4, 4)
        >>> inside = source > 0
        >>> bool(non_edge_mask(source).any()), bool(non_edge_mask(source, foreground=inside).any())
        (False, True)
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"the quantile must be between 0 and 1, got {quantile}")
    slope = sobel(source).abs()
    allowed = source > dark_share * source.flatten(1).amax(1).view(-1, *[1] * (source.ndim - 1))
    counted = torch.ones_like(allowed)
    if foreground is not None:
        allowed = counted = foreground != 0
    flat = torch.zeros_like(slope, dtype=torch.bool)
    for image in range(len(source)):
        for axis in range(slope.shape[1]):
            here = slope[image, axis]
            values = here[counted[image, 0]]
            if len(values) == 0:
                continue
            # torch.quantile refuses more than 2²⁴ values, fewer than a volume may have.
            limit = values.kthvalue(1 + round(quantile * (len(values) - 1))).values
            below = here < limit if foreground is None else here <= limit
            flat[image, axis] = below & allowed[image, 0]
    return flat


def non_edge_l1(x: Tensor, flat: Tensor) -> Tensor:
    r"""Add up the edges of an image at places where the source is flat.

    .. math:: \lVert M\,G\,x\rVert_1

    Source: Jeong et al. 2023 (BlindHarmony), section 3.

    Args:
        x: ``(B, 1, *space)``.
        flat: M of :func:`non_edge_mask`.

    Returns:
        ``(B,)`` in the unit of ``x``.

    Example:
        >>> x = torch.rand(1, 1, 6, 6)
        >>> non_edge_l1(x, non_edge_mask(x, 0.0, torch.ones_like(x))).item() < sobel(x).abs().sum().item()
        True
    """
    return (sobel(x) * flat).abs().flatten(1).sum(1)


def distance(
    x: Tensor,
    source: Tensor,
    flat: Tensor,
    beta1: float | Tensor,
    beta2: float,
    *,
    mask: Tensor | None = None,
    correlation: Correlation = ncc,
) -> Tensor:
    r"""Tell how far an image is from correlating with the source without edges of its own: D.

    .. math:: D(x, x_s) = \beta_1\,\{1 - \mathrm{NCC}(x, x_s)\} + \beta_2\,\lVert M\,G\,x\rVert_1

    Source: Jeong et al. 2023 (BlindHarmony), section 3.

    Args:
        x: ``(B, 1, *space)``; differentiate with respect to it.
        source: The source, same shape, any unit.
        flat: M of :func:`non_edge_mask`, of the source.
        beta1: Weight of the correlation, one number or one for each image.
        beta2: Weight of the edges, per unit of ``x``.
        mask: Places that count for the correlation.
        correlation: :func:`ncc` or :func:`cosine`.

    Returns:
        ``(B,)``.

    Example:
        >>> x = torch.rand(1, 1, 6, 6)
        >>> nothing = torch.zeros(1, 2, 6, 6)
        >>> abs(distance(2 * x + 1, x, nothing, 1000.0, 0.001).item()) < 0.01
        True
    """
    return beta1 * (1 - correlation(x, source, mask)) + beta2 * non_edge_l1(x, flat)
