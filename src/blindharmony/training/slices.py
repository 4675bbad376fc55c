r"""The flow of single axial slices is trained, which the published method needs.

.. math:: \min_\theta\; -\frac{\log_2 p_\theta(\tilde x)}{D} + \log_2 n

:math:`\tilde x` is a slice of :math:`D` values, spread over its :math:`n` grey levels by noise. The slices of held-out
scans choose the weights.

Source: Jeong et al. 2023 (BlindHarmony), section 4: 10,000 steps (``PUBLISHED_STEPS``) of 256 slices. Named deviations:
clipped gradients, the slices' grey scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec, small_2d
from blindharmony.flows.latent import dequantise
from blindharmony.harmonization.published import CEILING, LEAST_BRAIN
from blindharmony.models.target import Target
from blindharmony.settings import SliceFitSettings
from blindharmony.training.data import Head, Report
from blindharmony.training.loop import Budget, Checkpoint, Compute, Row, Task, Update, fit

PUBLISHED_STEPS = 10_000
# Slices that the flow's first activations are scaled on, and slices judged at a time.
_FIRST, _TOGETHER = 16, 8


class SliceData:
    r"""All slices of a group of scans that show enough brain, without copying the scans.

    .. math:: s = \operatorname{clip}(x / c, 0, 1) \text{ inside the mask, } 0 \text{ outside}

    One ceiling :math:`c` serves every slice of every scan. The published method stretches each slice from its
    own minimum to its own maximum; then one bright vessel changes the brightness of a whole slice, and
    neighbouring slices differ. This is a named deviation.

    Source: Jeong et al. 2023 (BlindHarmony), section 4, for the use of axial slices.

    Args:
        volumes: Scans on the template grid in flow units, each of shape ``(X, Y, Z)``, axial slices along Z.
        masks: Their brain masks.
        ceiling: The flow intensity :math:`c` that becomes 1.

    Raises:
        ValueError: If there are not as many masks as volumes, shapes differ, the ceiling is not positive, or
            no slice shows enough brain.

    Example:
        >>> head, mask = np.full((8, 8, 5), 1.5, np.float32), np.zeros((8, 8, 5), bool)
        >>> mask[2:6, 2:6, 1:4] = True
        >>> slices = SliceData([head], [mask])
        >>> len(slices), slices.batch([0, 2]).shape, float(slices.batch([0]).amax())
        (3, torch.Size([2, 1, 8, 8]), 0.75)
    """

    def __init__(
        self,
        volumes: Sequence[NDArray[np.float32]],
        masks: Sequence[NDArray[np.bool_]],
        ceiling: float = CEILING,
    ) -> None:
        shapes = {array.shape for array in (*volumes, *masks)}
        if len(volumes) != len(masks) or len(shapes) > 1:
            got = f"{len(volumes)} volumes, {len(masks)} masks, shapes {sorted(shapes)}"
            raise ValueError(f"expected one mask for each volume and one shape, got {got}")
        if not ceiling > 0:
            raise ValueError(f"the ceiling must be positive, got {ceiling}")
        self.ceiling = ceiling
        self._volumes, self._masks = list(volumes), list(masks)
        self._index = [
            (scan, int(z))
            for scan, mask in enumerate(masks)
            for z in np.flatnonzero(mask.mean(axis=(0, 1)) >= LEAST_BRAIN)
        ]
        if not self._index:
            raise ValueError(f"no slice is at least {LEAST_BRAIN:.0%} brain; check the masks")

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self._index)

    def batch(self, which: Sequence[int]) -> Tensor:
        """Return the slices with these numbers, shape ``(B, 1, X, Y)``, in [0, 1]."""
        slices = []
        for number in which:
            scan, z = self._index[number]
            inside = self._masks[scan][:, :, z]
            slices.append(np.where(inside, self._volumes[scan][:, :, z] / self.ceiling, 0.0))
        return torch.from_numpy(np.stack(slices)[:, None].astype(np.float32)).clamp(0, 1)

    def spread(self, count: int) -> list[int]:
        """Return at most ``count`` slice numbers, evenly spread over all scans and heights."""
        return [int(n) for n in np.linspace(0, len(self) - 1, min(count, len(self)))]


@contextmanager
def randomness(seed: int, step: int) -> Iterator[np.random.Generator]:
    """Make everything random in a block follow from two numbers.

    Afterwards torch's own random state is as it was before.

    Example:
        >>> draws = []
        >>> for _ in range(2):
        ...     with randomness(7, 3) as rng:
        ...         draws.append((torch.rand(1).item(), rng.random()))
        >>> draws[0] == draws[1]
        True
    """
    rng = np.random.default_rng([seed, step])
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**62)))
        yield rng


class SliceTask(Task):
    """A flow of slices, trained by maximum likelihood.

    Args:
        spec: Its shape; without grey levels it gets those of the settings.
        training: Slices to learn from.
        held_out: Slices that choose the weights.
        settings: Slices a step, grey levels.
        seed: Of weights, slices and noise.
        device: Where to train.

    Example:
        >>> head, mask = np.ones((8, 8, 4), np.float32), np.ones((8, 8, 4), bool)
        >>> spec = MultiScaleSpec(levels=1, steps=1, width=4, coupling="affine")
        >>> task = SliceTask(spec, SliceData([head], [mask]))
        >>> fit(task, SliceFitSettings(), Budget(steps=2)).rows[-1]["step"]
        2.0
    """

    networks: MultiScaleFlow

    def __init__(
        self,
        spec: MultiScaleSpec,
        training: SliceData,
        held_out: SliceData | None = None,
        *,
        settings: SliceFitSettings | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._training, self._held_out, self._device = training, held_out, device
        self._settings, self.seed = settings or SliceFitSettings(), (seed,)
        if spec.grey_levels == 1:
            spec = spec.model_copy(update={"grey_levels": self._settings.grey_levels})
        with randomness(seed, 0):
            self.networks = MultiScaleFlow(spec).to(device)
            self.networks.initialise(self._noisy(training, training.spread(_FIRST)))

    def step(self, number: int, update: Update) -> Row:
        """Bits a value of a few random slices."""
        # Number 0 has made the weights.
        rng = self.generator(number + 1)
        torch.manual_seed(int(rng.integers(2**62)))
        chosen = rng.integers(len(self._training), size=self._settings.batch).tolist()
        x = self._noisy(self._training, chosen)
        return {"train": update.descend([self.networks.bits_per_dim(x).mean()])}

    def score(self) -> float | None:
        """Mean bits a value of slices spread over the held-out scans."""
        if self._held_out is None:
            return None
        chosen = self._held_out.spread(self._settings.judged)
        with randomness(self.seed[0], 0):
            parts = [self._noisy(self._held_out, chosen[i : i + _TOGETHER]) for i in range(0, len(chosen), _TOGETHER)]
        return torch.cat([self.networks.bits_per_dim(part) for part in parts]).mean().item()

    def _noisy(self, data: SliceData, which: Sequence[int]) -> Tensor:
        return dequantise(data.batch(which), self.networks.spec.grey_levels).to(self._device)


def with_slice_flow(
    target: Target,
    heads: Sequence[Head],
    held_out: Sequence[Head],
    *,
    budget: Budget,
    seed: int,
    settings: SliceFitSettings,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
    spec: MultiScaleSpec | None = None,
    report: Report,
) -> Target:
    """The target with a slice flow trained on the same heads.

    Args:
        target: Without, or with an older slice flow.
        heads: Training heads.
        held_out: Heads that choose the best weights and are reported.
        budget: How long.
        seed: Of weights, slices and noise.
        settings: Rates, slices a step, grey levels.
        checkpoint: Where an interrupted training goes on.
        device: Where to train.
        spec: Its shape; the small one, which suits two cores, if None.
        report: Called with stage, share done and numbers.
    """
    training, unseen = (_slices_of(part) for part in (heads[: settings.heads], held_out))
    task = SliceTask(spec or small_2d(), training, unseen, settings=settings, seed=seed, device=device)
    progress = fit(
        task,
        settings,
        budget,
        checkpoint=checkpoint,
        compute=Compute(device),
        on_step=lambda share, numbers: report("slice flow", share, {}),
    )
    flow = task.networks.to("cpu").requires_grad_(False)
    measured = target.info.held_out.model_copy(
        update={"slice_bits": progress.best if math.isfinite(progress.best) else None}
    )
    info = target.info.model_copy(update={"slices": flow.spec, "held_out": measured})
    return replace(target, info=info, slices=flow)


def _slices_of(heads: Sequence[Head]) -> SliceData:
    images, masks = zip(*(head.image() for head in heads), strict=True)
    return SliceData([x.numpy() for x in images], [m.numpy() for m in masks])
