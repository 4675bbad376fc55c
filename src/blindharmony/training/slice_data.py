"""Axial slices in the grey scale of the slice flow, and what makes a run over them repeatable."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindharmony.harmonization.slices import CEILING, LEAST_BRAIN


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
    """Make everything random in a block follow from two numbers, so that a resumed training repeats it.

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


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event to look at between two steps.

    Inside a step it could leave half of the weights updated. Outside the main thread, which alone receives
    interrupts, the event never happens.

    Example:
        >>> with deferred_interrupt() as asked:
        ...     signal.raise_signal(signal.SIGINT)
        >>> asked.is_set()
        True
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
