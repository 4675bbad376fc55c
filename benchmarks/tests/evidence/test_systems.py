"""Every system that needs no training: what all promise, and what the rank methods promise more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from blindharmony.errors import BlindHarmonyError
from blindharmony.quality.metrics import psnr
from blindharmony_benchmark.registry import ENTRIES
from blindharmony_benchmark.system import Picture
from blindharmony_benchmark.systems.blind import CurveUnrefined
from blindharmony_benchmark.systems.classical import (
    CorrectedMatch,
    Match,
    MatchWhole,
    PooledMatch,
    WhiteStripe,
    ZScore,
    last_peak,
    moments,
    target_values,
    white_stripe,
)
from blindharmony_benchmark.systems.spectra import FourierAdaptation, amplitude, amplitude_swap, cosine_swap

# The others have small heads of their own.
ELSEWHERE = (
    "fcm",
    "lsq",
    "fourier-adaptation",
    "denoise-match",
    "sharp-match",
    "combat-images",
    "ravel",
    "itk-match",
    "curve",
    "group",
)
CHEAP = [e.name for e in ENTRIES.values() if not e.costly and e.name not in ELSEWHERE]
RANKS = [Match, CorrectedMatch, MatchWhole, PooledMatch, CurveUnrefined]


def seen(head, image):
    return Picture(head.subject, image, head.mask, image)


@pytest.mark.parametrize("name", CHEAP)
def test_images_of_the_right_form_in_the_right_order(name, pictures, material):
    system = ENTRIES[name].system()
    system.fit(material, lambda stage, share: None)
    found = system.harmonize(pictures, material)
    assert len(found) == 2
    for scan, image in zip(pictures, found, strict=True):
        assert image.dtype == np.float32
        assert image.shape == scan.mask.shape
        assert np.isfinite(image).all()
        assert not image[~scan.mask].any()
    if not system.together:
        other = system.harmonize(pictures[1:], material)
        assert np.array_equal(other[0], found[1])


def test_the_published_iteration_says_what_the_target_lacks(pictures, material):
    with pytest.raises(BlindHarmonyError, match="slice"):
        ENTRIES["latent"].system().harmonize(pictures[:1], material)


@settings(max_examples=3)
@given(power=st.floats(0.5, 2.0), lift=st.floats(0.0, 2.0), system=st.sampled_from(RANKS))
def test_rank_methods_do_not_care_about_an_increasing_change(pictures, tiny_target, power, lift, system):
    from blindharmony_benchmark.system import Material

    material = Material(tiny_target, (), (), (), (), None, 0)
    head = pictures[0]
    top = head.image.max()
    changed = (top * (head.image / top) ** power * np.exp(lift * head.image / top)).astype(np.float32)
    one, two = (system().harmonize([seen(head, x)], material)[0] for x in (head.image, changed))
    # Beyond the brightest and below the darkest known rank a curve is only continued.
    low, high = np.quantile(head.image[head.mask], [0.005, 0.99])
    known = head.mask & (head.image > low) & (head.image < high)
    assert np.abs(one - two)[known].max() < 0.02


def test_a_matched_scan_has_the_targets_histogram(pictures, material):
    target = material.target
    image = Match().harmonize(pictures[:1], material)[0]
    region = pictures[0].mask & target.fit_region
    assert np.abs(np.quantile(image[region], target.levels) - target.mean_curve).max() < 0.01


@pytest.mark.parametrize("system", [ZScore, WhiteStripe])
def test_moments_become_the_targets(system, pictures, material):
    scan, target = pictures[0], material.target
    image = system().harmonize([scan], material)[0]
    measure = moments if system is ZScore else white_stripe
    found = measure(image[scan.mask & target.fit_region])
    assert found == pytest.approx(measure(target_values(target)), abs=0.02)


def test_the_last_peak_is_white_matter_not_the_tail():
    rng = np.random.default_rng(0)
    parts = [rng.normal(0.4, 0.05, 2000), rng.normal(0.8, 0.05, 5000), rng.normal(1.2, 0.05, 6000)]
    tail = rng.uniform(1.5, 3.0, 200)
    assert last_peak(np.concatenate([*parts, tail])) == pytest.approx(1.2, abs=0.03)


def test_a_swapped_spectrum_keeps_every_phase():
    rng = np.random.default_rng(0)
    image, other = rng.uniform(size=(2, 12, 10, 8)).astype(np.float32)
    out = np.fft.rfftn(amplitude_swap(image, amplitude(other), 0.2))
    before = np.fft.rfftn(image)
    # What is real has no free phase but its sign.
    assert np.abs(np.angle(out / before)).max() < 1e-3
    assert np.abs(out)[0, 0, 0] == pytest.approx(np.abs(np.fft.rfftn(other))[0, 0, 0], rel=1e-4)
    assert np.abs(out)[5, 4, 3] == pytest.approx(np.abs(before)[5, 4, 3], rel=1e-3)


def test_of_each_slice_only_the_first_cosine_coefficients_are_the_references():
    rng = np.random.default_rng(0)
    image, other = rng.uniform(size=(2, 12, 10, 8)).astype(np.float32)
    found = cosine_swap(image, other)
    for k in range(8):
        before, wanted, after = (fft.dctn(x[:, :, k], norm="ortho") for x in (image, other, found))
        assert np.allclose(after[:3, :3], wanted[:3, :3], atol=1e-5)
        kept = np.ones(after.shape, bool)
        kept[:3, :3] = False
        assert np.allclose(after[kept], before[kept], atol=1e-5)


@given(seed=st.integers(0, 99), beta=st.floats(0, 0.5))
def test_a_scans_own_spectrum_changes_nothing(seed, beta):
    image = np.random.default_rng(seed).uniform(size=(8, 9, 10)).astype(np.float32)
    assert np.allclose(amplitude_swap(image, amplitude(image), beta), image, atol=1e-5)


def test_the_window_is_tuned_once(pictures, material, monkeypatch):
    calls = []
    monkeypatch.setattr("blindharmony_benchmark.systems.spectra.BETAS", (0.0, 0.02))
    monkeypatch.setattr("blindharmony_benchmark.systems.spectra._TAUGHT_BY", ("gamma1.5",))
    for _ in range(2):
        system = FourierAdaptation()
        system.fit(material, lambda stage, share: calls.append(stage))
        assert system.beta in (0.0, 0.02)
    assert len(calls) == 1
    head = pictures[0]
    bright = seen(head, 2 * head.image)
    found = system.harmonize([bright], material)[0]
    assert not found[~head.mask].any()
    assert psnr(head.image, found, head.mask) > psnr(head.image, bright.image, head.mask)
