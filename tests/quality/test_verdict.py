"""Every check says value and limit, the worst decides, nothing counts as good because it is missing, and ``assess``
never contradicts ``harmonize``."""

import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindharmony.api import assess, harmonize, prepared_for
from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.models.target import HeldOut, Places
from blindharmony.quality.checks import (
    Check,
    MaskFit,
    Severity,
    Topic,
    _decimals,
    digits_apart,
    farthest,
    gather_evidence,
    graded,
    mask_fit,
    register_check,
    registered_checks,
    run_checks,
    tissue_order,
    unregister_check,
)
from blindharmony.quality.places import UnlikePlace
from blindharmony.quality.typicality import compare, reference_score, typicality
from blindharmony.quality.verdict import Verdict, harms, judge, likeness
from blindharmony.report.scan import Gauge
from blindharmony.settings import CheckSettings

LIMITS = CheckSettings()


@pytest.fixture(scope="module")
def made(stripped_volume, tiny_target):
    """A prepared scan, its result, and a target whose unseen scans are as probable as that result."""
    prepared = prepared_for(tiny_target, stripped_volume)
    image, inside = prepared.scan.data, prepared.scan.inside()
    # Synthetic brains are not where the template's own are: what the target's scans cover is taken from this one.
    coverage, mean = (x.reshape(80, 2, 96, 2, 80, 2).mean((1, 3, 5)).astype(np.float32) for x in (inside, image))
    target = replace(tiny_target, coverage=coverage, mean_image=mean)
    result = harmonize_curve(image, inside, target).image
    likely = typicality(result, inside, target)
    spread = (-0.2, -0.1, 0.1, 0.2)
    held_out = HeldOut(
        scans=4,
        bits_per_dim=tuple(likely.bits + e for e in spread),
        level_bits=tuple(tuple(score.value + e for score in likely.levels) for e in spread),
    )
    target = replace(target, info=target.info.model_copy(update={"held_out": held_out}))
    return prepared, image, result, target


@pytest.fixture(scope="module")
def good(made):
    prepared, image, result, target = made
    evidence = gather_evidence(prepared, image, result, target)
    return replace(evidence, prepared=resized(evidence.prepared, (1300 / evidence.brain_ml) ** (1 / 3)))


def resized(prepared, factor):
    """The same scan with other voxels: per axis, or all alike."""
    scaling = np.diag([*np.broadcast_to(factor, 3), 1.0])
    last = prepared.history[-1]
    before = replace(last.before, affine=last.before.affine @ scaling)
    return replace(prepared, history=(*prepared.history[:-1], replace(last, before=before)))


def overlapping(prepared, overlap):
    *first, last = prepared.history
    return replace(prepared, history=(*first, replace(last, result=replace(last.result, overlap=overlap))))


def likelier(evidence, level, z):
    """The result with one level (or all together, at −1) so many spreads less probable than unseen scans."""
    judged = evidence.after.typicality
    scores = [*judged.levels, judged.in_all]
    score = scores[level]
    known = evidence.target.info.held_out
    reference = known.bits_per_dim if level == -1 else [row[level] for row in known.level_bits]
    scores[level] = reference_score(score.name, score.mean + z * score.spread, reference, least_spread=0.15)
    changed = replace(judged, levels=tuple(scores[:-1]), in_all=scores[-1])
    return replace(evidence, after=replace(evidence.after, typicality=changed))


def through(made, evidence, change):
    """The evidence of a result that is spoiled."""
    prepared, _, result, target = made
    inside = prepared.scan.inside()
    spoiled = np.where(inside, change(result), 0).astype(np.float32)
    return replace(evidence, after=compare(spoiled, inside, target))


def noisy(x):
    return np.maximum(x + np.random.default_rng(0).normal(0, 0.3, x.shape), 0)


# What is wrong, how the evidence is changed, the level it must give, and the check that must say so.
CASES = {
    "nothing": (lambda m, e: e, "good", None),
    "badly placed": (lambda m, e: replace(e, prepared=overlapping(e.prepared, 0.8)), "caution", "registration"),
    "not placed": (
        lambda m, e: replace(e, prepared=replace(e.prepared, history=e.prepared.history[:-1])),
        "caution",
        "registration",
    ),
    "small brain": (lambda m, e: replace(e, prepared=resized(e.prepared, 0.7)), "caution", "brain volume"),
    "large brain": (lambda m, e: replace(e, prepared=resized(e.prepared, 1.3)), "caution", "brain volume"),
    "thick slices": (lambda m, e: replace(e, prepared=resized(e.prepared, (0.7, 0.7, 1 / 0.49))), "good", None),
    "no cerebellum": (
        lambda m, e: replace(e, mask=MaskFit(missed=0.07, outside=0, size=1)),
        "caution",
        "brain covered by the mask",
    ),
    "half a head": (
        lambda m, e: replace(e, mask=mask_fit(halved(m[0].scan.inside()), m[3])),
        "poor",
        "brain covered by the mask",
    ),
    "thick mask": (
        lambda m, e: replace(e, mask=MaskFit(missed=0, outside=0.02, size=1)),
        "caution",
        "mask outside the brain",
    ),
    "skull on": (
        lambda m, e: replace(e, mask=mask_fit(np.ones_like(m[0].scan.inside()), m[3])),
        "poor",
        "mask outside the brain",
    ),
    "masks that agree nowhere": (
        lambda m, e: replace(e, mask=MaskFit(missed=None, outside=0, size=1)),
        "caution",
        "brain covered by the mask",
    ),
    "inverted": (
        lambda m, e: replace(e, order=tissue_order(m[1].max() - m[1], m[0].scan.inside(), m[3])),
        "poor",
        "order of tissues",
    ),
    "noise": (lambda m, e: replace(e, order=0.0), "poor", "order of tissues"),
    "another gamma": (lambda m, e: through(m, e, lambda x: x**2), "poor", "intensities"),
    "twice as bright": (lambda m, e: through(m, e, lambda x: 2 * x), "poor", "white matter"),
    "noisy": (lambda m, e: through(m, e, noisy), "poor", None),
    "an odd level": (lambda m, e: likelier(e, 2, 5.0), "caution", "detail at 8 mm"),
    "a very odd level": (lambda m, e: likelier(e, 2, 9.0), "poor", "detail at 8 mm"),
    "a probable coarse level": (lambda m, e: likelier(e, 2, -9.0), "good", None),
    "smooth": (lambda m, e: likelier(e, 0, -30.0), "caution", "detail at 2 mm"),
    "improbable in all": (lambda m, e: likelier(e, -1, 5.0), "caution", "likelihood"),
    "less probable than the scan": (
        lambda m, e: likelier(replace(e, before=replace(e.before, typicality=e.after.typicality)), -1, 1.4),
        "caution",
        "direction of likelihood",
    ),
    "no flow": (
        lambda m, e: replace(e, target=replace(e.target, pyramid=None), after=replace(e.after, typicality=None)),
        "caution",
        "likelihood",
    ),
    "no held-out scans": (lambda m, e: replace(e, after=replace(e.after, typicality=None)), "caution", "likelihood"),
    "a target of two scans": (
        lambda m, e: replace(e, after=replace(e.after, intensities=None)),
        "caution",
        "intensities",
    ),
    "no tissues": (lambda m, e: replace(e, after=replace(e.after, tissues=())), "caution", "tissues"),
    "a doubt": (lambda m, e: replace(e, doubts=("It fits badly.",)), "caution", "fit"),
    "an odd header": (lambda m, e: replace(e, file_warnings=("The header was odd.",)), "good", None),
}


def halved(mask):
    out = mask.copy()
    out[80:] = False
    return out


@pytest.fixture(params=CASES)
def case(request, made, good):
    change, level, name = CASES[request.param]
    return change(made, good), level, name


def test_every_fault_is_found_and_named(case):
    evidence, level, name = case
    verdict = judge(evidence)
    assert verdict.level == level
    faults = [check.name for check in verdict.checks if check.severity is verdict.severity]
    assert name is None or name in faults
    assert level == "good" or (verdict.warnings and verdict.advice)


def numbers(text):
    """Every number of a sentence with half a unit of its last digit."""
    tokens = [token.replace("−", "-") for token in re.findall(r"[−-]?\d+(?:\.\d+)?", text)]
    return [(float(token), 0.5 * 10.0 ** -len(token.partition(".")[2])) for token in tokens]


def test_every_sentence_says_value_and_limit(case):
    for check in run_checks(case[0]):
        if check.judged:
            for wanted in (check.value, *(end for end in check.limit or () if end is not None)):
                said = [abs(number - wanted) <= half * 1.001 for number, half in numbers(check.message)]
                assert any(said), (check.name, wanted, check.message)
        elif check.topic not in (Topic.FILE, Topic.METHOD):
            assert "not judged" in check.message
            assert check.severity is Severity.CAUTION


def test_severity_limit_and_gauge_are_one(case):
    for check in run_checks(case[0]):
        if check.judged and check.limit is not None:
            low, high = check.limit
            inside = (low is None or check.value >= low) and (high is None or check.value <= high)
            assert inside == (check.severity is Severity.GOOD), check
            gauge = Gauge.of(check, None)
            assert (gauge.low, gauge.high, gauge.within) == (low, high, inside)


def test_harmonize_and_assess_never_contradict_each_other(case):
    evidence = case[0]
    after = judge(evidence)
    word, reasons = likeness(judge(evidence.as_it_came()), after)
    assert (word == "not explainable") <= (after.level != "good")
    assert (after.level == "poor") <= (word == "not explainable")
    assert bool(reasons) == (word != "target-like")


severities = st.sampled_from(Severity)
some_checks = st.lists(
    st.builds(
        Check,
        st.sampled_from("abc"),
        severities,
        st.just("s"),
        st.one_of(st.none(), st.just(1.0)),
        topic=st.sampled_from(Topic),
    ),
    max_size=6,
)


@given(some_checks, some_checks)
def test_no_two_lists_of_checks_make_them_contradict(before, after):
    verdicts = [Verdict(tuple(checks), "t") for checks in (before, after)]
    word, _ = likeness(*verdicts)
    assert word != "not explainable" or verdicts[1].level != "good"
    assert verdicts[1].level != "poor" or word == "not explainable"


@given(some_checks, st.builds(Check, st.just("x"), severities, st.just("s"), st.just(1.0)))
def test_the_verdict_is_the_worst_and_another_check_never_improves_it(checks, more):
    verdict, longer = Verdict(tuple(checks), "t"), Verdict((*checks, more), "t")
    assert longer.severity == max(c.severity for c in (*checks, more))
    assert not checks or longer.severity >= verdict.severity
    assert verdict.level == verdict.severity.word
    assert checks or verdict.level == "caution"


@pytest.mark.parametrize(("value", "limit"), [(0.66004, 0.65996), (1.004, 1.0), (2.0, 2.0), (0.8999, 0.9), (5.0, 1.0)])
def test_a_value_beyond_its_limit_does_not_look_equal_to_it(value, limit):
    said, allowed = _decimals(2, value, limit)
    assert (said == allowed) == (value == limit)
    assert float(said) == pytest.approx(value, abs=0.005)
    assert len(said) == 4 or value != limit
    digits = digits_apart(value, limit, None)
    assert (f"{value:.{digits}g}" == f"{limit:.{digits}g}") == (value == limit)


def test_where_something_is_wrong_nobody_is_told_that_harmonizing_was_not_needed():
    wrong = Check("halves", Severity.POOR, "They are alike.", 1.0, advice="Do not use it.")
    fine = Check("need", Severity.GOOD, "It is near.", 0.1, advice="It may not be needed.")
    assert Verdict((fine, wrong), "t").advice == ("Do not use it.",)
    assert Verdict((fine,), "t").advice == ("It may not be needed.",)


def test_a_check_of_ones_own_counts(good):
    def brightness(evidence):
        value = float(evidence.after.quantiles.mean())
        return [Check("brightness", graded(value, (99, None)), f"{value:.2f}; at least 99", value, (99, None))]

    register_check(brightness)
    try:
        assert judge(good).named("brightness").severity is Severity.CAUTION
    finally:
        unregister_check(brightness)
    assert brightness not in registered_checks()
    assert judge(good).named("brightness") is None


def test_every_check_is_there(good):
    """A check that is dropped from the list is missed here by name."""
    assert [check.name for check in run_checks(good)] == [
        "registration",
        "brain volume",
        "brain covered by the mask",
        "mask outside the brain",
        "order of tissues",
        "halves",
        "unlike place",
        "slice thickness",
        "intensities",
        "gray / white contrast",
        "white matter",
        "gray matter",
        "fluid",
        "detail at 2 mm",
        "detail at 4 mm",
        "detail at 8 mm",
        "detail at 16 mm",
        "brightness at 32 mm",
        "likelihood",
        "held-out scans",
        "direction of intensities",
        "direction of likelihood",
        "direction of contrast",
        "direction of white matter",
        "direction of gray matter",
        "direction of fluid",
        "benefit",
        "need",
    ]


def test_no_number_is_never_good():
    assert graded(float("nan"), (None, 1.0)) is Severity.CAUTION
    assert graded(float("nan"), (None, 1.0), (None, 2.0)) is Severity.POOR
    assert graded(float("inf"), (0.0, None)) is Severity.CAUTION


values = st.floats(-50, 50)


@given(values, values, st.lists(st.floats(0, 10), min_size=3, max_size=9), st.booleans())
def test_a_result_is_at_the_target_or_no_farther_than_the_scan_was(first, second, known, two_sided):
    before, after = (reference_score("x", v, known) for v in (first, second))
    limit = farthest(before, after, LIMITS, two_sided=two_sided)
    assert graded(first, limit) is Severity.GOOD
    off = [abs(v - before.mean) if two_sided else v for v in (first, second)]
    allowed = max(off[0], before.spread + (0 if two_sided else before.mean))
    if off[1] > allowed * (1 + 1e-9) + 1e-9:
        assert graded(second, limit) is Severity.CAUTION
    if off[1] <= allowed - 1e-9:
        assert graded(second, limit) is Severity.GOOD


def test_what_a_scanners_curve_did_to_two_scans_is_no_good_result():
    """Measured: 23.6 to 33.2 target units where the target's own have up to 22.6; 5.93 to 6.05 bits, own up to 5.89."""
    own = np.linspace(5.6, 22.6, 22)
    bits = (5.70, 5.89, 5.63, 5.80)
    for before, after, known in ((23.6, 33.2, own), (5.93, 6.05, bits)):
        first, second = (reference_score("x", v, known) for v in (before, after))
        assert graded(after, farthest(first, second, LIMITS)) is Severity.CAUTION
        assert graded(before, farthest(second, first, LIMITS)) is Severity.GOOD
    # A thick scan is more probable than any of the target's own; its result is as probable as they are.
    thick, result = (reference_score("x", v, bits) for v in (5.30, 5.86))
    assert graded(5.86, farthest(thick, result, LIMITS)) is Severity.GOOD


def moved(comparison, **z):
    """A comparison with these z-scores of contrast, tissues (``white``, ``gray``, ``fluid``) and likelihood."""
    names = {"contrast": "gray / white contrast", "white": "white matter", "gray": "gray matter", "fluid": "fluid"}
    wanted = {names.get(name, name): value for name, value in z.items()}

    def at(score, z):
        return score.model_copy(update={"value": score.mean + z * score.spread, "z": z})

    tissues = tuple(at(score, wanted.get(score.name, 0.0)) for score in comparison.tissues)
    flow = comparison.typicality
    flow = replace(flow, in_all=at(flow.in_all, wanted.get("likelihood", 0.0)))
    return replace(comparison, tissues=tissues, typicality=flow)


FAR = {"contrast": 6.0, "white": -2.0, "fluid": 1.5, "likelihood": 1.2}


@pytest.mark.parametrize(
    ("before", "after", "harm"),
    [
        (FAR, {}, False),  # it helps
        (FAR, FAR, True),  # nothing is gained
        ({}, FAR, True),
        (FAR, {"likelihood": 1.5}, False),  # it helps, and something else is farther: to be looked at
        ({"contrast": 1.0, "likelihood": 1.4}, {"gray": 1.5}, True),  # nothing was rare, and something moved away
        ({"likelihood": -3.0}, {}, True),  # more probable than the target's own is not far
    ],
)
def test_where_harmonizing_does_not_help_the_scan_is_better_as_it_was(good, before, after, harm):
    evidence = replace(good, before=moved(good.after, **before), after=moved(good.after, **after))
    assert harms(evidence) is harm
    kept = evidence.returned(evidence.prepared)
    verdict = judge(kept)
    assert verdict.returned
    assert verdict.headline.startswith("Contrast left as it was") or verdict.level == "poor"
    assert all(check.severity is Severity.GOOD for check in verdict.of(Topic.DIRECTION))
    assert "contrast was left as it was" in verdict.named("benefit").message


scores = st.fixed_dictionaries({k: st.floats(-6, 6) for k in ("contrast", "white", "gray", "fluid", "likelihood")})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(scores, scores)
def test_a_good_result_is_nowhere_farther_from_the_target_than_the_scan_was(good, first, second):
    """Do no harm: whatever is returned as good is at the target, or as near to it as the scan was."""
    evidence = replace(good, before=moved(good.after, **first), after=moved(good.after, **second))
    evidence = evidence.returned(evidence.prepared) if harms(evidence) else evidence
    if judge(evidence).level == "good":
        before, after = evidence.before.z_scores, evidence.after.z_scores
        assert all(abs(after[name]) <= max(1.0, abs(before[name])) + 1e-9 for name in before)
        assert evidence.after.distance <= evidence.before.distance + 1e-9


def test_notes_are_told_and_do_not_count(good):
    verdict = judge(replace(good, file_warnings=("The header was odd.",), method_warnings=("It took long.",)))
    assert verdict.level == "good"
    assert {"The header was odd.", "It took long."} <= set(verdict.warnings)


@pytest.mark.parametrize(("scanner", "advice"), [(object(), "without --scanner and --group"), (None, "other scans")])
def test_what_the_method_doubts_is_passed_on(good, scanner, advice):
    verdict = judge(replace(good, doubts=("It fits badly.",), scanner=scanner))
    assert verdict.warnings[0] == "It fits badly."
    assert any(advice in line for line in verdict.advice)


def test_a_scan_like_the_target_may_not_need_it(good):
    alike = replace(good, before=good.after)
    assert any("may not be needed" in line for line in judge(alike).advice)


def test_both_commands_judge_the_same_result(stripped_volume, made):
    target = made[3]
    scan = nib.Nifti1Image(stripped_volume.data, stripped_volume.affine)
    harmonized, assessed, asked = harmonize(scan, target), assess(scan, target, full=True), assess(scan, target)
    assert assessed.checks == harmonized.verdict.checks
    assert assessed.harmonized == harmonized.verdict.level
    assert (asked.verdict, asked.before) == (assessed.verdict, assessed.before)
    assert harmonized.trust is harmonized.verdict


def test_a_wild_voxel_is_improbable_not_impossible(tiny_target):
    inside = tiny_target.fit_region
    image = np.where(inside, 1.0, 0.0).astype(np.float32)
    usual = typicality(image, inside, tiny_target)
    image[tuple(np.argwhere(inside)[1000])] = 1e6
    wild = typicality(image, inside, tiny_target)
    assert np.isfinite(wild.bits)
    assert wild.worst.z > usual.worst.z


def test_a_lesion_does_not_switch_do_no_harm_off(good):
    """An unusual place is the head's own: where only the result has a fault, the scan is returned all the same."""
    shape = (40, 48, 40)
    usual = Places(np.zeros((1, *shape), np.float32), np.ones((1, *shape), np.float32), np.linspace(3, 5, 20))
    target = replace(good.target, dark_places=usual, places=usual)
    place = UnlikePlace(30.0, 8.0, (60, 90, 90), np.zeros(shape, bool))
    before, after = moved(good.after, contrast=1.0, likelihood=1.4), moved(good.after, gray=1.5)
    evidence = replace(good, target=target, before=before, after=after)
    ill = replace(evidence, dark=place, unlike=place)
    assert {check.name for check in judge(ill).checks if check.severity} >= {"dark place", "unlike place"}
    assert harms(evidence)
    assert harms(ill)
