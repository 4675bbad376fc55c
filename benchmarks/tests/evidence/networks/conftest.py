from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from blindharmony_benchmark.system import Material, Picture

SHAPE = (32, 32, 32)
POWER, GAIN = 1.5, 0.6


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(seed: int, power: float = 1.0, gain: float = 1.0) -> Picture:
    """A smooth random head of three tissues on a scanner with a gain and a gamma curve."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, bool)
    mask[3:-3, 3:-3, 3:-3] = True
    wave = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3)
    ranks = ndimage.gaussian_filter(wave.argsort(None).argsort().reshape(SHAPE) / wave.size, 0.5)
    labels = np.where(mask, 1 + (ranks > 0.3) + (ranks > 0.6), 0).astype(np.uint8)
    image = np.where(mask, (0.3 + ranks) ** power, 0)
    image = (gain * image / np.sqrt(np.mean(image[mask] ** 2))).astype(np.float32)
    return Picture(f"sub-{seed}", image, mask, image, labels=labels)


@pytest.fixture
def material(tmp_path) -> Material:
    """Four heads on the target scanner, four others on the source scanner, and pairs."""
    training = tuple(picture(k) for k in range(4))
    values = np.concatenate([p.image[p.mask] for p in training])
    levels = (np.arange(64) + 0.5) / 64
    target = SimpleNamespace(fit_region=training[0].mask, levels=levels, mean_curve=np.quantile(values, levels))
    pairs = tuple((picture(k, POWER, GAIN), p) for k, p in enumerate(training))
    source = tuple(picture(k, POWER, GAIN) for k in range(4, 8))
    return Material(target, training, (picture(8),), source, pairs, tmp_path / "learnt", 0.0)


@pytest.fixture
def scans() -> list[Picture]:
    """Two new heads on the source scanner."""
    return [picture(k, POWER, GAIN) for k in (20, 21)]


@pytest.fixture
def truths() -> list[Picture]:
    """The same on the target scanner."""
    return [picture(k) for k in (20, 21)]
