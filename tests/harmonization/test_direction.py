"""A result that went the wrong way, and one that may stay far."""

import numpy as np
import pytest

from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.checks import moved_away


@pytest.fixture(scope="module")
def head():
    brain = load_template().data
    inside = brain > 0
    return np.where(inside, brain / np.sqrt((brain[inside] ** 2).mean()), 0).astype(np.float32), inside


def test_only_a_scan_that_ends_beyond_everybody_and_beyond_itself_is_told(head, tiny_target):
    image, inside = head
    matched = harmonize_curve(image, inside, tiny_target).image
    far, farther = matched**1.5, matched**2
    assert moved_away(matched, matched, inside, tiny_target) is None
    assert moved_away(far, matched, inside, tiny_target) is None
    assert moved_away(farther, far, inside, tiny_target) is None
    assert "away from the target's" in moved_away(matched, far, inside, tiny_target)
