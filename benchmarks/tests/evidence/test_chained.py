"""Matching with one more step: each step does what it is for, and nothing where there is nothing to do."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from blindharmony.errors import UsageError
from blindharmony.harmonization.summary import source_quantiles
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.preprocessing.registration import load_template
from blindharmony.preprocessing.steps import Scan
from blindharmony.quality.metrics import psnr, widths_mm
from blindharmony.training.augmentation import inside_mean
from blindharmony_benchmark.heads import inside_of, prepared_with
from blindharmony_benchmark.system import Picture
from blindharmony_benchmark.systems.chained import (
    CombatImages,
    DenoisedMatch,
    PooledPowerMatch,
    PowerMatch,
    SharpnessMatch,
    as_soft_as,
    denoised,
    exponent,
    noise_level,
    to_the_power,
)
from blindharmony_benchmark.systems.classical import CorrectedMatch, ItkMatch
from blindharmony_benchmark.systems.tissues import Ravel
from heads import smooth_field, texture


@settings(max_examples=10)
@given(power=st.floats(0.4, 2.5), gain=st.floats(0.1, 10))
def test_the_exponent_of_a_scanner_is_found(pictures, tiny_target, power, gain):
    quantiles = source_quantiles(pictures[0].image, pictures[0].mask, tiny_target)[0]
    before = exponent(quantiles, tiny_target)
    assert exponent(gain * quantiles**power, tiny_target) == pytest.approx(before / power, rel=1e-6)


def test_the_bias_field_is_found_again_in_the_contrast_of_the_power(pictures, material):
    head, recipe = pictures[0], PrepRecipe(n4_shrink_mm=16)
    field = smooth_field(head.image.shape, np.random.default_rng(5))
    coil = np.where(head.mask, head.image * np.exp(0.2 * field / field[head.mask].std()), 0).astype(np.float32)
    truth, seen = (
        prepared_with(Scan(x, load_template().affine, head.mask), recipe, np.eye(4)) for x in (coil, coil**1.5)
    )
    scan = Picture(head.subject, inside_of(seen.scan), seen.scan.inside(), inside_of(seen.scan), seen)
    target = replace(material.target, info=material.target.info.model_copy(update={"recipe": recipe}))
    found = to_the_power(scan, 1 / 1.5, target)
    assert psnr(inside_of(truth.scan), found, scan.mask) > 45
    once = to_the_power(replace(scan, prepared=None), 1 / 1.5, target)
    assert psnr(inside_of(truth.scan), once, scan.mask) < 35
    material = replace(material, target=target)
    alone, pool, match = (s().harmonize([scan], material)[0] for s in (PowerMatch, PooledPowerMatch, CorrectedMatch))
    assert np.allclose(alone, pool, atol=1e-5)
    assert np.abs(alone - match).max() > 0.01


def test_without_the_scan_as_it_came_a_power_changes_nothing(pictures, material):
    head = pictures[0]
    one, two = (s().harmonize([head], material)[0] for s in (PowerMatch, CorrectedMatch))
    assert np.abs(one - two)[head.mask].mean() < 1e-3


def taught(system, material):
    made = system()
    made.fit(material, lambda stage, share: None)
    return made


@pytest.mark.parametrize("factors", [(1.3, 1.0, 1.2), (0.85, 0.9, 1.0), (0.9, 1.3, 0.95)])
def test_a_scan_gets_the_sharpness_that_is_wanted_along_each_axis(factors):
    image, mask = texture()
    before = widths_mm(image, mask)
    found = as_soft_as(image, mask, before * factors)
    assert widths_mm(found, mask) == pytest.approx(before * factors, rel=0.03)
    assert not found[~mask].any()


def test_a_blurred_scan_is_sharpened_and_a_sharp_one_is_not(small):
    system, head = taught(SharpnessMatch, small), small.training[0]
    assert system.widths == pytest.approx(np.mean([widths_mm(p.image, p.mask) for p in small.training], 0), rel=0.01)
    soft = replace(head, image=inside_mean(head.image, head.mask, lambda x: ndimage.gaussian_filter(x, 0.8)))
    (match, worse), (sharp, better) = (s.harmonize([head, soft], small) for s in (CorrectedMatch(), system))
    assert psnr(match, sharp, head.mask) > 35
    assert psnr(match, better, head.mask) > psnr(match, worse, head.mask) + 3


def test_noise_is_measured_and_taken_out_of_a_noisy_scan():
    image, mask = texture(width=4)
    noisy = np.where(mask, image + np.random.default_rng(1).normal(0, 0.1, image.shape), 0).astype(np.float32)
    assert noise_level(image, mask) < 0.02
    assert noise_level(noisy, mask) == pytest.approx(0.1, rel=0.1)
    found = denoised(noisy, mask, 0.1)
    assert not found[~mask].any()
    assert psnr(image, found, mask) > psnr(image, noisy, mask) + 3


def test_only_a_scan_that_is_noisier_than_the_target_is_denoised(small, monkeypatch):
    system, head = taught(DenoisedMatch, small), min(small.training, key=lambda p: noise_level(p.image, p.mask))
    noise = np.random.default_rng(1).normal(0, 0.1, head.image.shape)
    noisy = replace(head, image=np.where(head.mask, head.image + noise, 0).astype(np.float32))
    (match, worse), (same, better) = (s.harmonize([head, noisy], small) for s in (CorrectedMatch(), system))
    assert np.array_equal(match, same)
    assert psnr(match, better, head.mask) > psnr(match, worse, head.mask) + 1


def test_without_scikit_image_it_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.restoration", None)
    with pytest.raises(UsageError, match="pip install scikit-image"):
        denoised(*texture(), 0.1)


def test_combat_of_images_takes_out_what_the_scanner_does_to_a_place(small):
    base, mask = texture(seed=9)

    def people(seeds, place):
        noise = (np.random.default_rng(k).normal(0, 0.05, mask.shape) for k in seeds)
        images = [np.where(mask, np.maximum(base + n + place, 0), 0).astype(np.float32) for n in noise]
        return tuple(Picture(f"sub-{k}", x, mask, x) for k, x in zip(seeds, images, strict=True))

    material = replace(small, training=people(range(6), 0))
    place = 0.15 * smooth_field(mask.shape, np.random.default_rng(0))
    scans, truths = people(range(6, 10), place), people(range(6, 10), 0)
    matched = CorrectedMatch().harmonize(scans, material)
    found = taught(CombatImages, material).harmonize(scans, material)
    before, after = (
        np.mean([psnr(t.image, x, mask) for t, x in zip(truths, m, strict=True)]) for m in (matched, found)
    )
    assert after > before + 3
    assert all(not x[~mask].any() for x in found)


LOOKING = [DenoisedMatch, SharpnessMatch, CombatImages, ItkMatch, Ravel]


@pytest.mark.parametrize("system", LOOKING)
def test_images_have_the_right_form(system, small):
    rng = np.random.default_rng(0)
    noisy = [np.where(p.mask, np.abs(p.image + rng.normal(0, 0.1, p.mask.shape)), 0) for p in small.training]
    scans = [replace(p, image=x.astype(np.float32)) for p, x in zip(small.training[:2], noisy, strict=False)]
    found = taught(system, small).harmonize(scans, small)
    for scan, x in zip(scans, found, strict=True):
        assert x.dtype == np.float32
        assert x.shape == scan.mask.shape
        assert np.isfinite(x).all()
        assert not x[~scan.mask].any()
        assert (x >= 0).all()


@pytest.mark.parametrize("system", LOOKING)
def test_without_training_scans_it_says_so(system, small):
    with pytest.raises(UsageError, match="leave"):
        taught(system, replace(small, training=()))
