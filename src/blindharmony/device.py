"""Where networks compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blindharmony.errors import UsageError


def resolved_device(device: str) -> str:
    """A device that is there: ``auto`` becomes ``cuda`` or ``cpu``.

    Raises:
        UsageError: If the device is unknown or not present.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found and (found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < torch.cuda.device_count())):
        return device
    raise UsageError(f"the device '{device}' is not available here", remedy="use --device cpu or --device auto")


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Within it, or in a function decorated with it, a GPU convolves in float32 and always in the same way.

    Left to itself cuDNN rounds inputs to ten bits (TF32): log-densities were then off by 7e-6 of their value, gradients
    by 3e-4, and a batch was not the loop over its images to 1e-3 (measured on an H200). Mixed precision is another
    matter: it is asked for, and only where it is safe.

    Example:
        >>> import torch
        >>> with exact_convolutions():
        ...     torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
        (False, True)
    """
    import torch

    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
