"""Scans of one scanner: the shared curve, their gains, and what is kept of it in a file."""

import json
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest

from blindharmony.errors import InputError, OutputError
from blindharmony.harmonization.curve import ScannerRounds
from blindharmony.harmonization.scanner import ScannerModel, fit_scanner
from blindharmony.harmonization.summary import ScanSummary
from blindharmony.models.person import PersonModel
from blindharmony.settings import BiasAgainSettings, HarmonizeSettings

CURVES = {"gamma": lambda x: x**1.5, "log": lambda x: np.log1p(3 * x), "exp": np.expm1, "none": lambda x: x}


@pytest.fixture
def target(tiny_target):
    return replace(tiny_target, digest="0123456789ab")


def people(target, count, seed=0):
    """Quantile curves of different heads, root mean square 1 as after preparation."""
    rng = np.random.default_rng(seed)
    base = target.mean_curve
    bends = np.array([np.sin(np.pi * (k + 1) * target.levels) for k in range(2)])
    curves = np.array([base * np.exp(0.06 * rng.normal(size=2) @ bends) for _ in range(count)])
    whole = np.array([np.interp((np.arange(1000) + 0.5) / 1000, target.levels, c) for c in curves])
    scale = np.sqrt((np.minimum(whole, np.quantile(whole, 0.999, axis=1)[:, None]) ** 2).mean(1))[:, None]
    return curves / scale, whole / scale


def through(change, curves, whole, persons):
    """Summaries of the people's scans by a scanner, each scaled as preparation does."""
    found = []
    for curve, values, person in zip(curves, whole, persons, strict=True):
        scale = np.sqrt((change(values) ** 2).mean())
        found.append(ScanSummary(change(curve) / scale, change(values) / scale, person, 0.0))
    return found


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_of_a_scanner_is_found_from_scans_of_people_who_are_known(target, name):
    curves, whole = people(target, 8)
    scans = through(CURVES[name], curves, whole, curves)
    model = fit_scanner(scans, target)
    for scan, truth in zip(scans, curves, strict=True):
        gain = model.gain(scan.whole.astype(np.float32), np.ones(1000, bool))
        error = np.sqrt(np.mean((model.curve((gain * scan.quantiles).astype(np.float32)) - truth) ** 2))
        assert 20 * np.log10(truth[-1] / error) > 45


def test_together_scans_are_better_known_than_alone(target):
    curves, whole = people(target, 8)
    guesses = np.broadcast_to(curves.mean(0), curves.shape)
    scans = through(CURVES["gamma"], curves, whole, guesses)
    together = fit_scanner(scans, target)

    def error(model, scan, truth):
        gain = model.gain(scan.whole.astype(np.float32), np.ones(1000, bool))
        return np.sqrt(np.mean((model.curve((gain * scan.quantiles).astype(np.float32)) - truth) ** 2))

    shared = [error(together, s, c) for s, c in zip(scans, curves, strict=True)]
    alone = [error(fit_scanner([s], target), s, c) for s, c in zip(scans, curves, strict=True)]
    assert np.mean(shared) < 0.3 * np.mean(alone)


def test_a_head_unlike_any_hardly_bends_the_curve(knowing):
    curves, whole = people(knowing, 4)
    right = through(CURVES["gamma"], curves, whole, curves)
    bent = replace(right[0], person=right[0].person * np.linspace(0.7, 1.2, right[0].person.size))

    def off(surprise):
        found = fit_scanner([replace(bent, surprise=surprise), *right[1:]], knowing)
        return np.abs(found.curve.y - fit_scanner(right, knowing).curve(found.curve.x.astype(np.float32))).max()

    assert off(1.0) < 0.2 * off(0.0)


def test_what_is_said_alike_of_a_whole_group_is_believed_in_part_and_of_one_scan_wholly(knowing):
    curves, whole = people(knowing, 8)
    scans = [replace(s, surprise=1.0) for s in through(CURVES["gamma"], curves, whole, curves)]
    share = knowing.person.group_share(np.ones(8))

    def moved(scans):
        """How much of a rise of all that is said becomes one of the results, mean over ranks."""
        raised = [replace(s, person=1.05 * s.person) for s in scans]
        before, after = (fit_scanner(s, knowing, whole=True).curve for s in (scans, raised))
        source = np.mean([s.quantiles for s in scans], 0).astype(np.float32)
        return float(np.mean(after(source) - before(source)) / np.mean(0.05 * np.mean([s.person for s in scans], 0)))

    assert abs(moved(scans[:1]) - 1) < 0.02
    assert abs(moved(scans) - share) < 0.02 < 0.9 - share


def test_the_order_and_the_gain_of_the_scans_do_not_matter(target):
    curves, whole = people(target, 5)
    scans = through(CURVES["log"], curves, whole, curves)
    louder = [replace(s, quantiles=g * s.quantiles, whole=g * s.whole) for g, s in zip([1, 3, 0.5, 2, 1], scans)]  # noqa: B905
    a, b = fit_scanner(scans, target), fit_scanner(louder[::-1], target)
    for first, second in zip(scans, louder, strict=True):
        outs = []
        for model, scan in ((a, first), (b, second)):
            gain = model.gain(scan.whole.astype(np.float32), np.ones(1000, bool))
            outs.append(model.curve((gain * scan.quantiles).astype(np.float32)))
        np.testing.assert_allclose(outs[0], outs[1], atol=0.004)


class TestFile:
    @pytest.fixture
    def model(self, target):
        curves, whole = people(target, 3)
        return replace(fit_scanner(through(CURVES["gamma"], curves, whole, curves), target), next_round=None)

    def test_it_comes_back_equal(self, model, target, tmp_path):
        again = ScannerModel.load(model.save(tmp_path / "scanner.json"), target)
        np.testing.assert_array_equal(again.curve.x, model.curve.x)
        np.testing.assert_array_equal(again.curve.y, model.curve.y)
        assert (again.scans, again.target, again.disagreement) == (3, target.digest, model.disagreement)

    def test_a_second_round_comes_back_too(self, model, target, tmp_path):
        both = replace(model, next_round=replace(model, disagreement=0.5, lift=0.0))
        again = ScannerModel.load(both.save(tmp_path / "scanner.json"), target)
        assert again.lift == model.lift > 0.5
        assert again.next_round.disagreement == 0.5
        np.testing.assert_array_equal(again.next_round.curve.y, model.curve.y)
        assert again.digest == both.digest != model.digest
        assert model.rounds == (model,)
        assert both.rounds == (both, both.next_round)
        third = both.with_round(model).rounds
        assert [r.disagreement for r in third] == [model.disagreement, 0.5, model.disagreement]

    def test_as_many_rounds_as_settings_allow_come_back(self, model):
        fields = (BiasAgainSettings.model_fields[name] for name in ("rounds", "entropy_rounds"))
        allowed = max(bound.le for field in fields for bound in field.metadata if hasattr(bound, "le"))
        whole = reduce(lambda so_far, _: so_far.with_round(replace(model, lift=0.0)), range(allowed), model)
        assert len(ScannerModel.parse(whole.content).rounds) == allowed + 1

    def test_an_existing_file_is_kept(self, model, tmp_path):
        path = model.save(tmp_path / "scanner.json")
        with pytest.raises(OutputError):
            model.save(path)

    def test_another_target_is_refused(self, model, target, tmp_path):
        path = model.save(tmp_path / "scanner.json")
        with pytest.raises(InputError, match="another target"):
            ScannerModel.load(path, replace(target, digest="ffffffffffff"))

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"source": [1, 0]}, "equally long lists"),
            ({"source": [0, 1], "harmonized": [0, -1]}, "its curve is not increasing"),
            ({"source": [0, 1], "harmonized": [1, 2]}, "from zero to zero"),
            ({"source": [0, 1], "harmonized": [0, 0]}, "constant, too steep"),
            ({"source": [0, 1], "harmonized": [0, 1e9]}, "constant, too steep"),
            ({"source": "curve"}, "not lists of numbers"),
            ({"source": {"a": 1}}, "not lists of numbers"),
            ({"harmonized": [0.0, float("nan")], "source": [0, 1]}, "NaN"),
            ({"scans": None}, "'scans' is missing"),
            ({"scans": 0}, "'scans' is 0, not 1 or more"),
            ({"scans": True}, "'scans' is not a whole number"),
            ({"distances": [1, -1]}, "'distances' are not two numbers of zero or more"),
            ({"distances": 1}, "'distances' are not two numbers of zero or more"),
            ({"lift": 2}, "'lift' is 2, not between 0 and 1"),
            ({"lift": "much"}, "'lift' is not a number"),
            ({"target": 3}, "'target' is not a text"),
            ({"blindharmony-scanner": 99}, "its format is 99, this program reads 2"),
            ({"blindharmony-scanner": 1}, "its format is 1, this program reads 2"),
            ({"then": "abc"}, "'then' is not a curve"),
            ({"then": {"source": [0, 1], "harmonized": [0, 1]}}, "'disagreement' is missing"),
        ],
    )
    def test_damage_is_named(self, model, target, tmp_path, change, what):
        path = model.save(tmp_path / "scanner.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(InputError, match=r"scanner\.json: .*scanner model") as caught:
            ScannerModel.load(path, target)
        assert what in str(caught.value)

    @pytest.mark.parametrize("text", ["", "[]", "3", "{}", "\x00"])
    def test_other_files_are_refused(self, target, tmp_path, text):
        path = tmp_path / "scanner.json"
        path.write_text(text)
        with pytest.raises(InputError, match="not a scanner model"):
            ScannerModel.load(path, target)
        with pytest.raises(InputError, match="cannot be read"):
            ScannerModel.load(tmp_path / "missing.json", target)


@pytest.fixture
def knowing(target):
    """A target whose person model tells people apart, with a small error."""
    curves, _ = people(target, 30, seed=5)
    return replace(target, person=PersonModel(curves[:, ::64], curves, np.arange(30)))


def change_of(model, scan):
    """How far a model moves a scan, and the same for all of its curve."""
    gained = model.gain(scan.whole.astype(np.float32), np.ones(1000, bool)) * scan.quantiles
    return float(np.sqrt(np.mean((model.curve(gained.astype(np.float32)) - gained) ** 2)))


def test_numbers_of_the_person_model_are_those_of_the_settings(knowing):
    scans = through(lambda x: x**1.3, *people(knowing, 4), people(knowing, 4, seed=1)[0])
    settings = HarmonizeSettings().updated(person={"common_error": 0.5})
    asked = knowing.asked_with(settings.person)
    models = [fit_scanner(scans, *how).digest for how in ((knowing, settings), (asked, settings), (knowing,))]
    assert models[0] == models[1] != models[2]


def test_a_curve_that_may_be_all_error_changes_nothing(knowing):
    ((curve,), whole) = people(knowing, 1)
    error = float(np.sqrt(np.mean(knowing.person.deviation(np.zeros(1)) ** 2)))
    wrong = curve * (1 + 0.5 * error / np.sqrt(np.mean(curve**2)) * np.cos(3 * np.linspace(0, np.pi, curve.size)))
    scan = ScanSummary(curve, whole[0], wrong, 0.0)
    whole_curve = fit_scanner([scan], knowing, whole=True)
    assert 0 < change_of(whole_curve, scan) < error
    assert change_of(fit_scanner([scan], knowing), scan) < 1e-6
    always = HarmonizeSettings().updated(curve={"evidence": 0})
    assert fit_scanner([scan], knowing, always).digest == whole_curve.digest


def test_a_scanner_that_is_far_gets_nearly_all_of_its_curve(knowing):
    curves, whole = people(knowing, 8)
    for name in ("gamma", "log"):
        scans = through(CURVES[name], curves, whole, curves)
        part, everything = (change_of(fit_scanner(scans, knowing, whole=w), scans[0]) for w in (False, True))
        error = float(np.sqrt(np.mean(knowing.person.deviation(np.zeros(8)) ** 2)))
        assert everything > 2 * error
        assert 1 - (error / (everything - error)) ** 2 < part / everything <= 1


def test_more_scans_are_more_evidence(knowing):
    curves, whole = people(knowing, 8)
    near = lambda x: x**1.04  # noqa: E731
    scans = through(near, curves, whole, curves)
    shares = [
        change_of(fit_scanner(scans[:n], knowing), scans[0])
        / change_of(fit_scanner(scans[:n], knowing, whole=True), scans[0])
        for n in (1, 8)
    ]
    assert 0 <= shares[0] < shares[1] < 1


def test_what_is_left_after_an_earlier_curve_is_used_whole(knowing):
    curves, whole = people(knowing, 4)
    rounds = ScannerRounds(knowing, settings=HarmonizeSettings(on_harm="result")).after(
        through(CURVES["gamma"], curves, whole, curves)
    )
    left = through(lambda x: x**1.01, curves, whole, curves)
    both = rounds.after(left).model.rounds
    assert both[1].digest == replace(fit_scanner(left, knowing, whole=True), scans=4).digest
    assert change_of(both[1], left[0]) > 0
