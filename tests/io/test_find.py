import pytest

from blindharmony.errors import NothingFoundError, UsageError
from blindharmony.io.bids import find_scans


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(found, root):
    return [str(path.relative_to(root)) for path in found]


@pytest.fixture
def bids(tmp_path):
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-02/anat/sub-02_T1w.nii",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.json",
        "sub-01/ses-1/anat/._sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_desc-harmonized_T1w.nii.gz",
        "sub-01/ses-1/func/sub-01_ses-1_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    )
    return tmp_path


ONE = [f"sub-01/ses-{n}/anat/sub-01_ses-{n}_T1w.nii.gz" for n in (1, 2)]


def test_bids(bids):
    assert names(find_scans([bids]), bids) == [*ONE, "sub-02/anat/sub-02_T1w.nii"]
    (bids / "dataset_description.json").unlink()
    assert len(find_scans([bids])) == 3
    assert names(find_scans([bids], suffix="T2w"), bids) == ["sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz"]


@pytest.mark.parametrize("label", ["01", "sub-01"])
def test_participants(bids, label):
    assert names(find_scans([bids], participant_labels=[label]), bids) == ONE


def test_unknown_participant(bids):
    with pytest.raises(NothingFoundError, match="no participant 7, 9; there are 01, 02") as caught:
        find_scans([bids], participant_labels=["01", "9", "7"])
    assert caught.value.exit_code == 66


def test_folder_of_images(tmp_path):
    touch(
        tmp_path,
        *("b.nii", "a.nii.gz", "c.mgz", "d.img", "d.hdr", "t1_masked.nii"),
        *("a_mask.nii.gz", "a_dseg.nii.gz", "a_desc-harmonized.nii.gz", "a.json", "._a.nii.gz", "e/f.nii"),
    )
    assert names(find_scans([tmp_path]), tmp_path) == ["a.nii.gz", "b.nii", "c.mgz", "d.img", "t1_masked.nii"]
    with pytest.raises(UsageError, match="BIDS"):
        find_scans([tmp_path], participant_labels=["01"])


def test_order_is_kept_and_duplicates_go(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "x_mask.nii")
    found = find_scans([tmp_path / "b.nii", tmp_path / "x_mask.nii", tmp_path, tmp_path / "." / "b.nii"])
    assert names(found, tmp_path) == ["b.nii", "x_mask.nii", "a.nii"]


def test_nothing(tmp_path):
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(NothingFoundError, match=r"looked for sub-\*.*_T1w"):
        find_scans([tmp_path])
    with pytest.raises(NothingFoundError, match="looked for images"):
        find_scans([tmp_path / "sub-01"])
    with pytest.raises(NothingFoundError, match=r"gone\.nii: no such file"):
        find_scans([tmp_path / "gone.nii"])
    with pytest.raises(NothingFoundError, match="no input"):
        find_scans([])


def test_link_without_content_is_still_a_scan(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "annex" / "gone")
    assert names(find_scans([tmp_path]), tmp_path) == ["a.nii.gz"]
