"""The bias field found again, round by round, and what tells the rounds when to stop."""

from dataclasses import replace

import numpy as np
import pytest

from blindharmony.errors import UsageError
from blindharmony.harmonization.curve import ScannerRounds, bias_estimated_again, in_target_contrast
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import summarize
from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.preprocessing.steps import BiasField
from blindharmony.settings import BiasAgainSettings, HarmonizeSettings

QUICK = PrepRecipe(n4_shrink_mm=12)
AT = np.linspace(0.02, 3, 400)


@pytest.fixture(scope="module")
def target(tiny_target):
    return replace(tiny_target, digest="0" * 12, info=tiny_target.info.model_copy(update={"recipe": QUICK}))


@pytest.fixture(scope="module")
def pair(stripped_head):
    """A head with a strong field as the target's scanner sees it, and as one that squares sees it, prepared."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in stripped_head.data.shape], indexing="ij")
    data = np.maximum(stripped_head.data, 0) * np.exp(0.25 * x - 0.2 * y * z)
    volumes = [read_volume((data**p).astype(np.float32), affine=stripped_head.affine) for p in (1, 2)]
    return [prepare(v, QUICK) for v in volumes]


def model(power, target, lift=1.0, next_round=None):
    return ScannerModel(CurveMap.through(AT, AT**power), 2, target.digest, 0.0, lift, next_round)


def off(found, wanted):
    """How far two prepared scans are apart, whatever curve may still come: of ranks, in the truth's intensities."""
    inside = found.scan.inside() & wanted.scan.inside()
    a, b = found.scan.data[inside], wanted.scan.data[inside]
    return float(np.sqrt(((np.sort(b)[np.argsort(np.argsort(a))] - b) ** 2).mean()))


@pytest.mark.long
def test_a_second_lift_repairs_what_a_wrong_first_one_left(pair, target):
    wanted, seen = pair
    wrong = model(0.75, target)
    once = bias_estimated_again(seen, target, [wrong])
    twice = bias_estimated_again(seen, target, [wrong, model(0.5 / 0.75, target)])
    right = bias_estimated_again(seen, target, [model(0.5, target)])
    assert off(twice, wanted) < 0.5 * off(once, wanted) < 0.5 * off(seen, wanted)
    assert off(twice, wanted) < 2 * off(right, wanted) + 1e-3


def test_the_last_model_of_a_scanner_is_what_is_left(pair, target):
    first, last = model(0.5, target), model(1.0, target)
    found, left = in_target_contrast(pair[1], target, first.with_round(last))
    assert left.content == last.content
    np.testing.assert_array_equal(found.scan.data, bias_estimated_again(pair[1], target, [first]).scan.data)


def test_a_curve_that_is_sure_of_nothing_lifts_nothing(pair, target):
    assert bias_estimated_again(pair[1], target, [model(0.5, target, lift=0.0)] * 2) is pair[1]
    history = tuple(applied for applied in pair[1].history if not isinstance(applied.result, BiasField))
    plain = replace(pair[1], history=history)
    assert bias_estimated_again(plain, target, [model(0.5, target)]) is plain


def test_rounds_end(pair, target):
    summary = summarize(pair[1].scan.data, pair[1].scan.inside(), target)
    rounds, count = ScannerRounds(target, model(0.5, target)), 0
    while rounds.wanted:
        assert rounds.number == 2 + count
        assert rounds.of_benefit == (count == 2)
        rounds, count = rounds.after([summary, summary]), count + 1
    assert count == HarmonizeSettings().looks_after("n4-itk") == 1 + BiasAgainSettings().rounds
    assert [m.scans for m in rounds.model.rounds] == [2] * 3
    unsure = replace(rounds.model, lift=0.0, next_round=None)
    assert ScannerRounds(target, unsure).of_benefit, (
        "no field is found again in the contrast of a curve that is all error"
    )
    assert not ScannerRounds(target, unsure, settings=HarmonizeSettings(on_harm="result")).wanted


def test_the_last_look_tells_what_the_curve_does(pair, target):
    summary = summarize(pair[1].scan.data, pair[1].scan.inside(), target)
    asking = ScannerRounds(target, replace(model(0.5, target), lift=0.0))
    for distances, helps in (((2.0, 1.0), (1.0, 1.8)), True), (((2.0, 1.0), (1.0, 2.2)), False):
        told = asking.after([replace(summary, distances=both) for both in distances])
        assert (told.model.distances, told.wanted) == (tuple(np.mean(distances, 0)), False)
        assert told.model.helps is helps
        assert ("left as it was" in told.model.effect) is not helps
        assert ScannerModel.parse(told.model.content).distances == told.model.distances
    left_over = asking.after([replace(summary, distances=(1.0, 2.0))])
    assert (left_over.model.helps, left_over.wanted) == (False, False), "one that is left of several is asked too"
    endless = asking.after([replace(summary, distances=both) for both in ((1.0, np.inf), (2.0, 1.0))])
    assert endless.model.distances == (2.0, 1.0)
    nobody_knows = asking.after([summary, summary])
    assert (nobody_knows.wanted, nobody_knows.model.helps) == (False, True)


def test_what_several_scans_taught_is_not_refined_with_one(pair, target):
    summary = summarize(pair[1].scan.data, pair[1].scan.inside(), target)
    first = ScannerRounds(target, model(0.5, target))
    lost = first.after([summary])
    assert (lost.model, lost.wanted) == (first.model, False)
    one = ScannerRounds(target, replace(model(0.5, target), scans=1)).after([summary])
    assert len(one.model.rounds) == 2, "a scanner with one scan has its rounds"


def test_the_first_look_needs_a_scan(target):
    assert (ScannerRounds(target).wanted, ScannerRounds(target).number) == (True, 1)
    with pytest.raises(UsageError, match="no scan to fit"):
        ScannerRounds(target).after([])


def test_all_rounds_come_back_from_a_file(target, tmp_path):
    whole = model(0.5, target, next_round=model(0.9, target, lift=0.0, next_round=model(1.1, target, lift=0.0)))
    again = ScannerModel.load(whole.save(tmp_path / "scanner.json"), target)
    assert again.content == whole.content
    assert [len(m.curve.x) for m in again.rounds] == [len(m.curve.x) for m in whole.rounds]
