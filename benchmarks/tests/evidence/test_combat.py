"""ComBat: what a simulated site does is undone, what people are is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony.errors import UsageError
from blindharmony_benchmark.combat import combat, site_effect

PEOPLE, FEATURES = 40, 60


def study(seed: int, sites: int = 3):
    """People of several sites with ages: what they are, what their sites' scanners make of it, site and age."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(sites), PEOPLE)
    # Sites have people of other ages: to take out the whole difference would take out age.
    age = rng.uniform(20, 80, site.size) + 5 * site
    level, slope = rng.uniform(5, 20, FEATURES), rng.normal(0, 0.05, FEATURES)
    spread = rng.uniform(0.5, 2, FEATURES)
    people = level + (age - 50)[:, None] * slope + spread * rng.standard_normal((site.size, FEATURES))
    shift = np.vstack([np.zeros(FEATURES), rng.normal(2, 0.7, (sites - 1, FEATURES))])
    scale = np.vstack([np.ones(FEATURES), np.exp(rng.normal(0.4, 0.15, (sites - 1, FEATURES)))])
    noise = people - level - (age - 50)[:, None] * slope
    seen = people + spread * shift[site] + (scale[site] - 1) * noise
    return people, seen, site, age[:, None], slope


def explained(features, site):
    """Share of the variance that the site explains, mean over features."""
    means = np.array([features[site == k].mean(0) for k in site])
    return np.mean(means.var(0) / features.var(0))


def test_a_simulated_site_is_taken_out_and_age_is_kept():
    people, seen, site, age, slope = study(0)
    found = combat(seen, site, age, reference=0)
    assert np.array_equal(found[site == 0], people[site == 0])
    other = site > 0
    before, after = (np.abs(x - people)[other].mean() for x in (seen, found))
    assert after < 0.25 * before
    assert explained(seen, site) > 0.2 + explained(people, site)
    assert explained(found, site) == pytest.approx(explained(people, site), abs=0.02)
    slopes = np.polyfit(age[:, 0], found, 1)[0]
    assert np.corrcoef(slopes, slope)[0, 1] > 0.97


def test_spreads_of_sites_become_equal():
    _, seen, site, age, _ = study(1)
    found = combat(seen, site, age)
    design = np.hstack([np.eye(3)[site], age])
    ratios = []
    for x in (seen, found):
        left = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
        ratios.append(np.mean(np.log(left[site == 2].std(0) / left[site == 0].std(0))))
    assert ratios[0] > 0.3
    assert abs(ratios[1]) < 0.05


def test_shrinking_is_nearer_to_the_truth_than_what_few_subjects_measure():
    rng = np.random.default_rng(2)
    shift, spread = rng.normal(1, 0.2, 500), np.exp(rng.normal(0.2, 0.1, 500))
    z = shift + spread * rng.standard_normal((5, 500))
    found = site_effect(z)
    for estimate, measured, truth in zip(found, (z.mean(0), z.std(0, ddof=1)), (shift, spread), strict=True):
        assert np.square(estimate - truth).mean() < 0.5 * np.square(measured - truth).mean()


@settings(max_examples=15)
@given(seed=st.integers(0, 999), gain=st.floats(0.1, 100), offset=st.floats(-50, 50))
def test_units_of_features_do_not_matter(seed, gain, offset):
    _, seen, site, age, _ = study(seed, sites=2)
    one, two = combat(seen, site, age), combat(gain * seen + offset, site, age)
    assert np.allclose(two, gain * one + offset, rtol=1e-6, atol=1e-6 * gain)


def test_without_a_site_effect_hardly_anything_happens():
    rng = np.random.default_rng(3)
    people, site = rng.normal(0, 1, (200, 300)), np.repeat(["a", "b"], 100)
    assert np.abs(combat(people, site) - people).mean() < 0.1


def test_one_subject_one_feature_constant_features_and_types():
    people, seen, site, age, _ = study(4)
    few = np.r_[: PEOPLE + 1]
    alone = combat(seen[few], site[few], reference=0)
    assert np.isfinite(alone).all()
    assert np.abs(alone[-1] - people[PEOPLE]).mean() < np.abs(seen[PEOPLE] - people[PEOPLE]).mean()
    single = combat(seen[:, :1], site, age, reference=0)
    assert np.abs(single - people[:, :1]).mean() < np.abs(seen[:, :1] - people[:, :1]).mean()
    seen[:, 3] = 7
    found = combat(seen.astype(np.float32), site)
    assert found.dtype == np.float32
    assert (found[:, 3] == 7).all()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"site": [0, 1]}, "sites"),
        ({"reference": 9}, "reference '9'"),
        ({"covariates": np.repeat([0.0, 1.0, 2.0], PEOPLE)}, "cannot be told"),
        ({"features": np.full((3 * PEOPLE, 2), np.nan)}, "finite"),
        ({"site": np.arange(3 * PEOPLE)}, "cannot tell people"),
    ],
)
def test_what_cannot_be_done_is_said(change, what):
    _, seen, site, age, _ = study(5)
    with pytest.raises(UsageError, match=what):
        combat(**{"features": seen, "site": site, "covariates": age, **change})
