"""Measures and statistics on cases whose answer is known."""

import sys

import numpy as np
import pytest

from blindharmony_benchmark.measures import (
    average,
    balanced_accuracy,
    curve_points,
    dice,
    distance,
    likeness,
    of_truth,
    overlap,
    profile,
    regions,
    volume_error,
)
from blindharmony_benchmark.results import holm, interval, sign_flip
from blindharmony_benchmark.run import Meter


def test_dice_and_volume_of_a_shifted_cube():
    one = np.zeros((10, 10, 10), bool)
    one[2:6, 2:6, 2:6] = True
    other = np.roll(one, 1, axis=0)
    assert dice(one, other) == pytest.approx(0.75)
    assert volume_error(one, other) == 0
    larger = one.copy()
    larger[6, 2:6, 2:6] = True
    assert overlap(larger, one) == pytest.approx({"dice": 2 * 64 / 144, "volume": 25, "volume_signed": 25})
    assert np.isnan(dice(one & False, one & False))


def test_a_probe_tells_what_differs_and_only_that():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(8, 5)), rng.normal(size=(8, 5))
    assert balanced_accuracy(one, other + 6) == 1
    assert balanced_accuracy(one, other) < 0.85


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = [low < 5 < high for low, high in (interval(rng.normal(5, 2, 20)) for _ in range(150))]
    assert 0.86 < np.mean(hits) <= 1
    few = [low < 5 < high for low, high in (interval(rng.normal(5, 2, 4)) for _ in range(150))]
    assert np.mean(few) < 0.92
    assert interval([1.0, 1.0]) == (1.0, 1.0)


def test_sign_flips_are_exact():
    assert sign_flip([1, 1, 1, 1, 1]) == pytest.approx(2 / 32)
    assert sign_flip([1, -1]) == 1
    rng = np.random.default_rng(0)
    many = rng.normal(0, 1, 40)
    assert sign_flip(many - many.mean()) == pytest.approx(1, abs=0.02)  # drawn, not exact, from 15 subjects on
    assert sign_flip(many + 3) < 0.001


def test_the_truth_is_like_itself(pictures):
    scan = pictures[0]
    found = likeness(scan.image, scan, scan.image)
    assert found["psnr"] == float("inf")
    assert (found["ssim"], found["edges"]) == (1, 0)
    assert found["contrast"] == of_truth(scan.image, scan)["truth_contrast"]
    curve = curve_points(scan, {"found": 2 * scan.image})
    assert np.allclose(curve["found"], 2 * np.array(curve["x"]), rtol=0.1, atol=0.05)


def test_a_scan_is_no_distance_from_itself(pictures, tiny_target):
    where = regions(pictures, tiny_target)
    one, other = (profile(p.image, p.mask, where) for p in pictures)
    assert distance(one, one) == 0
    assert distance(one, other) > 0
    assert distance(average([one, other]), one) == pytest.approx(distance(one, other) / 2, rel=0.01)
    brighter = profile(pictures[0].image + 0.1, pictures[0].mask, where)
    assert distance(one, brighter) == pytest.approx(0.1, abs=1e-3)


def test_the_meter_sees_memory():
    with Meter() as meter:
        block = np.ones(30_000_000)
    assert meter.seconds > 0
    if np.isnan(meter.megabytes):
        assert not sys.platform.startswith("linux")
        return
    assert meter.megabytes > block.nbytes / 1024**2


def test_corrected_p_values_are_those_of_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([]) == []
    rng = np.random.default_rng(0)
    p = rng.uniform(size=12).tolist()
    assert all(c >= x for c, x in zip(holm(p), p, strict=True))
    assert np.argsort(holm(p), kind="stable")[0] == np.argmin(p)
