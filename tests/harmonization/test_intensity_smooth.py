"""The smooth curve of a scanner: what it takes out, what it leaves, and how it ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindharmony.harmonization.intensity import CurveMap, lifting_curve, smooth_curve
from blindharmony.settings import CurveSettings

TRUTH = np.linspace(0.15, 1.7, 256)
WAVES = 0.01 * np.sin(np.outer([12.0, 18.0, 25.0], TRUTH) + np.array([[0.3], [1.0], [2.0]]))
USUAL = 2 * float(np.sqrt((WAVES**2).sum(0).mean()))
SCANNERS = {
    "none": lambda x: x,
    "gamma": lambda x: x**1.5,
    "exp": np.expm1,
    "log": lambda x: np.log1p(3 * x),
}


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize("name", SCANNERS)
def test_errors_of_the_shape_of_people_are_told_from_the_curve(name):
    source, errors = SCANNERS[name](TRUTH), []
    for seed in range(8):
        off = np.random.default_rng(seed).normal(size=3) @ WAVES
        curve = smooth_curve(source, np.maximum.accumulate(TRUTH + off), USUAL, CurveSettings(believed=1.5))
        errors.append((rms(curve(source) - TRUTH), rms(off)))
    after, before = np.mean(np.square(errors), 0) ** 0.5
    assert after < 0.6 * before


def test_a_curve_with_a_step_is_left_as_it_was_asked_for():
    source = np.interp(TRUTH, [0, 0.7, 0.8, 1.2, 1.3, 2], [0, 0.9, 1.0, 1.05, 1.6, 1.9])
    curve = smooth_curve(source, TRUTH, USUAL)
    np.testing.assert_allclose(curve(source), TRUTH, atol=1e-5)


@given(power=st.floats(0.5, 2), gain=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_it_never_falls_and_the_unit_does_not_matter(power, gain, seed):
    wanted = np.maximum.accumulate(TRUTH + np.random.default_rng(seed).normal(size=3) @ WAVES)
    curve = smooth_curve(TRUTH**power, wanted, USUAL)
    at = np.linspace(0, 4, 500)
    assert (np.diff(curve(at)) >= 0).all()
    other = smooth_curve(gain * TRUTH**power, wanted, USUAL)
    np.testing.assert_allclose(other(gain * at), curve(at), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("source", [np.ones(256), np.repeat([0.0, 1.0], 128)])
def test_hardly_any_different_intensities_are_no_trouble(source):
    curve = smooth_curve(source, TRUTH, USUAL)
    assert np.isfinite(curve(np.linspace(0, 2, 50, dtype=np.float32))).all()


@pytest.mark.parametrize("power", [0.6, 1.0, 1.5])
def test_dark_ends_go_on_as_powers(power):
    curve = smooth_curve(TRUTH**power, TRUTH, USUAL)
    dark = np.geomspace(0.01, 0.15, 9)
    np.testing.assert_allclose(curve(dark**power), dark, rtol=0.05)


@pytest.mark.parametrize("power", [0.6, 1.0, 1.5])
def test_the_lifted_curve_is_right_beyond_the_brain_too(power):
    wobbly = smooth_curve(TRUTH**power, TRUTH + 0.01 * np.sin(40 * TRUTH), 1e-6)
    lifted = lifting_curve(wobbly, 1.0, (TRUTH**power).astype(np.float32))
    everywhere = np.geomspace(0.02, 2.5, 30)
    np.testing.assert_allclose(lifted(everywhere**power), everywhere, rtol=0.08)
    np.testing.assert_allclose(lifting_curve(wobbly, 0.0, TRUTH)(everywhere), everywhere, rtol=1e-3)


@pytest.mark.parametrize("values", [np.zeros(1000), np.repeat([0.0, 1.0], [999, 1]), np.ones(1000)])
def test_a_brain_of_hardly_any_intensities_is_lifted_by_the_curve_itself(values):
    curve = CurveMap(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 2.0]))
    at = np.array([0.1, 0.9, 1.5], np.float32)
    np.testing.assert_allclose(lifting_curve(curve, 1.0, values.astype(np.float32), 0.01)(at), curve(at), atol=0.01)
