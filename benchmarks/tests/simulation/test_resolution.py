"""Blur and thick slices: weights sum to one, means stay, no dark rim, only the slice axis is touched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindharmony.errors import UsageError
from blindharmony_benchmark.simulation.effects import View, blurred, slice_weights, thick_slices
from blindharmony_benchmark.simulation.simulate import simulate


@given(count=st.integers(1, 80), mm=st.floats(0.3, 2.9), thickness=st.floats(3, 6))
def test_slice_weights(count, mm, thickness):
    boxes, back = slice_weights(count, mm, thickness)
    np.testing.assert_allclose(boxes.sum(0), 1)  # every voxel is in the slices exactly once
    np.testing.assert_allclose(back.sum(1), 1)
    assert (boxes.sum(1) <= thickness / mm + 1e-9).all()


def test_thick_slices_are_box_averages_at_their_middle():
    image = np.random.default_rng(0).uniform(1, 9, (4, 5, 12))
    view = View(image, image > 0, (1, 1, 1))
    made = thick_slices(view, 3.0)
    np.testing.assert_allclose(made[:, :, 1], image[:, :, :3].mean(2))
    np.testing.assert_allclose(made[:, :, 4], image[:, :, 3:6].mean(2))
    np.testing.assert_allclose(made[:, :, 2], (2 * made[:, :, 1] + made[:, :, 4]) / 3)


@given(axis=st.integers(0, 2), mm=st.floats(0.4, 1.5), seed=st.integers(0, 999))
def test_thick_slices_keep_the_mean(axis, mm, seed):
    shape = [5, 6, 7]
    shape[axis] = 90
    image = np.random.default_rng(seed).uniform(50, 100, shape)
    made = thick_slices(View(image, image > 0, (mm, mm, mm), slice_axis=axis), 3.0)
    assert made.mean() == pytest.approx(image.mean(), rel=0.01)
    # Something constant across slices stays as it is.
    flat = np.broadcast_to(image.take([0], axis), shape).copy()
    np.testing.assert_allclose(thick_slices(View(flat, flat > 0, (mm, mm, mm), slice_axis=axis), 3.0), flat)


@pytest.mark.parametrize("domain", ["thick", "blur"])
def test_a_brain_keeps_its_mean_and_gets_no_rim(domain, brain):
    image, labels, spacing = brain
    mask = labels > 0
    made = simulate(image, mask, spacing, domain).image
    assert made[mask].mean() == pytest.approx(image[mask].mean(), rel=0.01)
    flat = np.where(mask, np.float32(500), 0)
    np.testing.assert_allclose(simulate(flat, mask, spacing, domain).image, flat, rtol=1e-6)


def test_slices_that_are_thick_already(brain):
    image, labels, _ = brain
    with pytest.raises(UsageError, match="thick already"):
        simulate(image, labels > 0, (1, 1, 3), "thick")
    simulate(image, labels > 0, (3, 3, 1), "thick")


def test_blur_has_the_width_it_says():
    image = np.ones((41, 41, 41))
    image[20, 20, 20] = 1e6
    made = blurred(View(image, image > 0, (0.25, 0.25, 0.25)), 2.0) - 1
    # Half the height at 1 mm, four voxels, from the middle.
    assert made[24, 20, 20] / made[20, 20, 20] == pytest.approx(0.5, rel=1e-3)
    assert made[20, 20, 24] / made[20, 20, 20] == pytest.approx(0.5, rel=1e-3)
