r"""The published BlindHarmony iteration: slice by slice, by turns in image space and in the flow's latent space.

.. math:: \hat z = \arg\min_z D(f^{-1}(z), x_s) + \alpha\lVert z\rVert^2

:func:`harmonize_latent` starts from the target's mean image and lowers the distance D to the source and the length of
the latent in turns. It sees the brain's axial slices through a :class:`SliceWindow`; slices with little brain, at both
ends, get the brightness of the nearest one that was harmonized (:func:`fill_ends`).

Source: Jeong et al. 2023 (BlindHarmony), section 3; the program released with it (August 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from blindharmony.device import on_device
from blindharmony.errors import InputError, UsageError
from blindharmony.flows.glow import MultiScaleFlow
from blindharmony.flows.latent import dequantise, quantise
from blindharmony.harmonization.fidelity import centred, cosine, distance, ncc, non_edge_l1, non_edge_mask
from blindharmony.harmonization.intensity import Estimate
from blindharmony.models.target import Target
from blindharmony.settings import PublishedSettings

#: Flow intensity that becomes 1.0, the upper end of a slice flow's scale. White matter lies near 1.25 where the root
#: mean square is 1, so that only a few vessels and remains of scalp are clipped.
CEILING = 2.0
#: Slices with a smaller share of brain are not trained on, nor harmonized.
LEAST_BRAIN = 0.05


_MEANS = ("ncc", "non_edge", "z2", "objective")


def harmonize_latent(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    target: Target,
    settings: PublishedSettings = PublishedSettings(),
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    r"""Find the image near the centre of the flow's latent space that still shows the source's head.

    .. math:: \hat z = \arg\min_z D(f^{-1}(z), x_s) + \alpha\lVert z\rVert^2

    From the mean target image, each turn steps down the gradient of D, adds dequantisation noise, and shrinks
    the latent: :math:`z = f(x),\ z \leftarrow (1-\alpha) z,\ x = f^{-1}(z)`. A slice whose latent or image is
    not finite keeps its un-flowed image for that turn.

    Named deviations, also with :meth:`PublishedSettings.published`: what lies outside the brain stays zero; the
    fallback keeps single slices, not batches; the mean slice is the one at the same height;
    slices with under 5 % brain take the brightness of their neighbour.

    Source: Jeong et al. 2023 (BlindHarmony), section 3; the settings of the published program.

    Args:
        image: The source on the template grid, flow units, ``(X, Y, Z)``.
        mask: Its brain.
        target: A model with a slice flow.
        settings: Numbers.
        device: Where to compute.
        seed: Of the dequantisation noise.
        progress: Called with turns done and turns in all.

    Returns:
        The image. Its trace has, for each turn, means over slices of ``objective``, ``ncc``, ``non_edge`` and
        ``z2`` = ‖z‖², the relative ``change`` of the volume, and the ``flow_share`` of the way gone.

    Raises:
        UsageError: If the target has no slice flow.
        InputError: If the image is not finite or not of the mask's shape, or no slice shows enough brain.
    """
    if target.slices is None:
        remedy = "choose another method or target"
        raise UsageError(f"the target '{target.info.name}' has no slice flow", remedy=remedy)
    if image.shape != mask.shape or not np.isfinite(image[mask]).all():
        raise InputError("the image is not finite or not as large as its mask", remedy="prepare it first")
    window = SliceWindow.around(mask, target.slices.spec.factor)
    brain = window.cut(mask).to(device)
    source = window.cut(np.where(mask, image, 0)).to(device)
    start = start_slices(target.mean_image, window, source, brain)
    unit = start.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(start.dtype).tiny)
    if settings.scale == "volume":
        unit = torch.full_like(unit, CEILING)
    x = (start / unit).clamp(0, 1)
    trace = []
    with on_device(target.slices, device) as flow:
        turns = _Turns(source, brain, flow, settings, seed)
        for turn in range(settings.iterations):
            x, entry = turns.take(x)
            trace.append(entry)
            if progress is not None:
                progress(turn + 1, settings.iterations)
    result = fill_ends(window.paste(x * unit), image, mask, window.heights)
    warnings = []
    if turns.failed:
        warnings.append(f"{turns.failed} passes of a slice through the flow failed")
    size = f"{window.rows[1]}x{window.columns[1]}"
    figures: dict[str, float | str] = {"slices": len(window.heights), "window": size, "failed": turns.failed}
    return Estimate(image=result, trace=trace, figures=figures, warnings=warnings)


class _Turns:
    """Turns of the iteration over all slices, batch by batch; it counts passes through the flow that failed."""

    def __init__(
        self, source: Tensor, brain: Tensor, flow: MultiScaleFlow, settings: PublishedSettings, seed: int
    ) -> None:
        self.source, self.brain, self.settings, self.failed = source, brain, settings, 0
        self.flow = flow
        # 1 means that nobody said; 12 bits, as published.
        self.levels = flow.spec.grey_levels if flow.spec.grey_levels > 1 else 2**12
        self.correlation = ncc if settings.correlation == "ncc" else cosine
        within = brain if settings.flat_in == "brain" else None
        self.flat = non_edge_mask(source, settings.flat_quantile, within, dark_share=settings.dark_share)
        self.generator = torch.Generator(source.device).manual_seed(seed)

    def take(self, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        size = self.settings.batch
        parts = [self._batch(x[i : i + size], i) for i in range(0, len(x), size)]
        new = torch.cat([part[0] for part in parts])
        *means, step, flowed = torch.stack([part[1] for part in parts]).sum(0).tolist()
        entry = {name: mean / len(x) for name, mean in zip(_MEANS, means, strict=True)}
        entry["change"] = float((new - x).norm() / x.norm())
        entry["flow_share"] = flowed**0.5 / max(step**0.5 + flowed**0.5, 1e-30)
        return new, entry

    def _batch(self, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        here = slice(first, first + len(x))
        source, brain, flat = self.source[here], self.brain[here], self.flat[here]
        # A step along the correlation goes β₁/‖x‖² of the way to the source: at most all of it.
        compared = centred(x, brain) if self.settings.correlation == "ncc" else x
        beta1 = (compared * brain).square().flatten(1).sum(1).clamp_max(self.settings.beta1)
        beta2 = self.settings.beta2
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            d = distance(y, source, flat, beta1, beta2, mask=brain, correlation=self.correlation)
            (slope,) = torch.autograd.grad(d.sum(), y)
        moved = ((x - slope) * brain).clamp(0, 1)
        with torch.no_grad():
            flowed, z2 = self._through_flow(moved)
            new = flowed * brain
            d = distance(new, source, flat, beta1, beta2, mask=brain, correlation=self.correlation)
            numbers = [
                ncc(new, source, brain),
                non_edge_l1(new, flat),
                z2,
                d + self.settings.alpha * z2,
                (moved - x).square().flatten(1).sum(1),
                (new - moved).square().flatten(1).sum(1),
            ]
        return new, torch.stack([n.sum() for n in numbers])

    def _through_flow(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        noisy = dequantise(moved, self.levels, generator=self.generator)
        keep, space = 1 - self.settings.alpha, tuple(noisy.shape[2:])
        if self.settings.flow_identity:
            z = keep * noisy.flatten(1)
            image = z.view_as(noisy)
        else:
            z = keep * self.flow.latent_flat(self.flow.to_latent(noisy)[0])
            # The flow refuses what is not finite; one bad slice must not stop the rest.
            bad = ~z.isfinite().all(1)
            z = torch.where(bad[:, None], 0.0, z)
            image = self.flow.to_image(self.flow.unflatten(z, space))[0]
            bad |= ~(image.abs() <= self.settings.largest).flatten(1).all(1)
            self.failed += int(bad.sum())
            image = torch.where(bad.view(-1, 1, 1, 1), moved, image)
        return quantise(image.clamp(0, 1), self.levels), z.square().sum(1)


@dataclass(frozen=True)
class SliceWindow:
    """The part of each slice that holds the brain, with sides the flow accepts.

    The window is the smallest rectangle around the whole mask whose edges are multiples of the flow's factor,
    so that pixels keep the places in the flow's blocks that they had in training. Many brains do not fit the
    published 144×176 pixels at 1 mm. A volume whose sides are no multiples is padded with zeros.

    Attributes:
        rows: First pixel and number of pixels along X.
        columns: The same along Y.
        heights: Numbers of the slices that show enough brain, increasing.
        shape: Of the volume.

    Example:
        >>> mask = np.zeros((40, 40, 4), bool)
        >>> mask[9:23, 3:30, 1:3] = True
        >>> window = SliceWindow.around(mask, 8)
        >>> window.rows, window.columns, window.heights
        ((8, 16), (0, 32), (1, 2))
        >>> bool((window.paste(window.cut(mask)) == mask).all())
        True
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    heights: tuple[int, ...]
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, mask: NDArray[np.bool_], factor: int) -> SliceWindow:
        """Find the window of a mask of shape ``(X, Y, Z)``.

        Raises:
            InputError: If no slice is at least 5 % brain.
        """
        heights = np.flatnonzero(mask.mean(axis=(0, 1)) >= LEAST_BRAIN)
        if not len(heights):
            raise InputError(f"no slice is at least {LEAST_BRAIN:.0%} brain", remedy="check the brain mask")

        def span(axis: int) -> tuple[int, int]:
            used = np.flatnonzero(mask[:, :, heights].any(axis=(1 - axis, 2)))
            first = used[0] // factor * factor
            return int(first), int(-(-(used[-1] + 1 - first) // factor) * factor)

        x, y, z = mask.shape
        return cls(span(0), span(1), tuple(int(h) for h in heights), (x, y, z))

    def cut(self, volume: NDArray[np.generic]) -> Tensor:
        """Return the window of the slices, shape ``(S, 1, H, W)``, float32."""
        (x, h), (y, w) = self.rows, self.columns
        part = volume[x : x + h, y : y + w, list(self.heights)].astype(np.float32)
        slices = torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))[:, None]
        return F.pad(slices, (0, w - slices.shape[3], 0, h - slices.shape[2]))

    def paste(self, slices: Tensor) -> NDArray[np.float32]:
        """Return a volume with the slices ``(S, 1, H, W)`` in their places, zero elsewhere."""
        (x, h), (y, w) = self.rows, self.columns
        volume = np.zeros(self.shape, np.float32)
        part = volume[x : x + h, y : y + w]
        part[:, :, list(self.heights)] = slices[:, 0, : part.shape[0], : part.shape[1]].permute(1, 2, 0).cpu().numpy()
        return volume


def start_slices(mean: NDArray[np.float32], window: SliceWindow, source: Tensor, brain: Tensor) -> Tensor:
    """Return the slices of the mean target image inside the brain, where the published method starts.

    Args:
        mean: Mean of the target scans in the template's box, on any grid, zero where there is none.
        window: Of the source.
        source: Its slices, ``(S, 1, H, W)``; they stand in where no target scan had brain.
        brain: Its mask, same shape.

    Returns:
        A tensor like ``source``, interpolated linearly.

    Example:
        >>> mask = np.ones((4, 4, 2), bool)
        >>> window = SliceWindow.around(mask, 2)
        >>> brain = window.cut(mask)
        >>> start_slices(np.full((2, 2, 1), 3.0, np.float32), window, brain, brain).unique()
        tensor([3.])
    """
    box = torch.from_numpy(mean)[None, None]
    fine = F.interpolate(box, size=window.shape, mode="trilinear", align_corners=False)[0, 0].numpy()
    slices = window.cut(fine).to(source)
    return torch.where(slices > 0, slices, source) * brain


def fill_ends(
    result: NDArray[np.float32],
    source: NDArray[np.float32],
    mask: NDArray[np.bool_],
    heights: tuple[int, ...],
) -> NDArray[np.float32]:
    r"""Give the small slices at both ends of the brain the brightness of the nearest harmonized one.

    .. math:: x = a\,x_s + b

    with gain and offset from a least-squares fit in the outermost slice that was harmonized.

    Args:
        result: Harmonized slices at ``heights``, shape ``(X, Y, Z)``.
        source: The source, same shape.
        mask: The brain; elsewhere the answer is zero.
        heights: Numbers of the harmonized slices, increasing.

    Returns:
        The whole volume, nowhere negative.

    Example:
        >>> mask = np.ones((2, 2, 2), bool)
        >>> source = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
        >>> result = np.where([True, False], 3 * source, 0)
        >>> np.allclose(fill_ends(result, source, mask, (0,)), 3 * source, atol=1e-5)
        True
    """
    filled = np.where(mask, result, 0.0).astype(np.float32)
    for z in set(np.flatnonzero(mask.any(axis=(0, 1))).tolist()) - set(heights):
        near = min(heights, key=lambda h: abs(h - z))
        brain = mask[:, :, near]
        x, y = source[:, :, near][brain].astype(float), filled[:, :, near][brain].astype(float)
        x_mean, y_mean = x.mean(), y.mean()
        gain = ((x - x_mean) * (y - y_mean)).sum() / max(((x - x_mean) ** 2).sum(), np.finfo(float).tiny)
        here = mask[:, :, z]
        filled[:, :, z][here] = np.maximum(y_mean + gain * (source[:, :, z][here] - x_mean), 0)
    return filled
