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
    return PersonModel(features, curves, np.arange(30), contrasts=np.full((30, 2), 0.5))


def test_it_grows_with_surprise_but_not_beyond_the_mean_curve(model):
    curve = model.mean
    plain, odd, strange = (error_bar(model, curve, surprise=s)(curve.astype(np.float32)) for s in (0, 1e-3, 1))
    np.testing.assert_allclose(plain**2, model.noise, rtol=1e-3)
    np.testing.assert_allclose((odd**2).mean(), model.noise.mean() * (1 + 1e-3 * model._prior), rtol=1e-3)
    np.testing.assert_allclose(strange**2, model.noise + model.spread**2, rtol=1e-3)


def test_the_more_scans_of_a_scanner_the_nearer_to_the_mean_curve(model):
    for surprise in (0, 1e-3, 1):
        shares = [model.group_share(np.full(n, surprise)) for n in (1, 2, 4, 8, 100_000)]
        assert shares[0] == 1
        assert (np.diff(shares) < 0).all()
        assert shares[-1] < 0.01
    assert model.group_share([0.0, 1.0], [1.0, 0.0]) == 1


def test_the_share_has_the_least_error(model):
    """People differ by what features tell and by what they do not; a scanner moves what is said of all by the same."""
    rng, n, draws, common = np.random.default_rng(1), 4, 200_000, model.settings.common_error + 1 / 30
    told = rng.normal(0, np.sqrt(1 - common), (draws, n))
    said = told + rng.normal(0, np.sqrt(common), (draws, 1))
    # One head alone is rightly believed: the regression has made what is said as much smaller as the scanner adds.
    truth = told.mean(1) / (1 - common) + rng.normal(0, 0.5, draws)
    errors = {s: np.mean((truth - s * said.mean(1)) ** 2) for s in np.linspace(0, 1, 101)}
    assert abs(min(errors, key=errors.get) - model.group_share(np.ones(n))) < 0.03


def test_scans_of_a_scanner_shrink_it_to_what_the_teachers_leave_open(model):
    alone, four, many = (model.deviation(np.zeros(n)) for n in (1, 4, 100_000))
    assert (four < alone).all()
    assert (four > alone / 2).all()
    np.testing.assert_allclose(many**2, model.spread**2 / 30, rtol=2e-2)


def test_a_head_that_does_not_count_brings_no_error(model):
    alone = model.deviation(0.0)
    np.testing.assert_allclose(model.deviation([0.0, 1.0], [1.0, 0.0]), alone)
    assert (model.deviation([0.0, 1.0]) > model.deviation([0.0, 0.0])).all()


def test_people_left_out_lie_within_it_as_often_as_they_should(model):
    """The bar of every head is that of a model that has never seen it."""
    within = []
    for head in range(30):
        rest = model.heads != head
        others = PersonModel(model.features[rest], model.curves[rest], np.arange(29), contrasts=model.contrasts[rest])
        surprise = others.surprise(model.features[head])
        within.append(np.abs(others.curve(model.features[head]) - model.curves[head]) / others.deviation(surprise))
    assert 0.63 < (np.array(within) < 1).mean() < 0.73
    assert 0.92 < (np.array(within) < 1.96).mean() < 0.98
