"""Where networks compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from blindharmony.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")


def resolved_device(device: str) -> str:
    """A device that is there: ``auto`` becomes ``cuda`` or ``cpu``.

    Raises:
        UsageError: If the device is unknown or not present.
    """
    if device == "cpu":  # always there, and torch takes seconds to load
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    if place and (place.type == "cpu" or (place.type == "cuda" and (place.index or 0) < torch.cuda.device_count())):
        return device
    raise UsageError(f"the device '{device}' is not available here", remedy="use --device cpu or --device auto")


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Within it, or in a function decorated with it, a GPU convolves in float32 and always in the same way.

    Left to itself cuDNN rounds inputs to ten bits (TF32): log-densities were then off by 7e-6 of their value, gradients
    by 3e-4, and a batch was not the loop over its images to 1e-3 (measured on an H200). Mixed precision is another
    matter: somebody has to ask for it, and it is used only where it is safe.

    Example:
        >>> import torch
        >>> with exact_convolutions():
        ...     torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
        (False, True)
    """
    import torch

    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def on_device(module: M, device: str) -> Iterator[M]:
    """Lend a module on a device; the module itself stays where it is, whatever happens inside the block.

    A target model is shared by all who use it. So it is never moved: where another device is asked for, the block gets
    a copy, whose memory is given back at the end, also after an error such as a full GPU. Threads may use the same
    module on several devices at once.

    Args:
        module: Any module.
        device: As from :func:`resolved_device`.

    Yields:
        The module itself if it is on that device already, else a copy there.

    Example:
        >>> import torch
        >>> shared = torch.nn.Linear(2, 1)
        >>> with on_device(shared, "meta") as lent:
        ...     lent.weight.device.type, shared.weight.device.type
        ('meta', 'cpu')
        >>> with on_device(shared, "cpu") as lent:
        ...     lent is shared
        True
    """
    import torch

    weight = next(module.parameters(), None)
    if weight is None or weight.device == torch.device(device):
        yield module
        return
    lent = copy.deepcopy(module)
    try:
        yield lent.to(device)
    finally:
        # The traceback of an error may hold the copy for long; its memory it shall not hold.
        lent.to("meta")
