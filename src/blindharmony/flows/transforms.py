r"""The other layers: norms, mixing of channels, and the two ways to another resolution.

:class:`ActNorm` and :class:`Mixing` prepare channels for a coupling (:mod:`blindharmony.flows.couplings`).
:class:`Squeeze` folds neighbouring places into channels: the published flow. :func:`haar_split` and
:func:`haar_merge` turn a masked volume into a coarse image and details: the pyramid.

Haar pyramid. Neighbours are split in pairs, axis by axis: :math:`s = (a + b)/2,\; d = a - b`. Where only one of a pair
lies inside the mask, :math:`s` is that one and there is no :math:`d`. Three axes make one level: a coarse image of half
the resolution and seven detail channels, each with its own mask. Nothing outside the mask is invented and nothing
inside is lost: every voxel inside the mask becomes exactly one number. So a density of the coefficients is a density of
the voxels; each pair split has :math:`|\det| = 1`.

Source: Kingma & Dhariwal 2018 (Glow); lifting form of the Haar transform, Sweldens 1998; flows on it, Yu et al. 2020
(Wavelet Flow).
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blindharmony.flows.bijection import (
    LOG_SCALE_CAP,
    NOTHING,
    Bijection,
    Condition,
    bounded,
    full_precision,
    keep_outside,
    no_change,
    places,
    unbounded,
    visible,
)

#: A channel may be stretched by at most e⁵ ≈ 148: enough for a nearly constant one.
CAP = 5.0


class ActNorm(Bijection[Tensor]):
    r"""Give every channel mean 0 and variance 1 at the start, then learn scale and shift.

    .. math:: z_c = (x_c + b_c)\,e^{s_c}, \qquad
        \log|\det| = N \sum_c s_c, \qquad s_c = 5\tanh(r_c / 5)

    with :math:`N` the number of places that exist. The first batch seen in training mode sets
    :math:`b` and :math:`s`; call :meth:`initialise` to choose that batch, for instance before the
    module is wrapped for several processes. Until then the map is the identity.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.1.

    Args:
        channels: Number of channels of ``x``, shape ``(B, channels, *space)``.

    Example:
        >>> norm, x = ActNorm(3), 2 + 3 * torch.randn(4, 3, 8, 8)
        >>> norm.initialise(x)
        >>> round(norm.to_latent(x)[0].std().item(), 2)
        1.0
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.raw_log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))
        # The buffer travels with the weights; its copy in Python spares a device sync at every step.
        self._ready = False

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Condition = NOTHING) -> None:
        """Set scale and shift from the places of ``x`` that exist.

        Args:
            x: A batch, shape ``(B, C, *space)``.
            cond: Its condition; only the mask matters.

        Raises:
            ValueError: If no place exists.
        """
        if x.numel() == 0:
            raise ValueError("ActNorm cannot start from an empty batch")
        count = places(x, cond).sum()
        if count == 0:
            raise ValueError("ActNorm cannot start from a batch whose mask is empty")
        axes = [0, *range(2, x.ndim)]
        mean = visible(x, cond).sum(axes) / count
        centred = visible(x - mean.view(1, -1, *[1] * (x.ndim - 2)), cond)
        deviation = (centred.square().sum(axes) / count).sqrt().clamp_min(1e-6)
        self.shift.copy_(-mean)
        self.raw_log_scale.copy_(unbounded(-deviation.log(), CAP))
        self.initialised.fill_(True)
        self._ready = True

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return bounded(self.raw_log_scale, CAP).view(shape), self.shift.view(shape)

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|; in training mode the first call starts the layer."""
        if self.training and not self._ready:
            self.initialise(x, cond)
        with full_precision(x):
            log_scale, shift = self._scale_and_shift(x)
            z = keep_outside((x + shift) * log_scale.exp(), x, cond)
            return z, places(x, cond) * log_scale.sum()

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        with full_precision(z):
            log_scale, shift = self._scale_and_shift(z)
            x = keep_outside(z * (-log_scale).exp() - shift, z, cond)
            return x, -places(z, cond) * log_scale.sum()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = bool(self.initialised)


class Mixing(Bijection[Tensor]):
    r"""Mix channels with one invertible matrix, the same at every place (a 1×1 convolution).

    .. math:: z = W x + b, \quad W = P\,L\,(\operatorname{diag}(e^{s}) + U), \quad
        \log|\det| = N \sum_c s_c, \quad s_c = 2\tanh(r_c / 2)

    :math:`P` is a fixed random permutation, :math:`L` is unit lower and :math:`U` strictly upper
    triangular, :math:`N` the number of places that exist. A new layer is a shuffle of channels. The
    capped diagonal keeps the matrix invertible; its inverse comes from two triangular solves.

    Source: Kingma & Dhariwal 2018 (Glow), equations 9 to 11.

    Args:
        channels: Number of channels of ``x``, shape ``(B, channels, *space)``.
        bias: Whether to add a learned :math:`b`.
        generator: Source of randomness for the permutation.

    Example:
        >>> layer, x = Mixing(4), torch.randn(1, 4, 6, 6)
        >>> torch.allclose(layer.to_image(layer.to_latent(x)[0])[0], x)
        True
    """

    permutation: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, channels: int, *, bias: bool = True, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.channels = channels
        entries = channels * (channels - 1) // 2
        self.lower = nn.Parameter(torch.zeros(entries))
        self.upper = nn.Parameter(torch.zeros(entries))
        self.raw_log_diagonal = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        # Made here and moved: for a device without memory torch would load its compiler.
        permutation = torch.randperm(channels, generator=generator, device="cpu")
        rows, columns = torch.tril_indices(channels, channels, offset=-1, device="cpu").to(self.lower.device)
        self.register_buffer("permutation", permutation.to(self.lower.device))
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        log_diagonal = bounded(self.raw_log_diagonal, LOG_SCALE_CAP)
        zeros = torch.zeros_like(log_diagonal).expand(self.channels, self.channels)
        lower = torch.eye(self.channels, dtype=zeros.dtype, device=zeros.device)
        lower = lower + zeros.index_put((self.rows, self.columns), self.lower)
        upper = torch.diag(log_diagonal.exp()) + zeros.index_put((self.columns, self.rows), self.upper)
        return lower, upper, log_diagonal

    def matrix(self) -> Tensor:
        """Return W, shape ``(channels, channels)``."""
        lower, upper, _ = self._factors()
        return (lower @ upper)[self.permutation]

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|."""
        with full_precision(x):
            lower, upper, log_diagonal = self._factors()
            z = _apply((lower @ upper)[self.permutation], x)
            if self.bias is not None:
                z = z + self.bias.view(1, -1, *[1] * (x.ndim - 2))
            return keep_outside(z, x, cond), places(x, cond) * log_diagonal.sum()

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|."""
        with full_precision(z):
            lower, upper, log_diagonal = self._factors()
            # Solving once for the small inverse is exact enough and far cheaper than at every place.
            identity = torch.eye(self.channels, dtype=lower.dtype, device=lower.device)
            inverse = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
            inverse = torch.linalg.solve_triangular(upper, inverse, upper=True)[:, self.permutation]
            centred = z if self.bias is None else z - self.bias.view(1, -1, *[1] * (z.ndim - 2))
            x = _apply(inverse, centred)
            return keep_outside(x, z, cond), -places(z, cond) * log_diagonal.sum()


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix.to(x.dtype) @ x.flatten(2)).reshape(x.shape)


class Squeeze(Bijection[Tensor]):
    r"""Halve every spatial axis by moving each 2×2(×2) block into the channels.

    .. math:: z_{c\,2^n + o}(p) = x_c(2p + o), \qquad \log|\det| = 0

    where :math:`o` counts through the :math:`2^n` corners of a block. A squeezed place exists only
    when all its parts do; the context is averaged over the block.

    Source: Dinh et al. 2017 (Real NVP), section 3.6.

    Args:
        ndim: Number of spatial axes, 2 or 3.

    Raises:
        ValueError: On use, if an axis of the image has an odd size.

    Example:
        >>> import torch
        >>> Squeeze(3).to_latent(torch.zeros(1, 2, 4, 6, 8))[0].shape
        torch.Size([1, 16, 2, 3, 4])
    """

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.ndim = ndim

    def to_latent(self, x: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return z of shape ``(B, C·2ⁿ, *space/2)`` and zeros."""
        return self.fold(x), no_change(x)

    def to_image(self, z: Tensor, cond: Condition = NOTHING) -> tuple[Tensor, Tensor]:
        """Return x of shape ``(B, C, *space)`` and zeros."""
        return self.unfold(z), no_change(z)

    def condition_after(self, cond: Condition) -> Condition:
        """Return the averaged context and the mask of complete blocks."""
        context, mask = cond
        if context is not None:
            pool = F.avg_pool2d if self.ndim == 2 else F.avg_pool3d
            context = pool(context, 2)
        if mask is not None:
            mask = (self.fold(mask) != 0).all(1, keepdim=True).to(mask.dtype)
        return Condition(context, mask)

    def fold(self, x: Tensor) -> Tensor:
        """Move every block into the channels."""
        space = x.shape[2:]
        if len(space) != self.ndim or any(size % 2 for size in space):
            msg = f"cannot squeeze sizes {tuple(space)}: {self.ndim} even ones expected; crop or pad the image"
            raise ValueError(msg)
        halves = list(chain.from_iterable((size // 2, 2) for size in space))
        blocks = x.reshape(*x.shape[:2], *halves)
        corners = [3 + 2 * axis for axis in range(self.ndim)]
        blocks = blocks.permute(0, 1, *corners, *[2 + 2 * axis for axis in range(self.ndim)])
        return blocks.flatten(1, 1 + self.ndim)

    def unfold(self, z: Tensor) -> Tensor:
        """Move the channels back into blocks."""
        parts = 2**self.ndim
        if z.ndim != 2 + self.ndim or z.shape[1] % parts:
            msg = f"cannot unsqueeze {tuple(z.shape)}: {self.ndim} axes and {parts}·n channels expected"
            raise ValueError(msg)
        blocks = z.reshape(len(z), z.shape[1] // parts, *[2] * self.ndim, *z.shape[2:])
        order = chain.from_iterable((2 + self.ndim + axis, 2 + axis) for axis in range(self.ndim))
        blocks = blocks.permute(0, 1, *order)
        return blocks.reshape(*blocks.shape[:2], *(2 * size for size in z.shape[2:]))


class HaarLevel(NamedTuple):
    """One level: ``(B, 1, ...)`` coarse image, ``(B, 7, ...)`` details, and the mask of each (bool)."""

    coarse: Tensor
    coarse_mask: Tensor
    detail: Tensor
    detail_mask: Tensor


def haar_split(x: Tensor, mask: Tensor) -> HaarLevel:
    """Split a volume into a coarse image and details.

    Args:
        x: Volume ``(B, 1, D, H, W)``, every side even.
        mask: Bool ``(B, 1, D, H, W)``.

    Example:
        >>> x, mask = torch.rand(1, 1, 4, 4, 4), torch.rand(1, 1, 4, 4, 4) > 0.4
        >>> level = haar_split(x, mask)
        >>> int(level.coarse_mask.sum() + level.detail_mask.sum()) == int(mask.sum())
        True
        >>> bool(torch.allclose(haar_merge(level, mask), x * mask, atol=1e-6))
        True
    """
    s, s_mask = x.where(mask, 0.0), mask
    detail: list[Tensor] = []
    detail_mask: list[Tensor] = []
    for axis in (2, 3, 4):
        s, s_mask, d, d_mask = _split_pairs(s, s_mask, axis)
        # Later axes halve again: what was found before moves into channels, one for each place in the block.
        detail = [p for t in detail for p in _halves(t, axis)] + [d]
        detail_mask = [p for t in detail_mask for p in _halves(t, axis)] + [d_mask]
    return HaarLevel(s, s_mask, torch.cat(detail, 1), torch.cat(detail_mask, 1))


def haar_merge(level: HaarLevel, mask: Tensor) -> Tensor:
    """The volume of a level, zero outside ``mask``; the inverse of :func:`haar_split`."""
    masks = [mask]
    for axis in (2, 3):
        masks.append(_or_pairs(masks[-1], axis))
    parts = [level.detail[:, c : c + 1] for c in range(level.detail.shape[1])]
    s = level.coarse
    # Undo the axes in reverse; the details of an axis are gathered from its channels as they were spread.
    for axis, fine_mask, count in ((4, masks[2], 1), (3, masks[1], 2), (2, masks[0], 4)):
        taken, parts = parts[-count:], parts[:-count]
        for spread in (4, 3)[: {1: 0, 2: 1, 4: 2}[count]]:
            taken = [_weave(taken[i], taken[i + 1], spread) for i in range(0, len(taken), 2)]
        s = _merge_pairs(s, taken[0], fine_mask, axis)
    return s


def _halves(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    even: list[slice] = [slice(None)] * x.ndim
    odd = list(even)
    even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
    return x[tuple(even)], x[tuple(odd)]


def _weave(a: Tensor, b: Tensor, axis: int) -> Tensor:
    return torch.stack([a, b], axis + 1).flatten(axis, axis + 1)


def _or_pairs(mask: Tensor, axis: int) -> Tensor:
    a, b = _halves(mask, axis)
    return a | b


def _split_pairs(x: Tensor, mask: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b = _halves(x, axis)
    a_in, b_in = _halves(mask, axis)
    both = a_in & b_in
    s = torch.where(both, (a + b) / 2, a + b)  # outside the mask x is zero: the sum is the one that exists
    return s, a_in | b_in, torch.where(both, a - b, 0.0), both


def _merge_pairs(s: Tensor, d: Tensor, mask: Tensor, axis: int) -> Tensor:
    a_in, b_in = _halves(mask, axis)
    both = a_in & b_in
    half = torch.where(both, d / 2, 0.0)
    return _weave((s + half).where(a_in, 0.0), (s - half).where(b_in, 0.0), axis)
