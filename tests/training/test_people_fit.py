"""Teaching the person model: versions of heads, and no head in its own mean head."""

import numpy as np
import pytest
from scipy import ndimage

from blindharmony.settings import PersonFitSettings
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


def tissue_of(image, mask):
    """Fluid below a third of the intensities, white matter above two thirds, the darker half of gray as the cortex."""
    low, middle, high = np.quantile(image[mask], (0.33, 0.5, 0.66))
    kinds = np.stack(
        [image < low, (image >= low) & (image < middle), (image >= middle) & (image < high), image >= high]
    )
    return (kinds & mask).astype(np.float32)


def test_every_head_teaches_as_it_is_and_through_four_scanners(heads):
    calls = []
    coarse = [halved(*h) for h in heads]
    region = heads[0][1]
    model = fit_people(
        calls_of(heads), coarse, region, LEVELS, tissue=tissue_of, on_head=lambda i, n: calls.append((i, n))
    )
    assert calls == [(i + 1, 5) for i in range(5)]
    assert model.features.shape == (25, 48)
    assert model.textures is None
    assert model.contrasts.shape == (25, 2)
    fluid, gray = model.contrasts.T
    assert (fluid < gray).all()
    assert (gray < 1).all()
    own = np.array([np.quantile(x[region], LEVELS) for x, _ in heads])
    np.testing.assert_allclose(model.curves[model.themselves], own, rtol=1e-5)
    assert model.voxel_error.shape == LEVELS.shape
    assert (model.voxel_error > 0.005).all()
    again = fit_people(calls_of(heads), coarse, region, LEVELS, tissue=tissue_of)
    np.testing.assert_array_equal(again.features, model.features)


def test_a_scanner_s_contrast_is_in_what_is_seen_and_not_in_the_curve_that_is_learnt(heads):
    image, mask = heads[0]
    classes = tissue_of(image, mask)
    contrast_alone = PersonFitSettings(often=0, thick=0, field=0, power_sd=0)
    itself, *others = versions_of(image, mask, np.random.default_rng(1), contrast_alone, classes)
    assert itself.seen is itself.plain is image
    assert len(others) == 4
    mean = [(share[mask] * image[mask]).sum() / share.sum() for share in classes]
    assert itself.contrast == pytest.approx((mean[0] / mean[3], mean[1] / mean[3]), rel=1e-3)
    for version in others:
        np.testing.assert_allclose(version.plain, image, atol=1e-6)
        assert np.abs(version.seen - image)[mask].mean() > 0.01
        assert 0.45 < version.contrast[1] < 0.95


def test_without_tissues_all_scanners_have_the_target_s_contrast(heads):
    image, mask = heads[0]
    versions = list(versions_of(image, mask, np.random.default_rng(1), PersonFitSettings(field=0, power_sd=0)))
    assert {v.contrast for v in versions} == {(0.0, 0.0)}
    for version in versions:
        np.testing.assert_array_equal(version.seen, version.plain)


def test_a_head_is_not_compared_with_a_mean_that_holds_it(heads):
    coarse = [halved(*h) for h in heads]
    spiked = [(x.copy(), m) for x, m in coarse]
    spiked[2] = (spiked[2][0] + 5.0, spiked[2][1])
    a, b = (fit_people(calls_of(heads), c, heads[0][1], LEVELS) for c in (coarse, spiked))
    same = [np.allclose(a.features[5 * i], b.features[5 * i]) for i in range(5)]
    assert same == [False, False, True, False, False]


def test_a_head_is_not_compared_with_a_mean_that_holds_its_person(heads):
    coarse = [halved(*h) for h in heads]
    spiked = [(x.copy(), m) for x, m in coarse]
    spiked[2] = (spiked[2][0] + 5.0, spiked[2][1])
    whose = ["a", "b", "c", "c", "d"]
    a, b = (fit_people(calls_of(heads), c, heads[0][1], LEVELS, people=whose) for c in (coarse, spiked))
    same = [np.allclose(a.features[5 * i], b.features[5 * i]) for i in range(5)]
    assert same == [False, False, True, True, False]
    assert a.people.tolist() == [0] * 5 + [1] * 5 + [2] * 10 + [3] * 5
    assert fit_people(calls_of(heads), coarse, heads[0][1], LEVELS, people=list("edcba")).people is None


def test_scanners_keep_the_mask_and_blur_or_roughen_as_they_say(heads):
    image, mask = heads[0]

    def rough(**more):
        made = list(versions_of(image, mask, np.random.default_rng(0), PersonFitSettings(thick=0, **more)))[1:]
        assert all((v.seen[~mask] == 0).all() and (v.plain[~mask] == 0).all() for v in made)
        return [float(np.abs(np.diff(v.plain, axis=0))[mask[1:]].mean()) for v in made]

    bare = float(np.abs(np.diff(image, axis=0))[mask[1:]].mean())
    assert min(rough(blur_mm=(0.01, 0.01), noise=(0.05, 0.06), often=1)) > bare
    assert max(rough(blur_mm=(2.0, 2.5), noise=(1e-5, 1e-5), often=1)) < bare


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


def test_smooth_noise_is_as_strong_as_white_noise():
    flat = np.full((40, 40, 40), 1.5, np.float32)
    for widths in (np.zeros(3), np.array([0.9, 0.0, 0.5])):
        noisy = rician(flat, 0.05, np.random.default_rng(0), widths=widths)
        assert noisy.std() == pytest.approx(0.05 * 1.5, rel=0.02)
    neighbours = [np.corrcoef(noisy.ravel(), np.roll(noisy, 1, axis).ravel())[0, 1] for axis in range(3)]
    assert neighbours[0] > 0.5 > neighbours[2] > 0.1 > abs(neighbours[1])


def test_random_scanners_are_repeatable_and_change_the_image(heads):
    image, mask = heads[0]
    seen = [spoil(image, mask, np.random.default_rng(seed)) for seed in (*range(12), 0)]
    np.testing.assert_array_equal(seen[0], seen[-1])
    changes = [np.abs(s - image)[mask].mean() for s in seen[:-1]]
    assert 0 < sum(c == 0 for c in changes) < 8
    assert max(changes) > 0.02
    assert all((s[~mask] == 0).all() for s in seen)
