"""One settings model: every field decides something, is described, and is refused in one line if it makes no sense."""

import json

import pytest

from blindharmony.errors import UsageError
from blindharmony.settings import GROUPS, METHODS, CurveSettings, HarmonizeSettings, PublishedSettings

DEFAULTS = HarmonizeSettings()


# Every field as (group or None, name).
FIELDS = [
    (group, name)
    for outer, field in HarmonizeSettings.model_fields.items()
    for group, name in ([(outer, n) for n in type(field.default).model_fields] if outer in GROUPS else [(None, outer)])
]


def another(value, name=""):
    """A value of the same kind that is not this one and within any limit there is."""
    words = {"method": "match", "correlation": "cosine", "flat_in": "slice", "scale": "slice", "device": "cuda"}
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
    settings = DEFAULTS.updated(curve={"degree": 1}).updated(curve={"believed": 1}, keep_bias=True)
    assert settings.differences() == {"keep_bias": True, "curve": {"degree": 1, "believed": 1.0}}


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
