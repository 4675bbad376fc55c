"""The error bar covers what it should."""

import numpy as np
import pytest

from blindharmony.harmonization.intensity import error_bar
from blindharmony.models.person import PersonModel


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    hidden, noise = rng.normal(size=30), rng.normal(size=30)
    features = np.stack([hidden, rng.normal(size=30) * 0.1], 1) @ rng.normal(size=(2, 8))
    ranks = np.linspace(0, 1, 40)
    curves = 0.2 + ranks + 0.05 * hidden[:, None] * np.sin(3 * ranks) + 0.01 * noise[:, None] * np.cos(2 * ranks)
    return PersonModel(features, curves, np.arange(30))


def test_it_grows_with_surprise_and_shrinks_with_scans(model):
    curve = model.mean
    plain, strange, group = (
        error_bar(model, curve, surprise=s, scans=n)(curve.astype(np.float32)) for s, n in ((0, 1), (1, 1), (0, 4))
    )
    np.testing.assert_allclose(plain, model.error, rtol=1e-3)
    np.testing.assert_allclose(strange, model.spread, rtol=1e-3)
    np.testing.assert_allclose(group, plain / 2, rtol=1e-3)
    assert strange.mean() > plain.mean()


def test_left_out_heads_lie_within_it_as_often_as_they_should(model):
    errors = np.abs(model.left_out() - model.curves)
    share = (errors < 2 * error_bar(model, model.mean, surprise=0.0).deviation).mean()
    assert 0.88 < share < 0.99
