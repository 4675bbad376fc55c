"""Which scans are meant, what their sidecars say, and which mask is theirs."""

import gzip
import json
from fnmatch import fnmatch

import nibabel as nib
import numpy as np
import pytest
from fake_study import fake_run, make_study
from hypothesis import given
from hypothesis import strategies as st

from blindharmony.errors import InputError, NothingFoundError, OutputError, UsageError
from blindharmony.io.bids import bids_scans, find_mask, read_filter
from blindharmony.io.tables import column_of
from blindharmony.study.cohort import cohort_rows, write_table
from blindharmony.study.derivative import describe, validation_issues
from blindharmony.study.groups import by_metadata, damaged, metadata
from blindharmony.study.ledger import Ledger

SMALL = gzip.compress(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes())


@pytest.fixture
def visits(tmp_path):
    return make_study(tmp_path / "s", dict.fromkeys(("sub-01/ses-1", "sub-01/ses-2", "sub-02"), "ok: 1"))


def places(found):
    return [scan.place for scan in found[0]]


def test_participants_sessions_and_spellings(visits):
    assert len(places(bids_scans(visits))) == 3
    assert places(bids_scans(visits, participants=["sub-02"])) == ["sub-02/anat/sub-02_T1w.nii.gz"]
    for label in ("2", "ses-2"):
        assert places(bids_scans(visits, sessions=[label])) == ["sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"]
    scan = bids_scans(visits, sessions=["1"])[0][0]
    assert scan.result == "sub-01/ses-1/anat/sub-01_ses-1_desc-harmonized_T1w.nii.gz"
    with pytest.raises(NothingFoundError, match="99"):
        bids_scans(visits, participants=["01", "99"])
    with pytest.raises(NothingFoundError, match="no scan found"):
        bids_scans(visits, suffix="T2w")


@given(label=st.text(max_size=12))
def test_a_label_is_letters_and_digits_or_refused(label, tmp_path_factory):
    root = make_study(tmp_path_factory.getbasetemp() / "labels", {"sub-01": "ok: 1"})
    try:
        bids_scans(root, participants=[label])
    except NothingFoundError:
        assert label.removeprefix("sub-").replace("+", "x").isalnum()
    except UsageError:
        assert not (label.isascii() and label.isalnum())
    else:
        assert label.removeprefix("sub-") == "01"


def test_names_that_lie_are_passed_over_with_a_word(visits):
    anat = visits / "sub-02" / "anat"
    (anat / "sub-03_T1w.nii.gz").touch()
    (anat / "sub-02_acq-..%2f_T1w.nii.gz").touch()
    (anat / "sub-02_T1w.nii").touch()
    (anat / "._sub-02_T1w.nii.gz").touch()
    found, odd = bids_scans(visits)
    assert len(found) == 3
    assert len(odd) == 3
    assert any("does not fit the folder" in str(line) for line in odd)
    assert any("would have the name" in str(line) for line in odd)


def test_a_filter_file(tmp_path):
    root = make_study(tmp_path / "s", {"sub-01": "ok: 1"})
    anat = root / "sub-01" / "anat"
    for more in ("run-01", "run-02", "acq-fast_run-3"):
        (anat / f"sub-01_{more}_T1w.nii.gz").touch()
    file = tmp_path / "filter.json"

    def count(**conditions):
        file.write_text(json.dumps({"bold": {"task": "rest"}, "t1w": conditions}))
        return len(places(bids_scans(root, only=read_filter(file))))

    assert count() == 4
    assert count(run=1) == 1
    assert count(run=[1, 2]) == 2
    assert count(run=None) == 1
    assert count(acquisition="fast", datatype="anat") == 1
    assert count(acquisition="Query.ANY") == 1
    with pytest.raises(InputError, match="colour"):
        count(colour="red")
    for text in ("[", "[1]", '{"t1w": 3}'):
        file.write_text(text)
        with pytest.raises(InputError):
            read_filter(file)


def test_the_nearer_sidecar_wins(visits):
    (visits / "T1w.json").write_text(json.dumps({"Manufacturer": "A", "EchoTime": 1, "FlipAngle": 8}))
    (visits / "acq-x_T1w.json").write_text(json.dumps({"FlipAngle": 9}))
    (visits / "T2w.json").write_text(json.dumps({"EchoTime": 7}))
    (visits / "sub-01" / "sub-01_T1w.json").write_text(json.dumps({"EchoTime": 2, "RepetitionTime": 2}))
    below = visits / "sub-01" / "ses-2" / "anat"
    (below / "sub-01_ses-2_T1w.json").write_text(json.dumps({"EchoTime": 3}))
    one, two, other = (metadata(scan) for scan in bids_scans(visits)[0])
    assert one == {"Manufacturer": "A", "EchoTime": 2, "FlipAngle": 8, "RepetitionTime": 2}
    assert two == {**one, "EchoTime": 3}
    assert other == {"Manufacturer": "A", "EchoTime": 1, "FlipAngle": 8}


def test_columns_of_participants_and_scans(visits):
    scans, _ = bids_scans(visits)
    (visits / "participants.tsv").write_text("\ufeffparticipant_id\tsite\nsub-01\tA\n02\tn/a\n")
    (visits / "sub-01/ses-2/sub-01_ses-2_scans.tsv").write_text("filename\tsite\nanat/sub-01_ses-2_T1w.nii.gz\tB\n")
    found, _ = column_of(visits, scans, "site")
    assert {k.split("/")[1]: v for k, v in found.items()} == {"ses-1": "A", "ses-2": "B"}
    with pytest.raises(UsageError, match="site"):
        column_of(visits, scans, "scanner")


def test_a_mask_is_the_scans_own_and_native(visits, tmp_path):
    first, second, other = bids_scans(visits)[0]
    masks = tmp_path / "masks"

    def put(place):
        (masks / place).parent.mkdir(parents=True, exist_ok=True)
        (masks / place).touch()
        return masks / place

    put("sub-01/ses-1/anat/sub-01_ses-1_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz")
    put("sub-01/ses-1/anat/sub-01_ses-1_run-2_desc-brain_mask.nii.gz")
    put("sub-01/ses-1/anat/sub-01_ses-1_desc-lesion_mask.nii.gz")
    assert find_mask(masks, first.path) is None
    whole = put("sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    own = put("sub-01/ses-2/anat/sub-01_ses-2_desc-brain_mask.nii.gz")
    assert [find_mask(masks, s.path) for s in (first, second, other)] == [whole, own, None]
    assert find_mask(masks, tmp_path / "head.nii") is None
    plain = put("head_desc-brain_mask.nii.gz")
    assert find_mask(masks, tmp_path / "head.nii") == plain


def test_a_broken_link_is_a_scan(visits):
    (visits / "sub-02" / "anat" / "sub-02_run-2_T1w.nii.gz").symlink_to(visits / "annex" / "gone")
    assert len(places(bids_scans(visits))) == 4


def test_results_are_called_what_they_are(visits, tmp_path):
    describe(visits, tmp_path / "out", "site", "T2w")
    name = json.loads((tmp_path / "out" / "dataset_description.json").read_text())["Name"]
    assert name == "study: T2w scans harmonized to 'site'"


def test_old_letters_and_numbers_that_are_none_hide_no_scanner(visits):
    scans, _ = bids_scans(visits)
    for scan in scans:
        sidecar = scan.path.with_name(scan.path.name.replace(".nii.gz", ".json"))
        text = '{"InstitutionName": "Universit\xe4t", "EchoTime": NaN, "DeviceSerialNumber": "7"}'
        sidecar.write_bytes(text.encode("latin-1"))
    assert [len(g.scans) for g in by_metadata(scans)] == [3]


def test_a_damaged_sidecar_is_named(visits):
    scan = bids_scans(visits)[0][0]
    sidecar = scan.path.with_name(scan.path.name.replace(".nii.gz", ".json"))
    sidecar.write_text("{")
    assert metadata(scan) == {}
    assert damaged(scan) == sidecar.name
    assert f"its sidecar {sidecar.name} cannot be read" in by_metadata([scan])[0].why


def test_a_table_with_cells_too_many_or_too_few(visits):
    scans, _ = bids_scans(visits)
    (visits / "participants.tsv").write_text("site\tparticipant_id\nA\tsub-01\textra\nB\n")
    assert set(column_of(visits, scans, "site")[0].values()) == {"A"}
    with pytest.raises(UsageError, match="have: site"):
        column_of(visits, scans, "sight")


def test_a_derivative_says_what_it_is_and_keeps_the_terms_of_its_source(visits, tmp_path, monkeypatch):
    monkeypatch.setenv("BLINDHARMONY_CONTAINER", "docker mylab/blindharmony:7")
    source = {"Name": "s", "BIDSVersion": "1.10.0", "License": "CC0", "Authors": ["A. Person"], "EthicsApprovals": 3}
    (visits / "dataset_description.json").write_text(json.dumps(source))
    (visits / "LICENSE").write_text("to everybody")
    out = tmp_path / "out"
    describe(visits, out, "site")
    content = json.loads((out / "dataset_description.json").read_text())
    assert (content["License"], content["Authors"], "EthicsApprovals" in content) == ("CC0", ["A. Person"], False)
    assert content["GeneratedBy"][0]["Container"] == {"Type": "docker", "Tag": "mylab/blindharmony:7"}
    assert (out / "LICENSE").read_text() == "to everybody"
    assert "scanner of 'site'" in (out / "README.md").read_text()
    # What a run has written is brought up to date; what somebody else has written stays.
    describe(visits, out, "other site")
    assert "scanner of 'other site'" in (out / "README.md").read_text()
    (out / "README.md").write_text("my own words")
    (out / "LICENSE").write_text("my own terms")
    describe(visits, out, "site")
    assert (out / "README.md").read_text() == "my own words"
    assert (out / "LICENSE").read_text() == "my own terms"


def test_the_validator_passes_over_nothing_but_what_bids_has_no_name_for(visits, tmp_path):
    out = tmp_path / "out"
    described = json.loads((visits / "dataset_description.json").read_text())
    (visits / "dataset_description.json").write_text(json.dumps({**described, "Authors": ["A. Person", "B. Person"]}))
    describe(visits, out, "site")
    fake_run(visits, out)
    write_table(Ledger(out), cohort_rows(Ledger(out)))
    (out / "cohort.html").touch()
    # No table and no dictionary is kept from it.
    passed_over = (out / ".bidsignore").read_text().split()
    assert not [f.name for f in out.rglob("*.tsv") for rule in passed_over if fnmatch(f.relative_to(out), rule)]
    assert "cohort" not in " ".join(passed_over)
    for name in ("cohort", "failures"):
        head = Ledger(out).table(name).read_text().splitlines()[0].split("\t")
        dictionary = json.loads(Ledger(out).table(name).with_suffix(".json").read_text())
        assert list(dictionary) == head
        assert all(column["Description"] for column in dictionary.values())
    # The fake images hold no voxels: what lies at the top is what is judged here.
    for image in out.rglob("sub-*/**/*"):
        if image.is_file():
            image.unlink()
    (out / "sub-02/anat/sub-02_space-MNI_T1w.nii.gz").write_bytes(SMALL)
    (out / "sub-02/anat/sub-02_space-MNI_T1w.json").write_text('{"SkullStripped": false, "Description": "d"}')
    issues = validation_issues(out)
    if issues is None:
        pytest.skip("no BIDS validator here")
    assert [i for i in issues if i["location"].count("/") == 1] == []
    (out / "other.tsv").write_text("a\n1\n")
    (other,) = (i for i in validation_issues(out) if i["location"].count("/") == 1)
    assert (other["location"], other["severity"]) == ("/other.tsv", "error")


def test_tables_of_version_1_come_to_their_new_place_and_none_stays_at_the_top(visits, tmp_path):
    out = tmp_path / "out"
    fake_run(visits, out)
    for name in ("cohort", "failures"):
        for ending in ("tsv", "json"):
            (out / f"{name}.{ending}").write_text(f"old {name}.{ending}")
    new = Ledger(out).table("failures").read_bytes()
    fake_run(visits, out)
    assert [f.name for f in out.iterdir() if f.suffix in (".tsv", ".json")] == []
    assert Ledger(out).table("failures").read_bytes() == new
    assert Ledger(out).table("cohort").read_text() == "old cohort.tsv"
    write_table(Ledger(out), cohort_rows(Ledger(out)))
    assert Ledger(out).table("cohort").read_text().startswith("participant_id\t")


def test_tables_are_not_written_through_a_link_to_another_place(visits, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    (out / "logs").symlink_to(other)
    with pytest.raises(OutputError, match="leads out of the output folder"):
        fake_run(visits, out)
    assert list(other.iterdir()) == []
