import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony_benchmark.networks.learning import AXES, REACH, cropped, cut, draw, patch_side, through
from blindharmony_benchmark.networks.regression import random_scan


def ball(shape=(40, 36, 44), seed=0):
    grid = np.stack(np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in shape), indexing="ij"))
    mask = (grid**2).sum(0) < 1
    image = np.where(mask, np.random.default_rng(seed).uniform(0.2, 1.5, shape), 0).astype(np.float32)
    return image, mask


@pytest.mark.parametrize("axes", [AXES, (2,), (0, 1)])
def test_a_network_that_changes_nothing_changes_nothing(axes):
    image, mask = ball()
    found = through([image], mask, lambda x, axis: x[:, REACH : REACH + 1], axes, "cpu")
    np.testing.assert_allclose(found[0], image, rtol=1e-6)


def test_a_network_sees_the_neighbours_on_either_side():
    image, mask = ball()
    for k, shift in ((0, 1), (2, -1)):
        found = through([image], mask, lambda x, axis, k=k: x[:, k : k + 1], (1,), "cpu")
        np.testing.assert_array_equal(found[0], np.where(mask, np.roll(image, shift, 1), 0))


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_a_patch_is_a_piece_of_the_scan(seed):
    image, mask = ball()
    inside, image = cropped(mask, image)
    side = patch_side([inside])
    spot = draw([inside], side, np.random.default_rng(seed))
    found = cut(image, spot, side, REACH)
    assert found.shape == (2 * REACH + 1, side, side)
    (low, left), across = spot.corner, np.moveaxis(image, spot.axis, 0)
    wanted = across[spot.at, low : low + side, left : left + side]
    np.testing.assert_array_equal(found[REACH], wanted[::-1] if spot.mirrored else wanted)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_a_random_scan_has_the_unit_of_every_scan(seed):
    image, mask = ball()
    found = random_scan(image, mask, np.random.default_rng(seed))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert not found[~mask].any()
    assert np.sqrt(np.mean(found[mask] ** 2)) == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(found, random_scan(image, mask, np.random.default_rng(seed)))
