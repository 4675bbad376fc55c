"""Every reason to doubt a result is said in a sentence, and the gravest decides the verdict."""

from types import SimpleNamespace

import numpy as np
import pytest

from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.typicality import Typicality, typicality
from blindharmony.quality.verdict import judge

BRAIN = load_template().data
INSIDE = BRAIN > 0


def scan(*, overlap=0.95, spacing=(1.0, 1.0, 1.0), millilitres=1300, image=BRAIN, mask=INSIDE):
    """What a prepared scan tells about itself."""
    native = np.ones((round(millilitres / np.prod(spacing)), 10, 100), bool)
    return SimpleNamespace(
        registration=SimpleNamespace(overlap=overlap),
        native=SimpleNamespace(inside=lambda: native, spacing=spacing),
        scan=SimpleNamespace(data=np.where(mask, image, 0), inside=lambda: mask),
    )


def like(excess, level=2):
    """A scan whose one level is so many spreads less probable than the target's own; bits of those are 9."""
    levels = [9.0] * 5
    levels[level] += 0.15 * excess
    return Typicality(9.0, tuple(levels), tuple((x - 9.0) / 0.15 for x in levels))


def half():
    kept = INSIDE.copy()
    kept[: kept.shape[0] // 2] = False
    return kept


def test_a_good_scan_is_good(tiny_target):
    found = judge(scan(), like(8.0), like(0.5), tiny_target, ())
    assert (found.level, found.warnings, found.advice) == ("good", (), ())


@pytest.mark.parametrize(
    ("changes", "after", "level", "said"),
    [
        ({"overlap": 0.8}, 0.5, "caution", "only 0.80"),
        ({"millilitres": 400}, 0.5, "caution", "400 ml"),
        ({"millilitres": 2500}, 0.5, "caution", "2500 ml"),
        ({"mask": half()}, 0.5, "poor", "misses"),
        ({"image": BRAIN.max() - BRAIN}, 0.5, "poor", "swapped"),
        ({"spacing": (1.0, 1.0, 2.5)}, 0.5, "good", "2.5 mm thick"),
        ({}, 7.0, "caution", "7.0 spreads less probable"),
        ({}, 500.0, "poor", "500.0 spreads less probable"),
    ],
)
def test_every_reason_is_said(tiny_target, changes, after, level, said):
    found = judge(scan(**changes), like(20.0), like(after), tiny_target, ())
    assert found.level == level
    assert said in " ".join(found.warnings)
    assert level == "good" or found.advice


def test_smoother_than_the_target_is_a_reason_to_look(tiny_target):
    found = judge(scan(), like(-30.0, level=0), like(-30.0, level=0), tiny_target, ())
    assert found.level == "caution"
    assert any("smoother" in w for w in found.warnings)


@pytest.mark.parametrize(("shared", "advice"), [(True, "without --scanner or --group"), (False, "other scans")])
def test_what_the_method_doubts_is_passed_on(tiny_target, shared, advice):
    found = judge(scan(), like(5.0), like(0.5), tiny_target, ("the header was odd",), ("it fits badly",), shared=shared)
    assert found.level == "caution"
    assert found.warnings[:2] == ("the header was odd", "it fits badly")
    assert advice in found.advice[0]


def test_a_scan_like_the_target_may_not_need_it_and_no_flow_is_said(tiny_target):
    assert "may not be needed" in judge(scan(), like(0.2), like(0.1), tiny_target, ()).advice[-1]
    assert "no whole-volume flow" in judge(scan(), None, None, tiny_target, ()).headline


def test_a_wild_voxel_is_improbable_not_impossible(tiny_target):
    inside = tiny_target.fit_region
    image = np.where(inside, 1.0, 0.0).astype(np.float32)
    usual = typicality(image, inside, tiny_target)
    image[tuple(np.argwhere(inside)[1000])] = 1e6
    found = typicality(image, inside, tiny_target)
    assert np.isfinite(found.bits)
    assert found.excess > usual.excess
