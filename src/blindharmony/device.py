"""Where networks compute."""

from __future__ import annotations

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
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind == "cpu" or (kind == "cuda" and torch.cuda.is_available()):
        return device
    raise UsageError(f"the device '{device}' is not available here", remedy="use --device cpu or --device auto")
