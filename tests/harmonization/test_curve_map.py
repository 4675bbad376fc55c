"""Laws of intensity curves, people and the way back to the scan's own grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.people import People

values = st.lists(st.floats(0, 1e4, allow_nan=False), min_size=2, max_size=60)


@given(values, values)
def test_a_curve_is_increasing_finite_and_keeps_zero(x, y):
    n = min(len(x), len(y))
    xs, ys = np.sort(x[:n]), np.sort(y[:n])
    if not (xs > 1e-6).any():
        return
    curve = CurveMap.through(xs, ys)
    grid = np.linspace(-10, 2 * xs.max() + 1, 500).astype(np.float32)
    out = curve(grid)
    assert np.isfinite(out).all()
    assert (np.diff(out) >= -1e-3 * np.abs(out).max()).all()
    assert curve(np.zeros(1, np.float32))[0] == 0


def test_equal_quantiles_give_the_identity():
    q = np.linspace(0.1, 1.4, 64)
    grid = np.linspace(0, 3, 200, dtype=np.float32)
    np.testing.assert_allclose(CurveMap.through(q, q)(grid), grid, atol=1e-6)


def test_ties_of_the_source_are_joined():
    curve = CurveMap.through(np.array([1.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert curve(np.array([1.0, 2.0], np.float32)).tolist() == [2.0, 4.0]


@settings(deadline=None)
@given(st.integers(3, 12), st.integers(0, 10_000))
def test_people_describe_their_own_curves(count, seed):
    rng = np.random.default_rng(seed)
    levels = (np.arange(40) + 0.5) / 40
    curves = np.sort(rng.normal(1, 0.3, (count, 40)), axis=1)
    people = People(levels, curves, components=count)
    for curve in curves:
        c = people.coefficients(curve)
        if len(people.modes) >= count - 1:
            np.testing.assert_allclose(people.mean + c @ people.modes, curve, atol=1e-8)
        assert (np.diff(people.curve(c)) > 0).all()


def test_too_few_people_have_no_modes():
    curves = np.linspace(0, 1, 10)[None].repeat(2, 0)
    assert People(np.linspace(0.05, 0.95, 10), curves).modes.shape == (0, 10)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_curve_of_a_person_far_away_still_increases(scale):
    rng = np.random.default_rng(0)
    curves = np.sort(rng.normal(1, 0.3, (8, 40)), axis=1)
    people = People((np.arange(40) + 0.5) / 40, curves)
    assert (np.diff(people.curve(scale * np.ones(len(people.modes)))) > 0).all()
