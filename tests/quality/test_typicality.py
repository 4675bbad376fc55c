"""Masks that miss the brain, tissues out of order, and where a number stands among a few known ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from blindharmony.errors import TargetError
from blindharmony.flows.pyramid import redraw
from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.checks import mask_fit, tissue_order
from blindharmony.quality.typicality import (
    intensity_score,
    rare_z,
    reference_score,
    tissue_scores,
    typicality,
)
from blindharmony.sampling import drawn_heads, redrawn


@pytest.fixture(scope="module")
def brain():
    data = load_template().data
    return data / np.sqrt((data[data > 0] ** 2).mean()), data > 0


def halved(mask):
    out = mask.copy()
    out[80:] = False
    return out


def test_a_good_mask_has_no_problem(brain, tiny_target):
    fit = mask_fit(brain[1], tiny_target)
    assert fit.missed < 0.01
    assert fit.outside < 0.001
    assert fit.size == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("change", "measure"),
    [(halved, "missed"), (lambda m: np.ones_like(m), "outside"), (lambda m: np.roll(m, 30, 2), "missed")],
)
def test_half_a_head_no_stripping_and_misplacement_are_noticed(brain, tiny_target, change, measure):
    assert getattr(mask_fit(change(brain[1]), tiny_target), measure) > 0.12


def test_masks_that_agree_nowhere_say_nothing(brain, tiny_target):
    nowhere = replace(tiny_target, coverage=np.minimum(tiny_target.coverage, np.float32(0.9)))
    assert mask_fit(brain[1], nowhere).missed is None


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
    assert tissue_order(inverted, mask, tiny_target) < -0.9
    noise = np.random.default_rng(0).random(image.shape, np.float32)
    assert abs(tissue_order(noise, mask, tiny_target)) < 0.1
    assert tissue_order(np.ones_like(image), mask, tiny_target) == 0


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.floats(-20, 20))
def test_a_score_is_monotone_and_counts(reference, value):
    score, more = (reference_score("x", v, reference, least_spread=0.1) for v in (value, value + 1))
    assert 0 <= score.quantile <= more.quantile <= 1
    assert score.rank == sum(k < value for k in reference)
    assert score.count == len(reference)


def test_without_a_reference_there_is_no_score():
    with pytest.raises(ValueError, match="no target scan"):
        reference_score("x", 1.0, [])


def test_the_predictive_quantile_is_right_on_average():
    rng = np.random.default_rng(0)
    low = [reference_score("x", v[0], v[1:]).quantile < 0.1 for v in rng.normal(size=(4000, 5))]
    assert np.mean(low) == pytest.approx(0.1, abs=0.015)


def test_every_level_is_compared_with_the_same_level_of_the_held_out_scans(brain, tiny_target):
    reference = np.random.default_rng(0).normal(9, 1, (4, 5)) * [1, 2, 0.01, 3, 1]
    held = tiny_target.info.held_out.model_copy(update={"level_bits": tuple(map(tuple, reference))})
    target = replace(tiny_target, info=tiny_target.info.model_copy(update={"held_out": held}))
    image, mask = brain
    judged = typicality(image.astype(np.float32), mask, target)
    spread = np.maximum(reference.std(0, ddof=1), 0.15)
    values = np.array([score.value for score in judged.levels])
    np.testing.assert_allclose([score.z for score in judged.levels], (values - reference.mean(0)) / spread)
    assert judged.worst.z == max(score.z for score in judged.levels)
    assert judged.in_all.count == 3


def test_without_held_out_scans_the_flow_tells_nothing(brain, tiny_target):
    for missing in ("level_bits", "bits_per_dim"):
        held = tiny_target.info.held_out.model_copy(update={missing: ()})
        target = replace(tiny_target, info=tiny_target.info.model_copy(update={"held_out": held}))
        assert typicality(brain[0].astype(np.float32), brain[1], target) is None


def test_one_scan_in_fifty_is_rare_and_one_in_thirty_is_not():
    reference = list(np.random.default_rng(0).normal(size=30))
    scale = np.std(reference, ddof=1) * np.sqrt(1 + 1 / 30)
    for share, rare in ((1 / 45, False), (1 / 55, True)):
        far = stats.t.ppf(1 - share, 29) * scale
        high, low = (reference_score("x", np.mean(reference) + sign * far, reference) for sign in (1, -1))
        assert (high.high, high.low, low.high, low.low) == (rare, False, False, rare)


def test_rare_and_usual_are_one():
    reference = [-1.0, 0.0, 1.0]
    assert rare_z(3) == pytest.approx(5.6, abs=0.05)
    for off, rare in ((-0.1, False), (0.1, True)):
        score = reference_score("x", rare_z(3) + off, reference)
        assert (score.high, score.quantile > 0.98) == (rare, rare)


def test_a_score_keeps_its_place_in_another_unit():
    score = reference_score("x", 4.0, [0.0, 1.0, 2.0])
    other = reference_score("x", 40.0, [0.0, 10.0, 20.0])
    assert score.scaled(10.0) == other


def test_in_json_the_fields_keep_their_names():
    assert {"name", "value", "excess", "quantile", "rank", "known"} <= set(
        reference_score("x", 1.0, [0.0, 1.0]).model_dump(by_alias=True)
    )


def test_intensities_of_the_target_are_usual_and_others_are_not(tiny_target):
    curves, levels = tiny_target.quantiles, tiny_target.levels
    assert not intensity_score(curves[1], curves, levels).high
    far = [intensity_score(tiny_target.mean_curve**p, curves, levels) for p in (1.1, 3, 8)]
    assert [score.value for score in far] == sorted(score.value for score in far)
    assert [score.high for score in far] == [False, True, True]
    assert intensity_score(tiny_target.mean_curve, curves[:2], levels) is None


def test_tissues_of_the_target_are_usual_and_others_are_not(tiny_target):
    curves, levels = tiny_target.quantiles, tiny_target.levels
    assert not any(score.high or score.low for score in tissue_scores(curves[2], curves, levels))
    brighter = {score.name: score for score in tissue_scores(2 * curves[2], curves, levels)}
    assert brighter["white matter"].high
    assert not brighter["gray / white contrast"].high
    assert tissue_scores(np.ones_like(levels), curves, levels) == ()


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
