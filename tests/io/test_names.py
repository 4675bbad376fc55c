from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindharmony.files import entities, mask_name, output_name, report_name, sidecar_name, split_name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sub-01_T1w.nii.gz", "sub-01_desc-harmonized_T1w.nii.gz"),
        ("sub-01_ses-2_run-1_T1w.nii", "sub-01_ses-2_run-1_desc-harmonized_T1w.nii.gz"),
        ("sub-01_desc-preproc_T1w.nii.gz", "sub-01_desc-harmonized_T1w.nii.gz"),
        ("scan.nii.gz", "scan_desc-harmonized.nii.gz"),
        ("SCAN.NII.GZ", "SCAN_desc-harmonized.nii.gz"),
        ("brain.mgz", "brain_desc-harmonized.nii.gz"),
        ("pair.img", "pair_desc-harmonized.nii.gz"),
        ("my scan v1.2.nii", "my scan v1.2_desc-harmonized.nii.gz"),
        ("my_old_scan.nii", "my_old_scan_desc-harmonized.nii.gz"),
        ("кот.nii", "кот_desc-harmonized.nii.gz"),
        ("..", "scan_desc-harmonized.nii.gz"),
        (".hidden.nii", "hidden_desc-harmonized.nii.gz"),
        ("a\\..\\b.nii", "a-..-b_desc-harmonized.nii.gz"),
    ],
)
def test_output_name(source, expected):
    assert output_name(source, "harmonized") == expected


def test_other_names_of_a_scan():
    assert mask_name("x/sub-01_T1w.nii.gz") == "sub-01_desc-brain_mask.nii.gz"
    assert mask_name("x/scan.mgz") == "scan_desc-brain_mask.nii.gz"
    assert sidecar_name("x/sub-01_desc-a_T1w.nii.gz") == "sub-01_desc-a_T1w.json"
    assert report_name("x/sub-01_T1w.nii") == "sub-01_T1w.html"
    assert output_name("scan.mgz", "harmonized", suffix_ext=".mgz") == "scan_desc-harmonized.mgz"


def test_entities():
    assert entities("sub-01_acq-hi_T1w.nii.gz") == {"sub": "01", "acq": "hi", "suffix": "T1w"}
    assert entities("sub-01.nii.gz") == entities("sub-01_ses-1.nii") == {}


def test_desc_is_a_plain_label():
    with pytest.raises(ValueError, match="letters and digits"):
        output_name("scan.nii", "../x")


@given(st.text(min_size=1, max_size=300), st.sampled_from(["", ".nii", ".nii.gz", ".mgz"]))
def test_no_name_leaves_the_output_folder(text, extension):
    folder = Path("/out")
    source = text + extension
    for name in (
        output_name(source, "harmonized"),
        mask_name(source),
        sidecar_name(source),
        report_name(source),
    ):
        assert (folder / name).parent == folder
        assert not name.startswith(".")
        assert len(name.encode()) <= 255
        assert not set(name) & set('/\\\0\n:*?"<>|')


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=40))
def test_split_name_loses_nothing(name):
    assert "".join(split_name("/data/" + name)) == Path("/data/" + name).name
