"""Devices that are not there are refused before the work."""

import pytest
import torch

from blindharmony.device import resolved_device
from blindharmony.errors import UsageError


def test_only_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [resolved_device(d) for d in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda", "cuda:0"]
    for name in ("cuda:1", "mps", "gpu"):
        with pytest.raises(UsageError, match=f"'{name}' is not available here"):
            resolved_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError):
        resolved_device("cuda")
