"""Laws of the alarm that a scanner has changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony.quality.drift import alarm_limit, changes, scores, usual

NAMES = ("contrast", "fluid", "smoothness", "shading")


def scans(rng, count, mean=0.7, spread=0.02):
    return {name: rng.normal(mean, spread, count) for name in NAMES}


def joined(*parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def test_without_a_change_alarms_are_as_rare_as_was_asked():
    rng = np.random.default_rng(0)
    alarms = np.mean([bool(changes(scans(rng, 100))) for _ in range(400)])
    assert alarms < 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean([bool(changes(scans(rng, 100), rate=0.6)) for _ in range(100)]) > 0.25


@pytest.mark.parametrize(("size", "most", "seen"), [(1.5, 20, 0.8), (2, 12, 1), (3, 7, 1), (6, 5, 1)])
def test_a_change_is_found_soon_and_where_it_was(size, most, seen):
    """Each scan is compared with all before it: a small change that is not seen soon becomes the custom."""
    rng, waits, off = np.random.default_rng(1), [], []
    for _ in range(40):
        after = {**scans(rng, 60), "smoothness": rng.normal(0.7 + size * 0.02, 0.02, 60)}
        for change in changes(joined(scans(rng, 30), after)):
            if change.measure == "smoothness" and change.noticed >= 30:
                waits.append(change.noticed - 29)
                off.append(abs(change.at - 30))
                break
    assert len(waits) >= seen * 40
    assert np.median(waits) <= most
    assert np.median(off) <= 2


def test_two_changes_are_two():
    rng = np.random.default_rng(2)
    away = {**scans(rng, 30), "shading": rng.normal(0.9, 0.02, 30)}
    found = changes(joined(scans(rng, 30), away, scans(rng, 30)))
    assert [(c.measure, c.at) for c in found] == [("shading", 30), ("shading", 60)]
    assert found[0].size > 5 > -5 > found[1].size
    assert found[0].sentence.startswith("shading rose from 0.69")
    assert found[1].sentence.startswith("shading fell from 0.9 to 0.69")


def test_one_odd_person_is_no_change():
    rng = np.random.default_rng(3)
    for _ in range(50):
        values = scans(rng, 40)
        values["contrast"][20] += 1.0
        assert not [c for c in changes(values) if c.measure == "contrast"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-5, 5))
def test_the_unit_does_not_matter(seed, factor, shift):
    values = np.random.default_rng(seed).normal(size=30)
    np.testing.assert_allclose(scores(factor * values + shift), scores(values), atol=1e-6)


def test_scans_that_are_not_known_are_left_out():
    rng = np.random.default_rng(4)
    x = np.r_[rng.normal(0.7, 0.02, 30), rng.normal(0.8, 0.02, 30)]
    gaps = np.insert(x, [3, 30, 45], np.nan)
    (change,) = changes({"contrast": gaps})
    assert np.isfinite(gaps[change.at])
    assert change.at - 2 == changes({"contrast": x})[0].at
    assert [(first, last) for first, last, *_ in usual(gaps, [change])] == [(0, change.at - 1), (change.at, 62)]


def test_constant_numbers_are_no_change_and_any_other_is():
    assert changes({"x": np.full(50, 0.3)}) == []
    (change,) = changes({"x": np.r_[np.full(20, 0.3), np.full(20, 0.4)]})
    assert change.at == 20
    assert "from no spread" in change.sentence
    assert change.size == np.inf
    (change,) = changes({"x": np.r_[np.full(20, 0.4), np.full(20, 0.3)]})
    assert change.size == -np.inf
    assert " fell from " in change.sentence


def test_fewer_scans_than_a_comparison_needs_say_nothing():
    assert changes({"x": [1.0, 5.0, 90.0]}) == []
    assert changes({}) == []


def test_rarer_false_alarms_take_a_higher_limit():
    limits = [alarm_limit(4, rate=rate) for rate in (0.5, 0.05, 0.005)]
    assert limits == sorted(limits)
    assert alarm_limit(8) > alarm_limit(4)
