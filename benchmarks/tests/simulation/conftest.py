import numpy as np
import pytest

from blindharmony_benchmark.simulation.effects import View
from labelled import labelled_brain


@pytest.fixture(scope="session")
def brain():
    return labelled_brain()


@pytest.fixture
def view(brain):
    image, labels, spacing = brain
    return View(image.astype(np.float64), labels > 0, spacing, labels)
