"""Laws of the regression from rank features to the quantile curve of a person."""

from dataclasses import replace

import numpy as np
import pytest

from blindharmony.models.person import PersonModel

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


def test_two_scans_of_a_person_are_one_person():
    """Leaving out a head whose person was scanned twice leaves out both, and says what training without both says."""
    model = family(versions=3)
    twice = PersonModel(model.features, model.curves, model.heads, people=model.heads // 2)
    kernel = model._kernel(model.features, model.features)
    same = twice.people[:, None] == twice.people
    noise = 0.5 * same + 0.5 * np.eye(len(same))
    rest = twice.people != 2
    weights = np.linalg.solve((kernel + noise)[np.ix_(rest, rest)], (model.curves - model.mean)[rest])
    for head in (4, 5):
        first = np.flatnonzero(twice.heads == head)[0]
        np.testing.assert_allclose(twice.left_out()[head], model.mean + kernel[first, rest] @ weights, atol=1e-8)
    assert twice.left_out().shape == model.left_out().shape
    np.testing.assert_array_equal(twice.themselves, model.themselves)
    np.testing.assert_allclose(twice.spread, model.spread * (6 / 5) / (12 / 11))


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


def spoiled_family(count=14, seed=1):
    """Every head in three versions; spoiling moves its texture, and its features as if it were another person."""
    rng = np.random.default_rng(seed)
    plain = family(count, versions=3, seed=seed)
    version = np.tile(np.arange(3), count)
    along = plain.features[0] - plain.features[-1]
    features = plain.features + version[:, None] * along / np.abs(along).max()
    textures = version[:, None] * np.array([0.3, -0.1]) + 0.02 * rng.normal(size=(3 * count, 2))
    return PersonModel(features, plain.curves, plain.heads, textures)


def test_a_version_speaks_for_scans_of_its_kind():
    model = spoiled_family()
    np.testing.assert_array_equal(model.versions, np.tile(np.arange(3), 14))
    for version in range(3):
        mine = model.likeness(np.array([0.3, -0.1]) * version)
        np.testing.assert_allclose(mine[model.versions == version], 1, atol=1e-3)
        np.testing.assert_allclose(mine[model.versions != version], 0.7, atol=1e-3)


def test_telling_versions_apart_serves_scans_as_they_are():
    model = spoiled_family()
    blind = PersonModel(model.features, model.curves, model.heads)
    truth = model.curves[model.themselves]
    told, untold = (np.sqrt(((m.left_out() - truth) ** 2).mean()) for m in (model, blind))
    assert told < untold


def test_without_textures_all_rows_count_the_same():
    model = family()
    features = model.features[3]
    np.testing.assert_array_equal(model.curve(features), model.curve(features, np.array([5.0, 1.0])))
    assert (model.likeness(np.array([5.0, 1.0])) == 1).all()


def test_a_texture_like_none_in_training_still_gets_an_answer():
    model = spoiled_family()
    shares = model.likeness(np.array([1e3, -1e3]))
    assert np.isfinite(shares).all()
    assert shares.min() >= 0.7
    assert shares.max() <= 1


def test_a_head_of_which_ranks_tell_nothing_gets_the_mean_curve():
    model = replace(family(), contrasts=np.full((24, 2), 0.5))
    near = model.features[0]
    away = near + np.linspace(0, 60, 60)[:, None] * model.features.std(0)
    moved = np.array([np.abs(model.curve(f) - model.mean).max() for f in away])
    open_shares = np.array([model.open_share(model.surprise(f)) for f in away])
    assert open_shares[0] < 0.2
    assert open_shares[-1] > 0.99
    assert moved[-1] < 0.02 * moved.max()
    # Where more is open than people differ by, no head is taken to be far from all people.
    assert moved.max() < 4 * model.spread.max()


def test_models_taught_without_contrasts_stay_as_they_were():
    model = family()
    assert model.open_share(0.3) == 0.3
    np.testing.assert_allclose(model.noise, model.error**2)
    f = model.features[1] + 3.0
    plain = model.mean + model._kernel(f[None], model.features)[0] @ model._weights
    np.testing.assert_allclose(model.curve(f), plain)


def test_every_version_leads_to_the_curve_of_the_head_itself():
    model = replace(spoiled_family(), textures=None)
    known = replace(model, contrasts=np.full((len(model.heads), 2), 0.5))
    own = model.curves[model.themselves]
    assert np.array_equal(known.wanted, np.repeat(own, np.bincount(model.heads), axis=0))
    assert np.array_equal(model.wanted, model.curves)
    # Whatever the versions' own curves are: only the head's counts.
    assert not model.themselves.all()
    narrow = model.curves * np.where(model.themselves, 1.0, 0.8)[:, None]
    other = replace(known, curves=narrow)
    assert np.array_equal(other.curve(model.features[1]), known.curve(model.features[1]))
    assert np.array_equal(other.error, known.error)
