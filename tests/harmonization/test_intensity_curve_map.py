"""Laws of intensity curves."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blindharmony.harmonization.intensity import CurveMap

values = st.lists(st.floats(0, 1e4, allow_nan=False), min_size=2, max_size=60)


@given(values, values)
@example([6.0, 7.0], [4.0, 2.2250738585072014e-308])
def test_a_curve_is_increasing_finite_and_keeps_zero(x, y):
    n = min(len(x), len(y))
    xs, ys = np.sort(x[:n]), np.sort(y[:n])
    if not (xs > 1e-6).any():
        return
    curve = CurveMap.through(xs, ys)
    grid = np.linspace(-10, 2 * xs.max() + 1, 500).astype(np.float32)
    out = curve(grid)
    assert np.isfinite(out).all()
    assert (np.diff(out) >= -1e-6 * np.abs(out).max()).all()
    assert curve(np.zeros(1, np.float32))[0] == 0


def test_equal_quantiles_give_the_identity():
    q = np.linspace(0.1, 1.4, 64)
    grid = np.linspace(0, 3, 200, dtype=np.float32)
    np.testing.assert_allclose(CurveMap.through(q, q)(grid), grid, atol=1e-6)


def test_ties_of_the_source_are_joined():
    curve = CurveMap.through(np.array([1.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert curve(np.array([1.0, 2.0], np.float32)).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("power", [0.4, 0.7, 1.0, 1.5, 2.2])
def test_beyond_the_last_knot_a_power_goes_on(power):
    x = np.linspace(0.01, 1, 400)
    grid = np.linspace(1.0, 1.6, 50).astype(np.float32)
    np.testing.assert_allclose(CurveMap.through(x, x**power)(grid), grid**power, rtol=2e-3)


@given(power=st.floats(0.3, 3))
def test_noise_around_nothing_stays_as_small_as_its_size(power):
    x = np.geomspace(1e-4, 2, 60)
    curve, at = CurveMap.through(x, x**power), np.geomspace(1e-5, 3, 40).astype(np.float32)
    np.testing.assert_array_equal(curve(-at), -curve(at))
