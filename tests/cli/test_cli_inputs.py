"""Scans named on the command line: which contrast, and inputs that hold none."""

import pytest

from blindharmony.cli.console import Screen
from blindharmony.cli.options import found_scans, given_masks
from blindharmony.errors import InputError, NothingFoundError, UsageError


@pytest.fixture
def study(tmp_path):
    for suffix in ("T1w", "T2w"):
        file = tmp_path / "study/sub-01/anat" / f"sub-01_{suffix}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "study/dataset_description.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(paths):
    return [p.name for p in paths]


@pytest.mark.parametrize("suffix", ["T1w", "T2w"])
def test_a_study_gives_the_contrast_asked_for(study, suffix):
    assert names(found_scans([study / "study"], None, suffix, Screen())[0]) == [f"sub-01_{suffix}.nii.gz"]
    paths, missing = found_scans([study / "study", study / "empty"], None, suffix, Screen())
    assert names(paths) == [f"sub-01_{suffix}.nii.gz"]
    assert isinstance(missing[0], NothingFoundError)


def test_nothing_at_all_is_an_error(study):
    with pytest.raises(NothingFoundError):
        found_scans([study / "empty", study / "empty"], None, "T1w", Screen())


def test_a_mask_is_there_and_belongs_to_one_scan(study):
    with pytest.raises(InputError, match="no such mask"):
        given_masks(study / "mask.nii", None, [study])
    with pytest.raises(UsageError, match="one scan"):
        given_masks(study / "empty", None, [study, study])
    with pytest.raises(UsageError, match="one scan"):
        given_masks(study / "empty", None, [])
    with pytest.raises(UsageError, match="exclude each other"):
        given_masks(study / "empty", study, [study])
    assert given_masks(None, None, [study, study]) == {}
    assert given_masks(study / "empty", None, [study]) == {study: study / "empty"}
