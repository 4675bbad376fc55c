"""Texture tells noise, blur and thick slices from each other, and knows no intensity curve."""

import numpy as np
import pytest
from scipy import ndimage

from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import texture

LEVELS = (np.arange(512) + 0.5) / 512


@pytest.fixture(scope="module")
def head():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(40, 44, 40)), 2.0)
    image = 0.2 + (image - image.min()) / (image.max() - image.min()) + 0.01 * rng.normal(size=image.shape)
    region = ndimage.binary_erosion(np.ones(image.shape, bool), iterations=3)
    return np.where(region, image, 0).astype(np.float32), region


def matched(x, region, wanted):
    made = CurveMap.through(np.quantile(x[region], LEVELS), np.quantile(wanted[region], LEVELS))(x)
    return np.where(region, made, 0).astype(np.float32)


@pytest.mark.parametrize("change", [lambda x: 90 * x, lambda x: x**1.5, lambda x: np.log1p(3 * x), np.exp])
def test_increasing_changes_of_intensity_change_nothing(head, change):
    image, region = head
    changed = np.where(region, change(np.maximum(image, 0)), 0).astype(np.float32)
    found, own = (texture(matched(x, region, image), region) for x in (changed, image))
    np.testing.assert_allclose(found, own, atol=0.05)


def test_noise_blur_and_slices_each_move_their_own_number(head):
    image, region = head
    own = texture(image, region)
    noise = np.random.default_rng(1).normal(0, 0.05, image.shape)
    noisy = texture(np.where(region, image + noise, 0).astype(np.float32), region)
    blurred = texture(np.where(region, ndimage.gaussian_filter(image, 1.0), 0).astype(np.float32), region)
    sliced = texture(np.where(region, ndimage.uniform_filter1d(image, 5, axis=1), 0).astype(np.float32), region)
    assert noisy[0] > own[0] + 0.5
    assert blurred[0] < own[0] - 0.5
    assert sliced[2] > own[2] + 0.3
    assert abs(blurred[2] - own[2]) < 0.2


def test_a_region_too_thin_to_have_an_inside_has_no_texture(head):
    image, region = head
    thin = np.zeros_like(region)
    thin[20] = region[20]
    assert texture(image, thin).tolist() == [0, 0, 0]
