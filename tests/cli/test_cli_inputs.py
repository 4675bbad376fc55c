"""Scans named on the command line: which contrast, and inputs that hold none."""

import pytest

from blindharmony.cli.console import Screen
from blindharmony.cli.options import masks_named, scans_named
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
    assert names(scans_named([study / "study"], None, suffix, Screen())[0]) == [f"sub-01_{suffix}.nii.gz"]
    paths, missing = scans_named([study / "study", study / "empty"], None, suffix, Screen())
    assert names(paths) == [f"sub-01_{suffix}.nii.gz"]
    assert isinstance(missing[0], NothingFoundError)


def test_nothing_at_all_is_an_error(study):
    with pytest.raises(NothingFoundError):
        scans_named([study / "empty", study / "empty"], None, "T1w", Screen())


def test_a_mask_is_there_and_belongs_to_one_scan(study):
    with pytest.raises(InputError, match="no such mask"):
        masks_named(study / "mask.nii", None, [study])
    with pytest.raises(UsageError, match="one scan"):
        masks_named(study / "empty", None, [study, study])
    with pytest.raises(UsageError, match="one scan"):
        masks_named(study / "empty", None, [])
    with pytest.raises(UsageError, match="exclude each other"):
        masks_named(study / "empty", study, [study])
    assert masks_named(None, None, [study, study]) == {}
    assert masks_named(study / "empty", None, [study]) == {study: study / "empty"}
