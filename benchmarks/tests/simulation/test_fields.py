"""The bias field's peak and smoothness, the noise's moments."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindharmony_benchmark.simulation.effects import View, bias_field, reference_level, with_noise
from blindharmony_benchmark.simulation.simulate import simulate


@given(
    shape=st.tuples(*[st.integers(3, 12)] * 3),
    mm=st.tuples(*[st.floats(0.5, 20)] * 3),
    peak=st.floats(0.01, 0.9),
    seed=st.integers(0, 10_000),
)
def test_the_strongest_deviation_in_the_mask_is_the_peak(shape, mm, peak, seed):
    mask = np.zeros(shape, bool)
    mask[1:, 1:, :-1] = True
    field = bias_field(View(np.ones(shape), mask, mm), peak, np.random.default_rng(seed))
    assert np.abs(np.log(field[mask])).max() == pytest.approx(np.log1p(peak), rel=1e-9)
    assert field.min() >= 1 / (1 + peak) - 1e-12
    assert field.max() <= 1 + peak + 1e-12


def test_bias_is_a_smooth_factor(view):
    made = simulate(view.image, view.mask, view.spacing, "bias")
    ratio = made.image[view.mask] / view.image[view.mask]
    assert ratio.max() <= 1.3 * (1 + 1e-6)
    assert max(ratio.max() - 1, 1 / ratio.min() - 1) == pytest.approx(0.3, abs=1e-5)
    field = bias_field(view, 0.3, np.random.default_rng(0))
    # Less than 1.5 % a millimetre.
    assert max(np.abs(np.diff(np.log(field), axis=a)).max() for a in range(3)) < 0.03


def test_rician_second_moment():
    level, sigma = 1000.0, 0.05
    for signal in (0.01, 40.0, 300.0, 1000.0):
        image = np.full((60, 60, 60), signal)
        view = View(image, np.ones(image.shape, bool), (1, 1, 1), level=level)
        noisy, deviation = with_noise(view, sigma, np.random.default_rng(1))
        assert deviation == sigma * level
        expected = signal**2 + 2 * deviation**2
        error = (noisy**2).std() / np.sqrt(noisy.size)
        assert abs((noisy**2).mean() - expected) < 4 * error
        assert (noisy >= 0).all()
    # Far above the noise, a magnitude's spread is that of one channel.
    assert noisy.std() == pytest.approx(deviation, rel=0.01)


def test_noise_follows_the_scans_own_level_unless_told(view):
    brighter = replace(view, image=3 * view.image)
    one, three = (simulate(v.image, v.mask, v.spacing, "noise") for v in (view, brighter))
    np.testing.assert_allclose(three.image, 3 * one.image, rtol=1e-5)
    fixed = simulate(brighter.image, view.mask, view.spacing, "noise", level=1100)
    assert fixed.found["SigmaInUnits"] == pytest.approx(55)


def test_the_reference_level_is_about_white_matter(view):
    level = reference_level(view.image, view.mask)
    assert level == pytest.approx(np.median(view.image[view.labels == 3]), rel=0.06)
    image = view.image.copy()
    image[tuple(np.argwhere(view.mask)[0])] = 1e6  # a bright vessel
    assert reference_level(image, view.mask) == pytest.approx(level, rel=1e-3)
