"""No name, however strange, leads out of a job's folder, hides a file or makes two results one."""

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindharmony.errors import InputError
from blindharmony.files import result_names
from blindharmony.serve.store import EXTENSIONS, JobScan, safe_leaf, shown_name, told_apart

WILD = st.text(max_size=300) | st.text(alphabet="./\\ ~:-_aB\x00\n\u202e%é", max_size=40)
ENDINGS = st.sampled_from([*EXTENSIONS, ".NII", ".Nii.GZ"])


@given(WILD, ENDINGS)
def test_a_leaf_is_a_plain_visible_file_name_on_every_system(stem, ending):
    leaf = safe_leaf(stem + ending)
    for path in (PurePosixPath(leaf), PureWindowsPath(leaf)):
        assert path.name == leaf
        assert not path.is_absolute()
        assert path.parts == (leaf,)
    assert not leaf.startswith((".", "-"))
    assert leaf.isprintable()
    assert len(leaf.encode()) <= 120
    assert leaf.endswith(EXTENSIONS)
    assert not PureWindowsPath(leaf).is_reserved()
    assert safe_leaf(leaf) == leaf
    JobScan(label="x", leaf=leaf, size=1)


@given(
    st.lists(
        WILD.map(lambda stem: safe_leaf(stem + ".nii"))
        | st.sampled_from(["a.nii", "A.nii.gz", "a.mgz", "sub-1_T1w.nii", "sub-1_UNIT1.nii.gz"])
    )
)
def test_no_two_scans_of_a_job_have_results_of_one_name(leaves):
    found = told_apart(leaves)
    assert len(found) == len(leaves)
    names = [name.casefold() for leaf in found for name in result_names(leaf).values()]
    assert len(set(names)) == len(names)


@given(WILD)
def test_what_is_shown_is_one_short_line(name):
    shown = shown_name(name)
    assert shown
    assert shown.isprintable()
    assert len(shown) <= 160
    assert "/" not in shown


@pytest.mark.parametrize("name", ["", "a", "a.txt", "a.nii.exe", "a.dcm", "a.nii/", "..", "a.img"])
def test_only_scans_are_taken(name):
    with pytest.raises(InputError):
        safe_leaf(name)


def test_bids_names_stay_as_they_are():
    assert safe_leaf("sub-01_ses-2_run-1_T1w.nii.gz") == "sub-01_ses-2_run-1_T1w.nii.gz"
