"""Masks that miss the brain, tissues out of order, and where a number stands among a few known ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from blindharmony.api import judge_assessment as judge
from blindharmony.errors import TargetError
from blindharmony.flows.pyramid import redraw
from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.checks import _MISSED, _OUTSIDE, MaskFit, mask_fit, order_problem, tissue_order
from blindharmony.quality.typicality import intensity_standing, standing, typicality
from blindharmony.sampling import drawn_heads, redrawn


@pytest.fixture(scope="module")
def brain():
    data = load_template().data
    return data / np.sqrt((data[data > 0] ** 2).mean()), data > 0


@pytest.mark.parametrize(
    ("before", "after", "order", "verdict"),
    [
        (1.0, 0.5, 1.0, "target-like"),
        (9.0, 0.5, 1.0, "foreign"),
        (9.0, 9.0, 1.0, "not explainable"),
        (1.0, 9.0, 1.0, "not explainable"),
        (1.0, 0.5, -1.0, "not explainable"),
    ],
)
def test_the_verdict_follows_from_what_is_rare(brain, tiny_target, before, after, order, verdict):
    known = [-1.0, -0.5, 0.5, 1.0]
    rows = [[standing("detail at 2 mm", value, known)] for value in (before, after)]
    found, reasons = judge(*rows, mask_fit(brain[1], tiny_target), order, contrast="T1w")
    assert found == verdict
    assert bool(reasons) == (verdict != "target-like")


def halved(mask):
    out = mask.copy()
    out[80:] = False
    return out


def test_a_good_mask_has_no_problem(brain, tiny_target):
    fit = mask_fit(brain[1], tiny_target)
    assert fit.grade == 0
    assert fit.problems() == []
    assert fit.size == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("limit", [_MISSED[0], _OUTSIDE[0]])
def test_a_mask_at_its_limit_is_still_good(limit):
    """What is graded is what is told: nothing at the limit, something beyond it."""
    share = {"missed": limit, "outside": 0.0} if limit == _MISSED[0] else {"missed": 0.0, "outside": limit}
    at, beyond = (MaskFit(size=1, **{k: v * by for k, v in share.items()}) for by in (1, 1.001))
    assert (at.grade, at.problems()) == (0, [])
    assert beyond.grade == len(beyond.problems()) == 1


@pytest.mark.parametrize(
    ("change", "word"), [(halved, "misses"), (lambda m: np.ones_like(m), "skull"), (lambda m: np.roll(m, 30, 2), "mis")]
)
def test_half_a_head_no_stripping_and_misplacement_are_noticed(brain, tiny_target, change, word):
    fit = mask_fit(change(brain[1]), tiny_target)
    assert fit.grade == 2
    assert any(word in text for text in fit.problems())


@pytest.mark.parametrize("curve", [lambda x: 3 * x, lambda x: x**2, np.sqrt])
def test_increasing_curves_do_not_change_the_order_of_tissues(brain, tiny_target, curve):
    image, mask = brain
    plain = tissue_order(image, mask, tiny_target)
    assert plain > 0.9
    assert tissue_order(curve(np.maximum(image, 0)).astype(np.float32), mask, tiny_target) == pytest.approx(
        plain, abs=0.02
    )


def test_inverted_contrast_and_noise_are_out_of_order(brain, tiny_target):
    image, mask = brain
    inverted = np.where(mask, 2 - image, 0).astype(np.float32)
    assert "swapped" in order_problem(tissue_order(inverted, mask, tiny_target), "T1w")
    noise = np.random.default_rng(0).random(image.shape, np.float32)
    assert "not where" in order_problem(tissue_order(noise, mask, tiny_target), "T1w")
    assert tissue_order(np.ones_like(image), mask, tiny_target) == 0


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.floats(-20, 20))
def test_standing_is_monotone_and_counts(known, value):
    found = standing("x", value, known, least_spread=0.1)
    more = standing("x", value + 1, known, least_spread=0.1)
    assert 0 <= found.quantile <= more.quantile <= 1
    assert found.rank == sum(k < value for k in known)
    assert found.known == len(known)


def test_the_predictive_quantile_is_right_on_average():
    rng = np.random.default_rng(0)
    low = [standing("x", v[0], v[1:]).quantile < 0.1 for v in rng.normal(size=(4000, 5))]
    assert np.mean(low) == pytest.approx(0.1, abs=0.015)


def test_every_level_is_compared_with_the_same_level_of_the_held_out_scans(brain, tiny_target):
    known = np.random.default_rng(0).normal(9, 1, (4, 5)) * [1, 2, 0.01, 3, 1]
    held = tiny_target.info.held_out.model_copy(update={"level_bits": tuple(map(tuple, known))})
    target = replace(tiny_target, info=tiny_target.info.model_copy(update={"held_out": held}))
    image, mask = brain
    found = typicality(image.astype(np.float32), mask, target)
    spread = np.maximum(known.std(0, ddof=1), 0.15)
    np.testing.assert_allclose(found.excesses, (np.array(found.levels) - known.mean(0)) / spread)
    assert found.excess == max(found.excesses)


def test_one_scan_in_fifty_is_rare_and_one_in_thirty_is_not():
    known = list(np.random.default_rng(0).normal(size=30))
    scale = np.std(known, ddof=1) * np.sqrt(1 + 1 / 30)
    for share, rare in ((1 / 45, False), (1 / 55, True)):
        far = stats.t.ppf(1 - share, 29) * scale
        high, low = (standing("x", np.mean(known) + sign * far, known) for sign in (1, -1))
        assert (high.high, high.low, low.high, low.low) == (rare, False, False, rare)


def test_intensities_of_the_target_stand_inside_and_others_outside(tiny_target):
    assert not intensity_standing(tiny_target.quantiles[1], tiny_target).high
    far = [intensity_standing(tiny_target.mean_curve**p, tiny_target).quantile for p in (1.1, 3, 8)]
    assert far == sorted(far)
    assert far[1] > 0.9
    assert intensity_standing(tiny_target.mean_curve, replace(tiny_target, quantiles=tiny_target.quantiles[:2])) is None


def test_redrawing_keeps_the_coarse_image(tiny_target):
    flow = tiny_target.pyramid
    x = torch.rand(1, 1, *flow.spec.shape)
    mask = torch.from_numpy(tiny_target.coverage > 0.5)[None, None]
    again = redraw(flow, x, mask, levels=2, generator=torch.Generator().manual_seed(0))
    kept = flow.split(x.where(mask, 0.0), mask)[1].coarse
    torch.testing.assert_close(flow.split(again, mask)[1].coarse, kept, atol=1e-4, rtol=1e-4)
    assert (again[~mask] == 0).all()
    assert not torch.allclose(again, x.where(mask, 0.0))


def test_heads_are_repeatable_and_steady_at_temperature_zero(tiny_target):
    a, b = (drawn_heads(tiny_target, seed=3, number=1) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    heads = [h.tobytes() for seed in range(3) for h in drawn_heads(tiny_target, seed=seed, number=2)]
    assert len(set(heads)) == 6
    zero = drawn_heads(tiny_target, temperature=0.0, number=2)
    np.testing.assert_array_equal(zero[0], zero[1])
    bare = replace(tiny_target, pyramid=None)
    with pytest.raises(TargetError, match="whole-volume flow"):
        drawn_heads(bare)


def test_the_first_of_the_redrawn_is_the_head_itself(brain, tiny_target):
    image, mask = brain
    images = redrawn(tiny_target, image.astype(np.float32), mask)
    assert len(images) == len(tiny_target.pyramid.levels) + 1
    change = [np.abs(x - images[0]).mean() for x in images]
    assert change[0] == 0
    assert change[-1] > change[1] > 0
