"""Numbers as people read them, and the metrics' refusals."""

import numpy as np
import pytest

from blindharmony.quality.metrics import ssim, wasserstein
from blindharmony.report.charts import ticks
from blindharmony.report.html import number, plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "not a number"),
        (float("inf"), "∞"),
        (-float("inf"), "−∞"),
        (1e-4, "0.0001"),
        (9.9e-5, "9.9e−05"),
        (999.9, "999.9"),
        (1000.0, "1\u202f000"),
        (1e7, "1e+07"),
        (0.0, "0"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_anything_recorded_is_one_short_text():
    assert plain(np.bool_(False)) == "no"
    assert plain(np.array([1, 2])) == "1, 2"
    assert plain((1.5, "x")) == "1.5, x"
    assert plain(np.float32(2)) == "2"
    assert plain(None) == "none"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 17.0), (0.001, 0.0013), (0.0, 9999.0)])
def test_ticks_lie_inside_and_are_even(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert low <= found[0] < found[-1] <= high
    assert np.ptp(np.diff(found)) < 1e-9 * high


def test_distances_want_curves_of_one_length():
    with pytest.raises(ValueError, match="shapes differ"):
        wasserstein(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="two levels"):
        wasserstein(np.zeros(1), np.zeros(1))


def test_similarity_of_constant_and_tiny_images():
    flat, mask = np.ones((12, 12, 12), np.float32), np.ones((12, 12, 12), bool)
    assert ssim(flat, flat, mask) == 1.0
    with pytest.raises(ValueError, match="smaller than the window"):
        ssim(flat[:3], flat[:3], mask[:3])
