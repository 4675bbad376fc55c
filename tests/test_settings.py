"""One settings model: every field decides something, is described, and is refused in one line if it makes no sense."""

import argparse
import json

import pytest

from blindharmony.cli.options import add_settings, settings_of
from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.result import Parameters
from blindharmony.settings import METHODS, CurveSettings, HarmonizeSettings, PublishedSettings
from blindharmony.study.work import StudySettings

DEFAULTS = HarmonizeSettings()


# Every field as (group or None, name).
FIELDS = [
    (group, name)
    for outer, field in HarmonizeSettings.model_fields.items()
    for group, name in (
        [(outer, n) for n in type(field.default).model_fields]
        if outer in HarmonizeSettings.number_groups()
        else [(None, outer)]
    )
]


def another(value, name=""):
    """A value of the same kind that is not this one and within any limit there is."""
    words = {"method": "match", "correlation": "cosine", "flat_in": "slice", "scale": "slice"}
    words |= {"device": "cuda", "on_harm": "result"}
    if name in words:
        return words[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.75
    if isinstance(value, tuple):
        return (value[0] * 0.75, *value[1:])
    return f"bet {{input}} {{output}} {name}"


def changed(group, name):
    """The default settings but for one field."""
    value = getattr(getattr(DEFAULTS, group) if group else DEFAULTS, name)
    new = another(value, name)
    assert new != value
    return DEFAULTS.updated(**({group: {name: new}} if group else {name: new})), new


@pytest.mark.parametrize(("group", "name"), FIELDS)
def test_every_field_is_in_the_digest_but_the_place_of_computing(group, name):
    settings, _ = changed(group, name)
    assert (settings.digest == DEFAULTS.digest) == (name == "device")


@pytest.mark.parametrize(("group", "name"), FIELDS)
def test_a_dump_gives_the_settings_back(group, name):
    settings, new = changed(group, name)
    sparse = settings.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert HarmonizeSettings.model_validate(json.loads(json.dumps(sparse))) == settings
    expected = list(new) if isinstance(new, tuple) else new
    assert settings.differences() == ({group: {name: expected}} if group else {name: expected})


@pytest.mark.parametrize(("group", "name"), FIELDS)
def test_every_field_says_what_it_is(group, name):
    model = type(getattr(DEFAULTS, group)) if group else HarmonizeSettings
    assert len(model.model_fields[name].description or "") > 15


def test_equal_settings_have_one_digest_however_they_were_made():
    one = HarmonizeSettings(seed=3, curve=CurveSettings(degree=1))
    assert one.digest == DEFAULTS.updated(curve={"degree": 1}).updated(seed=3).digest
    assert one.digest == HarmonizeSettings.model_validate({"Seed": 3, "Curve": {"Degree": 1}}).digest


def test_a_change_keeps_what_was_chosen_before():
    settings = DEFAULTS.updated(curve={"degree": 1}).updated(curve={"believed": 2}, keep_bias=True)
    assert settings.differences() == {"keep_bias": True, "curve": {"degree": 1, "believed": 2.0}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methd": "match"}, "settings: methd is unknown; did you mean method?"),
        ({"curve": {"belived": 1}}, "settings: curve.belived is unknown; did you mean believed?"),
        ({"curve": {"believed": float("nan")}}, "settings: curve.believed: Input should be a finite number"),
        ({"curve": 3}, "settings: curve: "),
        ({"seed": -1}, "settings: seed: Input should be greater than or equal to 0"),
        ({"method": ""}, "settings: method: "),
        ({"checks": {"brain_ml": (2.0, 1.0)}}, "settings: checks.brain_ml: 2 is more than 1"),
        ({"method": "latent-published", "published": {"alpha": 0.5}}, "the method latent-published has fixed numbers"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(changes, message):
    with pytest.raises(UsageError) as caught:
        DEFAULTS.updated(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_the_released_program_has_its_own_numbers(method):
    settings = DEFAULTS.updated(method=method)
    assert (settings.iteration == PublishedSettings.published()) == (method == "latent-published")
    assert settings.updated(method="curve") == DEFAULTS


def parsed(*words):
    """The settings that a command line asks for."""
    grammar = argparse.ArgumentParser()
    add_settings(grammar, HarmonizeSettings.choices())
    return settings_of(grammar.parse_args(words), HarmonizeSettings)


def option(name, value):
    """The words that set one choice on the command line."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{name}"]
    return [flag, str(value)]


@pytest.mark.parametrize(("group", "name"), FIELDS)
def test_command_line_call_sidecar_and_study_say_the_same(group, name, tmp_path):
    settings, new = changed(group, name)
    value = list(new) if isinstance(new, tuple) else new
    dotted = f"{group}.{name}" if group else name
    assert parsed("--set", f"{dotted}={json.dumps(value)}") == settings
    if not group:
        assert parsed(*option(name, new)) == settings
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({group: {name: value}} if group else {name: value}))
    assert parsed("--config", str(file)) == settings
    sidecar = Parameters.of(settings, mask=None, scanner=None).model_dump(mode="json", by_alias=True)
    assert Parameters.model_validate(json.loads(json.dumps(sidecar))).settings_of(settings.method) == settings
    assert sidecar["SettingsDigest"] == settings.digest
    usual, other = (StudySettings(target="t", digest="d", harmonize=s).all() for s in (DEFAULTS, settings))
    assert usual != other
    assert other.get(group or name) == ({name: value} if group else value)


def test_options_come_after_single_numbers_and_those_after_the_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('seed = 1\ndevice = "cuda"\n[curve]\ndegree = 1\nbelieved = 2\n')
    settings = parsed("--config", str(file), "--set", "curve.degree=3", "--set", "seed=2", "--seed", "5")
    expected = {"seed": 5, "device": "cuda", "curve": {"degree": 3, "believed": 2.0}}
    assert settings.differences() == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "curve.degre=1"], "curve.degre is unknown; did you mean degree?"),
        (["--set", "crve.degree=1"], "crve is unknown; did you mean curve?"),
        (["--set", "curve.degree"], "is no NAME=VALUE"),
        (["--set", "curve.degree=many"], "settings: curve.degree: "),
        (["--config", "missing.json"], "missing.json: "),
    ],
)
def test_wrong_words_are_one_line(words, message):
    with pytest.raises(BlindHarmonyError) as caught:
        parsed(*words)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"curve": 3}', '{"crve": {}}'])
def test_a_file_of_settings_that_is_none_is_named(tmp_path, text):
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(BlindHarmonyError, match=r"settings\.json: "):
        parsed("--config", str(file))


def test_a_sidecar_has_only_the_numbers_that_were_changed():
    plain = Parameters.of(DEFAULTS, mask=None, scanner=None).model_dump(by_alias=True)
    keys = ["Seed", "Device", "KeepBias", "Mask", "MaskCommand", "Refine", "OnHarm", "Scanner", "SettingsDigest"]
    assert list(plain) == keys
    bent = DEFAULTS.updated(bias_again={"rounds": 1})
    assert Parameters.of(bent, mask=None, scanner=None).model_dump(by_alias=True)["Settings"] == {
        "BiasAgain": {"Rounds": 1}
    }


@pytest.mark.parametrize("name", HarmonizeSettings.choices())
def test_help_and_default_of_an_option_are_those_of_the_field(name):
    grammar = argparse.ArgumentParser()
    add_settings(grammar, HarmonizeSettings.choices())
    (action,) = [a for a in grammar._actions if a.dest == name]
    field = HarmonizeSettings.model_fields[name]
    assert field.description.removesuffix(".")[1:] in action.help
    if isinstance(field.default, str | int) and not isinstance(field.default, bool) and name != "method":
        assert f"(default: {field.default})" in action.help
