"""Laws of the regression from rank features to the quantile curve of a person."""

import numpy as np
import pytest

from blindharmony.target.person import PersonModel

RANKS = 30


def family(count=12, versions=2, seed=0):
    """Heads whose features and curves both follow one hidden number."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=count)
    direction, bend = rng.normal(size=10), np.sin(np.linspace(0, 3, RANKS))
    features = (hidden[:, None] * direction).repeat(versions, 0) + 0.02 * rng.normal(size=(count * versions, 10))
    curves = (np.linspace(0.2, 1.4, RANKS) + 0.05 * hidden[:, None] * bend).repeat(versions, 0)
    return PersonModel(features, curves, np.arange(count).repeat(versions))


def test_an_unseen_head_is_told_from_its_features():
    model = family()
    truth = model.curves[model.themselves]
    others = (truth.sum(0) - truth) / (len(truth) - 1)
    error, plain = (np.sqrt(((x - truth) ** 2).mean()) for x in (model.left_out(), others))
    assert error < 0.35 * plain


def test_leaving_a_head_out_is_training_without_it():
    model = family()
    kernel = model._kernel(model.features, model.features)
    same = model.heads[:, None] == model.heads
    noise = 0.5 * same + 0.5 * np.eye(len(model.heads))
    for head in (0, 5):
        rest = model.heads != head
        first = np.flatnonzero(~rest)[0]
        weights = np.linalg.solve((kernel + noise)[np.ix_(rest, rest)], (model.curves - model.mean)[rest])
        np.testing.assert_allclose(model.left_out()[head], model.mean + kernel[first, rest] @ weights, atol=1e-8)


def test_the_mean_takes_only_heads_as_they_are():
    model = family(versions=3)
    np.testing.assert_array_equal(model.themselves, np.tile([True, False, False], 12))
    np.testing.assert_allclose(model.mean, model.curves[::3].mean(0))


@pytest.mark.parametrize("far", [30.0, 1e3])
def test_a_head_like_no_other_gets_the_mean_curve(far):
    model = family()
    features = model.features[0] + far
    np.testing.assert_allclose(model.curve(features), model.mean, atol=1e-6)
    assert model.surprise(features) > 0.999
    assert model.surprise(model.features[0]) < 0.2
