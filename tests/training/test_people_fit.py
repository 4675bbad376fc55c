"""Teaching the person model: versions of heads, and no head in its own mean head."""

import numpy as np
import pytest
from scipy import ndimage

from blindharmony.training.augmentation import inside_mean, rician, spoil, thick_slices
from blindharmony.training.person import fit_people, versions_of

LEVELS = (np.arange(64) + 0.5) / 64


@pytest.fixture(scope="module")
def heads():
    rng = np.random.default_rng(0)
    mask = ndimage.binary_erosion(np.ones((32, 36, 32), bool), iterations=2)
    shared = ndimage.gaussian_filter(rng.normal(size=mask.shape), 2.0)
    found = []
    for _ in range(5):
        x = shared + 0.5 * ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.5)
        x = np.where(mask, 0.3 + (x - x.min()) / (x.max() - x.min()), 0)
        found.append(((x / np.sqrt((x[mask] ** 2).mean())).astype(np.float32), mask))
    return found


def calls_of(heads):
    return [lambda h=h: h for h in heads]


def halved(image, mask):
    blocks = (16, 2, 18, 2, 16, 2)
    return image.reshape(blocks).mean((1, 3, 5)), mask.reshape(blocks).all((1, 3, 5))


def test_every_head_teaches_in_six_versions_and_the_first_is_itself(heads):
    calls = []
    coarse = [halved(*h) for h in heads]
    region = heads[0][1]
    model = fit_people(calls_of(heads), coarse, region, LEVELS, on_head=lambda i, n: calls.append((i, n)))
    assert calls == [(i + 1, 5) for i in range(5)]
    assert model.features.shape == (30, 48)
    assert model.textures.shape == (30, 3)
    # Noise roughens every head, blur smooths it.
    fine = model.textures[:, 0].reshape(5, 6)
    assert (fine[:, 1:3] > fine[:, :1]).all()
    assert (fine[:, 3:5] < fine[:, :1]).all()
    own = np.array([np.quantile(x[region], LEVELS) for x, _ in heads])
    np.testing.assert_allclose(model.curves[model.themselves], own, rtol=1e-5)
    again = fit_people(calls_of(heads), coarse, region, LEVELS)
    np.testing.assert_array_equal(again.features, model.features)


def test_a_head_is_not_compared_with_a_mean_that_holds_it(heads):
    coarse = [halved(*h) for h in heads]
    spiked = [(x.copy(), m) for x, m in coarse]
    spiked[2] = (spiked[2][0] + 5.0, spiked[2][1])
    a, b = (fit_people(calls_of(heads), c, heads[0][1], LEVELS) for c in (coarse, spiked))
    same = [np.allclose(a.features[6 * i], b.features[6 * i]) for i in range(5)]
    assert same == [False, False, True, False, False]


def test_a_head_is_not_compared_with_a_mean_that_holds_its_person(heads):
    coarse = [halved(*h) for h in heads]
    spiked = [(x.copy(), m) for x, m in coarse]
    spiked[2] = (spiked[2][0] + 5.0, spiked[2][1])
    whose = ["a", "b", "c", "c", "d"]
    a, b = (fit_people(calls_of(heads), c, heads[0][1], LEVELS, people=whose) for c in (coarse, spiked))
    same = [np.allclose(a.features[6 * i], b.features[6 * i]) for i in range(5)]
    assert same == [False, False, True, True, False]
    assert a.people.tolist() == [0] * 6 + [1] * 6 + [2] * 12 + [3] * 6
    assert fit_people(calls_of(heads), coarse, heads[0][1], LEVELS, people=list("edcba")).people is None


def test_versions_keep_the_mask_and_spoil_as_they_say(heads):
    image, mask = heads[0]
    versions = list(versions_of(image, mask, np.random.default_rng(0)))
    assert all((v[~mask] == 0).all() for v in versions)
    rough = [float(np.abs(np.diff(v, axis=0))[mask[1:]].mean()) for v in versions]
    assert rough[2] > rough[1] > rough[0] > rough[3] > rough[4]


def test_smoothing_inside_a_mask_keeps_a_constant(heads):
    _, mask = heads[0]
    out = inside_mean(mask.astype(np.float32), mask, lambda a: ndimage.gaussian_filter(a, 2.0))
    np.testing.assert_allclose(out, mask, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_thick_slices_keep_a_ramp(axis, size):
    ramp = np.moveaxis(np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None], (24, 5, 5)), 0, axis)
    out = thick_slices(np.ascontiguousarray(ramp), axis, size)
    inner = np.moveaxis(np.abs(out - ramp), axis, 0)[size:-size]
    assert inner.max() < 1e-4


def test_noise_of_a_magnitude_image_lifts_the_dark():
    rng = np.random.default_rng(0)
    dark, bright = (rician(np.full((40, 40, 40), v, np.float32), 0.05, rng) for v in (0.0, 1.5))
    assert dark.mean() == pytest.approx(0.05 * 1.5 * np.sqrt(np.pi / 2), rel=0.01)
    assert bright.std() == pytest.approx(0.05 * 1.5, rel=0.02)


def test_random_scanners_are_repeatable_and_change_the_image(heads):
    image, mask = heads[0]
    seen = [spoil(image, mask, np.random.default_rng(seed)) for seed in (*range(12), 0)]
    np.testing.assert_array_equal(seen[0], seen[-1])
    changes = [np.abs(s - image)[mask].mean() for s in seen[:-1]]
    assert 0 < sum(c == 0 for c in changes) < 8
    assert max(changes) > 0.02
    assert all((s[~mask] == 0).all() for s in seen)
