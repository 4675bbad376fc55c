"""Devices that are not there are refused before the work; shared modules stay where they are."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from blindharmony.device import on_device, resolved_device
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


def test_a_lent_module_stays_where_it_was_also_when_the_device_fails():
    shared = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).eval()
    x = torch.ones(2, 3)
    before = shared(x)
    with on_device(shared, "meta") as lent:
        assert lent is not shared
        assert {t.device.type for t in lent.state_dict().values()} == {"meta"}
    with pytest.raises(RuntimeError), on_device(shared, "meta") as lent:
        lent(torch.ones(2, 7, device="meta"))
    assert {t.device.type for t in shared.state_dict().values()} == {"cpu"}
    assert torch.equal(shared(x), before)


def test_threads_use_one_module_on_several_devices_at_once():
    shared = torch.nn.Linear(3, 3)

    def use(number):
        with on_device(shared, ("cpu", "meta")[number % 2]) as lent:
            return lent(torch.ones(1, 3, device=lent.weight.device)).device.type

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, range(40))) == ["cpu", "meta"] * 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_its_memory_back():
    shared = torch.nn.Linear(1000, 1000)
    before = torch.cuda.memory_allocated()
    with pytest.raises(RuntimeError), on_device(shared, "cuda") as lent:
        lent(torch.ones(1, 1, device="cuda"))
    assert torch.cuda.memory_allocated() == before
    assert shared.weight.device.type == "cpu"
