"""What is read from the ranks does not know the scanner's curve."""

import numpy as np
import pytest
from scipy import ndimage

from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import BINS, rank_features


@pytest.fixture(scope="module")
def head():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(40, 44, 40)), 2.0)
    image = 0.2 + (image - image.min()) / (image.max() - image.min())
    region = ndimage.binary_erosion(np.ones(image.shape, bool), iterations=3)
    atlas = ndimage.gaussian_filter(image, 3.0).astype(np.float32)
    return np.where(region, image, 0).astype(np.float32), region, atlas


@pytest.mark.parametrize("change", [lambda x: 90 * x, lambda x: x**1.5, lambda x: np.log1p(3 * x), np.exp])
def test_increasing_changes_of_intensity_change_nothing(head, change):
    image, region, atlas = head
    levels = (np.arange(512) + 0.5) / 512
    wanted = np.quantile(image[region], levels)

    def features(x):
        matched = CurveMap.through(np.quantile(x[region], levels), wanted)(x)
        return rank_features(np.where(region, matched, 0).astype(np.float32), region, atlas)

    changed = np.where(region, change(image), 0).astype(np.float32)
    np.testing.assert_allclose(features(changed), features(image), atol=0.02)


def test_expected_brightness_rises_with_rank_and_means_the_atlas(head):
    image, region, atlas = head
    expected = rank_features(image, region, atlas)[:BINS]
    assert expected[-1] > expected[0]
    assert expected.mean() == pytest.approx(atlas[region].mean(), rel=1e-3)


def test_the_level_of_local_variation_does_not_count(head):
    image, region, atlas = head
    varied = rank_features(image, region, atlas)[BINS:]
    assert varied.mean() == pytest.approx(0, abs=1e-6)


def test_roughness_is_told_even_where_it_is_small():
    # A ramp, tenfold rougher in its bright half: the features have to say so, with no floor that hides it.
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.5, 1.5, 40)[:, None, None] * np.ones((40, 24, 24))
    rough = np.where(ramp > 1, 0.02, 0.002)
    image = (ramp + rough * rng.normal(size=ramp.shape)).astype(np.float32)
    varied = rank_features(image, np.ones(image.shape, bool), image)[BINS:]
    told = varied[-BINS // 4 :].mean() - varied[: BINS // 4].mean()
    assert np.log(5) < told < np.log(12)
