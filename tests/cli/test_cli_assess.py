"""``assess`` and ``sample`` as a user meets them."""

import json

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.main import main


@pytest.fixture(scope="module")
def files(stripped_head, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    data = np.maximum(stripped_head.data, 0)
    half = data.copy()
    half[data.shape[0] // 2 :] = 0
    paths = {}
    for name, image in (("whole", data), ("half", half), ("squared", data**2)):
        paths[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), stripped_head.affine), paths[name])
    return paths


def test_one_scan_is_told_in_full(files, tiny_target_file, capsys):
    assert main(["assess", str(files["whole"]), "--target", str(tiny_target_file), "--full"]) == 0
    text = capsys.readouterr().out
    for word in (
        "whole.nii.gz:",
        "intensities",
        "detail at 2 mm",
        "in all",
        "order of tissues",
        "mask:",
        "harmonize says: ",
    ):
        assert word in text


def test_several_scans_as_json(files, tiny_target_file, tmp_path, capsys):
    words = [
        "assess",
        str(files["whole"]),
        str(files["half"]),
        str(tmp_path / "gone.nii"),
        "--target",
        str(tiny_target_file),
        "--json",
    ]
    assert main(words) == 1
    said = capsys.readouterr()
    document = json.loads(said.out)
    found = {s["scan"]: s for s in document["scans"]}
    assert found["half.nii.gz"]["verdict"] == "not explainable"
    assert found["half.nii.gz"]["reasons"]
    # Half a head stays half a head: nothing was harmonized to say so.
    assert (found["half.nii.gz"]["harmonized"], found["half.nii.gz"]["after"]) == (None, [])
    assert document["failed"][0]["path"].endswith("gone.nii")
    assert "gone.nii" in said.err


@pytest.mark.long
def test_a_table_for_several(files, tiny_target_file, capsys):
    words = ["assess", str(files["whole"]), str(files["squared"]), "--target", str(tiny_target_file)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scan")
    assert {line.split()[0] for line in lines[1:]} >= {"whole.nii.gz", "squared.nii.gz"}


def test_samples_are_written_once_and_repeatable(files, tiny_target_file, tmp_path, capsys):
    words = ["sample", str(tiny_target_file), "--temperature", "0.5", "1.0", "--out"]
    for folder in ("a", "b"):
        assert main([*words, str(tmp_path / folder), "--scan", str(files["whole"])]) == 0
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == [
        "sample-01_temperature-0.50.nii.gz",
        "sample-01_temperature-1.00.nii.gz",
        "samples.html",
        "samples.json",
    ]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    head = nib.load(tmp_path / "a" / names[0])
    assert head.shape == (80, 96, 80)
    assert np.allclose(np.diag(head.affine)[:3], 2)
    assert 'src="http' not in (tmp_path / "a" / "samples.html").read_text()
    capsys.readouterr()
    assert main([*words, str(tmp_path / "a")]) != 0
    assert "--overwrite" in capsys.readouterr().err
    assert main(["sample", str(tiny_target_file), "--number", "0", "--out", str(tmp_path / "c")]) == 2
