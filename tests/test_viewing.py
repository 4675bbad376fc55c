"""A result and its scan are found again, by name and hash, and shown in one page."""

import json

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.main import main
from blindharmony.errors import InputError
from blindharmony.files import file_sha256
from blindharmony.provenance import read_pair, view


@pytest.fixture
def result(tmp_path):
    """A made-up result with scan, mask and sidecar; the scan lies in another folder."""
    rng = np.random.default_rng(0)
    inside = np.zeros((24, 25, 26), bool)
    inside[6:18, 6:18, 6:18] = True
    data = np.where(inside, rng.uniform(300, 900, inside.shape), 5).astype(np.float32)
    (tmp_path / "in").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    affine = np.diag([-2.0, 2, 2, 1])
    scan = tmp_path / "in" / "sub-01_T1w.nii.gz"
    nib.save(nib.Nifti1Image(data, affine), scan)
    nib.save(nib.Nifti1Image(2 * data, affine), out / "sub-01_desc-harmonized_T1w.nii.gz")
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), affine), out / "sub-01_desc-brain_mask.nii.gz")
    said = {"Sources": [scan.name], "SourceSHA256": file_sha256(scan), "Target": {"Name": "mysite"}}
    (out / "sub-01_desc-harmonized_T1w.json").write_text(json.dumps(said))
    return out / "sub-01_desc-harmonized_T1w.nii.gz"


def test_a_result_is_shown_with_its_scan(result, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("webbrowser.open", seen.append)
    assert (
        main(["view", str(result.with_suffix("").with_suffix(".json")), "--inputs", str(tmp_path / "in"), "--open"])
        == 0
    )
    said = capsys.readouterr()
    page = tmp_path / "out" / "sub-01_desc-harmonized_T1w.viewer.html"
    assert said.out.strip() == str(page)
    assert seen == [page.as_uri()]
    text = page.read_text(encoding="utf-8")
    assert "mysite units" in text
    assert "sub-01_T1w.nii.gz" in text
    assert main(["view", str(result), "--inputs", str(tmp_path / "in")]) == 1
    assert "--overwrite" in capsys.readouterr().err
    # The page itself, like the report, also leads to its scan.
    assert main(["view", str(page), "--inputs", str(tmp_path / "in"), "--overwrite", "--quiet"]) == 0


def test_the_pair_is_what_the_files_hold(result, tmp_path):
    pair = read_pair(result, scan=tmp_path / "in" / "sub-01_T1w.nii.gz")
    assert np.allclose(pair.after.data, 2 * pair.before.data)
    assert pair.mask.sum() == 12**3
    result.with_name("sub-01_desc-brain_mask.nii.gz").unlink()
    assert (read_pair(result, inputs=[tmp_path / "in"]).mask == pair.mask).all()


def test_a_bids_data_set_says_where_its_scans_are(result, tmp_path):
    study = tmp_path / "study"
    (study / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "in" / "sub-01_T1w.nii.gz").rename(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    anat = study / "derivatives" / "blindharmony" / "sub-01" / "anat"
    anat.parent.mkdir(parents=True)
    result.parent.rename(anat)
    links = {"DatasetLinks": {"raw": "../.."}}
    (anat.parents[1] / "dataset_description.json").write_text(json.dumps(links))
    sidecar = anat / "sub-01_desc-harmonized_T1w.json"
    said = json.loads(sidecar.read_text())
    for place, there in (("sub-01/anat/sub-01_T1w.nii.gz", True), ("../sub-01/anat/sub-01_T1w.nii.gz", False)):
        sidecar.write_text(json.dumps({**said, "Sources": [f"bids:raw:{place}"]}))
        if there:
            assert read_pair(anat / result.name).before.path.name == "sub-01_T1w.nii.gz"
        else:
            with pytest.raises(InputError, match="not found"):
                read_pair(anat / result.name)


NAME = "sub-01_desc-harmonized_T1w"


@pytest.mark.parametrize(
    ("place", "content", "words"),
    [
        (f"out/{NAME}.json", None, "--scan"),
        (f"out/{NAME}.json", "{", "no sidecar"),
        (f"out/{NAME}.json", '{"Sources": [3]}', "--scan"),
        (f"out/{NAME}.json", '{"Sources": ["a"], "SourceSHA256": "b"}', "no sidecar"),
        ("in/sub-01_T1w.nii.gz", "another", "changed"),
        ("in/sub-01_T1w.nii.gz", None, "not found"),
        (f"out/{NAME}.nii.gz", None, "no such file"),
    ],
)
def test_what_is_missing_or_changed_is_one_line(place, content, words, result, tmp_path, capsys):
    (tmp_path / place).unlink()
    if content is not None:
        (tmp_path / place).write_text(content)
    assert main(["view", str(result), "--inputs", str(tmp_path / "in")]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1


def test_another_scan_is_refused(result, tmp_path):
    other = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(1).random((30, 30, 30)).astype(np.float32), np.eye(4)), other)
    with pytest.raises(InputError, match="not the scan"):
        view(result, scan=other)
    result.with_name("sub-01_desc-harmonized_T1w.json").unlink()
    with pytest.raises(InputError, match="shape"):
        view(result, scan=other)


def test_a_result_of_freesurfers_format_is_found_from_its_sidecar(result, tmp_path):
    image = nib.load(result)
    nib.save(nib.MGHImage(np.asarray(image.dataobj), image.affine), result.with_name("b.mgh"))
    result.with_name("b.json").write_text("{}")
    with pytest.raises(InputError, match=r"b\.mgh"):
        view(result.with_name("b.json"))
