"""``blindharmony simulate`` as a user meets it: header kept, sidecar, equal bytes, one line for every mistake."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.main import main
from blindharmony_benchmark.simulation.domains import DOMAINS


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_header_law_and_sidecar(domain, labelled_files, tmp_path, capsys):
    scan, out = labelled_files / "scan.nii.gz", tmp_path / f"{domain}.nii.gz"
    words = ["simulate", scan, "--domain", domain, "--labels", labelled_files / "dseg.nii.gz", "--out", out]
    assert main([*map(str, words), "--mask", str(labelled_files / "mask.nii.gz")]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    before, after = nib.load(scan), nib.load(out)
    assert after.shape == before.shape
    assert after.get_data_dtype() == np.float32
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(after.header[field], before.header[field])
    np.testing.assert_array_equal(after.affine, before.affine)
    image, source = after.get_fdata(), before.get_fdata()
    assert (image[source == 0] == 0).all()
    assert not np.array_equal(image, source)
    card = json.loads((tmp_path / f"{domain}.json").read_text())
    assert card["Domain"] == domain
    assert card["SourceSHA256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert card["Monotone"] == DOMAINS[domain].monotone
    used = DOMAINS[domain].needs_labels or domain == "all"
    assert card["Labels"] == ("dseg.nii.gz" if used else None)
    assert {"Settings", "Found", "Seed", "ScanSeed", "Formula", "Versions"} <= set(card)


def test_equal_words_give_equal_bytes(labelled_files, tmp_path):
    scan = labelled_files / "scan.nii.gz"
    for name, more in {"a": [], "b": [], "c": ["--scan-seed", "1"], "d": ["--seed", "1"]}.items():
        words = ["simulate", str(scan), "--domain", "all", "--out", str(tmp_path / f"{name}.nii.gz"), *more]
        assert main([*words, "--mask", str(labelled_files / "mask.nii.gz")]) == 0
    a, b, c, d = ((tmp_path / f"{n}.nii.gz").read_bytes() for n in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    cards = {n: json.loads((tmp_path / f"{n}.json").read_text()) for n in "abcd"}
    assert cards["a"] == cards["b"]
    assert cards["a"]["Settings"] == cards["c"]["Settings"] != cards["d"]["Settings"]


def test_the_brain_of_a_stripped_scan_is_found(stripped_head, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), scan)
    assert main(["simulate", str(scan), "--domain", "bias", "--out", str(tmp_path / "out.nii.gz")]) == 0
    ratio = nib.load(tmp_path / "out.nii.gz").get_fdata()[stripped_head.brain] / stripped_head.data[stripped_head.brain]
    assert max(ratio.max() - 1, 1 / ratio.min() - 1) == pytest.approx(0.3, abs=1e-3)


def test_thick_slices_follow_the_head_not_the_array(stripped_head, tmp_path):
    """The head is stored PIR: its slices lie along the second axis."""
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), scan)
    assert main(["simulate", str(scan), "--domain", "thick", "--out", str(tmp_path / "out.nii.gz")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["Found"]["SliceAxis"] == 1


def test_list_names_every_domain(capsys):
    assert main(["simulate", "--list"]) == 0
    said = capsys.readouterr().out
    for name, domain in DOMAINS.items():
        assert any(line.split()[0] == name for line in said.splitlines() if line.strip())
        assert domain.sentence in said
    assert "needs --labels" in said


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["simulate", "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--domain", "exp", "--out", "o.nii"], 2, "SCAN is missing"),
        (["SCAN", "--out", "o.nii"], 2, "--list"),
        (["SCAN", "--domain", "exp"], 2, "--out is missing"),
        (["SCAN", "--domain", "magic", "--out", "o.nii"], 2, "choose one of"),
        (["SCAN", "--domain", "tissue", "--out", "o.nii"], 2, "give --labels"),
        (["SCAN", "--domain", "exp", "--top", "-3", "--out", "o.nii"], 2, "above zero"),
        (["SCAN", "--domain", "exp", "--seed", "-3", "--out", "o.nii"], 2, "seed"),
        (["nowhere.nii", "--domain", "exp", "--out", "o.nii"], 1, "nowhere.nii: no such file"),
        (["SCAN", "--domain", "exp", "--mask", "nomask.nii", "--out", "o.nii"], 1, "nomask.nii"),
        (["SCAN", "--domain", "tissue", "--labels", "SCAN", "--out", "o.nii"], 1, "not only 0 to 3"),
        (["SCAN", "--domain", "tissue", "--labels", "SHIFTED", "--out", "o.nii"], 1, "the label file lies elsewhere"),
        (["SCAN", "--domain", "exp", "--mask", "SHIFTED", "--out", "o.nii"], 1, "the mask lies elsewhere"),
        (["SCAN", "--domain", "exp", "--out", "o.txt"], 1, "o.txt"),
        (["SCAN", "--domain", "exp", "--out", "SCAN", "--overwrite"], 1, "this is an input of the run"),
        (["SCAN", "--domain", "exp", "--out", "there.nii"], 1, "--overwrite"),
    ],
)
def test_mistakes(words, code, hint, labelled_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.nii").write_text("mine")
    labels = nib.load(labelled_files / "dseg.nii.gz")
    moved = labels.affine + np.array([[0, 0, 0, 30]] + [[0] * 4] * 3)
    nib.save(nib.Nifti1Image(np.asarray(labels.dataobj), moved), "shifted.nii.gz")
    known = {"SCAN": str(labelled_files / "scan.nii.gz"), "SHIFTED": "shifted.nii.gz"}
    full = ["simulate", *(known.get(w, w) for w in words)]
    if "--mask" not in full:
        full += ["--mask", str(labelled_files / "mask.nii.gz")]
    assert main(full) == code
    said = capsys.readouterr()
    assert hint in said.err
    assert "Traceback" not in said.err
    assert not said.out
    assert not (tmp_path / "o.nii").exists()
    assert (tmp_path / "there.nii").read_text() == "mine"
