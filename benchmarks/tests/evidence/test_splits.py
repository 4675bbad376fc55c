"""Who teaches and who is tested."""

import json

import pytest

from blindharmony.errors import InputError, UsageError
from blindharmony_benchmark.plan import read_splits


def written(folder, content):
    (folder / "splits.json").write_text(json.dumps(content))
    return folder


def test_a_person_scanned_twice_is_tested_once(tmp_path):
    part = {"train": ["01", "02", "03", "04", "05"], "test": ["sub-06", "sub-07"], "retest": [["sub-06", "sub-07"]]}
    split = read_splits(written(tmp_path, {"a": part}))["a"]
    assert split.test == ("sub-06",)
    assert split.learners == (("sub-01", "sub-02", "sub-03", "sub-04"), ("sub-05",))


@pytest.mark.parametrize(
    "part",
    [
        {"train": ["01"]},
        {"train": ["01"], "test": ["01"]},
        {"test": "01"},
        [],
        {"train": ["1"], "test": [2]},
        {"train": ["02"], "test": ["01"], "retest": [["01", "02"]]},
        {"train": ["03"], "test": ["01"], "retest": None},
        {"train": ["03"], "test": ["01"], "retest": [3]},
    ],
)
def test_other_forms_are_refused(tmp_path, part):
    with pytest.raises(InputError, match=r"splits\.json"):
        read_splits(written(tmp_path, {"a": part}))


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "splits.json").write_text('{"a": {"test": ["01"],}}')
    with pytest.raises(InputError, match=r"splits\.json: this is no JSON"):
        read_splits(tmp_path)


def test_no_more_of_a_large_set_is_tested_than_memory_holds(tmp_path):
    for k in range(120):
        (tmp_path / f"sub-{k:03}").mkdir()
    (tmp_path / "dataset_description.json").write_text("{}")
    (split,) = read_splits(tmp_path).values()
    assert (len(split.test), len(split.train)) == (20, 100)


def test_one_own_set_is_split_by_seed(tmp_path):
    for k in range(12):
        (tmp_path / f"sub-{k:02}" / "anat").mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text("{}")
    (one,), (again,), (other,) = (read_splits(tmp_path, seed=s).values() for s in (0, 0, 1))
    assert one == again
    assert one.test != other.test
    assert len(one.test) == 3
    assert not set(one.test) & set(one.train)
    assert len(one.test) + len(one.train) == 12


def test_nothing_to_split(tmp_path):
    with pytest.raises(UsageError, match=r"splits\.json"):
        read_splits(tmp_path)
