"""What a study was harmonized with: old folders stay up to date, and every changed setting is noticed."""

import pytest

from blindharmony.io.bids import Scan
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.run import differences
from blindharmony.study.work import METHOD_2, Item, StudySettings, brought_up

# As written when settings had no names of their own but "method 2".
OLD = {
    "input": "a" * 64,
    "mask": None,
    "settings": {
        "digest": "d" * 12,
        "mask_command": "bet {input} {output}",
        "refine": True,
        "keep_bias": True,
        "uncertainty": False,
        "report": True,
        "device": "cpu",
        "seed": 3,
        "version": "1.0",
        "method": 2,
    },
    "scanner": "k",
}
SAME = HarmonizeSettings(mask_command="bet {input} {output}", keep_bias=True, seed=3).updated(**METHOD_2)
# The numbers of "method 2". Whoever changes a default keeps the old one in METHOD_2.
NUMBERS_OF_2 = {
    "curve": {
        "least_voxels": 10_000,
        "degree": 2,
        "believed": 1.5,
        "darkest": 1e-3,
        "fewest": 16,
        "dark_fold": 2.0,
        "dark_powers": (0.25, 4.0),
        "dark_knots": 24,
        "rounds": 8,
        "other_scanner": 4.0,
        "strange": 0.8,
    },
    "bias_again": {
        "rounds": 2,
        "sure": 2.0,
        "ranks": (0.02, 0.995),
        "points": 200,
        "degree": 2,
        "believed": 1.0,
        "darkest": 1e-3,
        "flattest": 0.1,
        "reach": (1e-4, 4.0),
        "knots": 600,
    },
    "person": {
        "length": 2.0,
        "strength": 20.0,
        "shared": 0.5,
        "other_version": 0.7,
        "as_it_is": 4.0,
        "shrinkage": 0.1,
    },
    "refinement": {
        "least_correlation": 0.9,
        "most_edges": 1.75,
        "flat_quantile": 0.3,
        "shares": (1.0, 0.8, 0.6, 0.4, 0.2),
        "own_grid_mm": (0.75, 1.25),
    },
}


@pytest.fixture
def item(tmp_path):
    return Item(scan=Scan(root=tmp_path, place="sub-01/anat/sub-01_T1w.nii.gz", words={}), sha="a" * 64)


def settings(harmonize=SAME, **changes):
    return StudySettings(target="t", digest="d" * 12, harmonize=harmonize, version="1.0", **changes)


def test_the_numbers_of_old_studies_are_known():
    numbers = HarmonizeSettings().updated(**METHOD_2).model_dump(include=set(NUMBERS_OF_2))
    # Numbers that came later stand at their defaults, and old models do not ask for them.
    assert {group: {n: numbers[group][n] for n in of} for group, of in NUMBERS_OF_2.items()} == NUMBERS_OF_2


def test_what_an_old_study_has_done_is_up_to_date(item):
    now = item.fingerprint(settings(), "k").model_dump(mode="json")
    assert brought_up(OLD) == now
    assert differences(brought_up(OLD), now) == []
    assert brought_up(now) == now


def test_summaries_of_an_old_study_are_found(item):
    # The keys that the old program gave these summaries.
    assert item.look_key(settings(), None) == "65970bdd4c998d3490a13d37"
    assert item.look_key(settings(), "first") == "056988dcb2d1aac629bc5db0"


@pytest.mark.parametrize("group", HarmonizeSettings.number_groups())
def test_a_changed_number_is_noticed_and_named(item, group):
    name, value = next(
        (n, v)
        for n, v in getattr(SAME, group).model_dump().items()
        if isinstance(v, int | float) and v not in (0, 1, 2)
    )
    other = settings(SAME.updated(**{group: {name: type(value)(value * 0.5)}}))
    changes = differences(brought_up(OLD), item.fingerprint(other, "k").model_dump(mode="json"))
    assert any(line.startswith(f"{group} is {{'{name}'") for line in changes)
    looked = item.look_key(other, None) != item.look_key(settings(), None)
    assert looked == (group in ("curve", "bias_again", "person"))


@pytest.mark.parametrize(
    "change", [{"refine": False}, {"checks": {"least_spread": 0.5}}, {"refinement": {"least_correlation": 0.5}}]
)
def test_whether_a_scanner_helps_is_asked_again_where_the_answer_may_differ(item, change):
    guarded = SAME.updated(on_harm="scan")
    keys = {item.look_key(settings(s), "first") for s in (guarded, guarded.updated(**change))}
    assert len(keys) == 2


@pytest.mark.parametrize("change", [{"seed": 4}, {"keep_bias": False}, {"refine": False}, {"device": "cuda"}])
def test_a_changed_choice_is_noticed(item, change):
    (name,) = change
    other = item.fingerprint(settings(SAME.updated(**change)), "k").model_dump(mode="json")
    assert any(line.startswith(f"{name} is ") for line in differences(brought_up(OLD), other))
