"""Options of the flow tests: run the same laws on another device with ``pytest tests/flows --device cuda``."""

import pytest
import torch

from blindharmony.device import exact_convolutions


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the flow tests")


@pytest.fixture(scope="session")
def device(request):
    # The option exists only where this folder is named on the command line.
    return torch.device(request.config.getoption("--device", default="cpu"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with exact_convolutions():  # as wherever flows are used
        yield
