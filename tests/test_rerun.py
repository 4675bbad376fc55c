"""A sidecar is enough to repeat a run, and notices what has changed since."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.main import main
from blindharmony.errors import InputError
from blindharmony.provenance import read_record


@pytest.fixture(scope="module")
def study(stripped_head, tiny_target_file, tmp_path_factory):
    """Two scans, a mask and a target in one folder; results of one run in another."""
    root = tmp_path_factory.mktemp("study")
    (root / "in").mkdir()
    for name, power in (("a_T1w", 1.0), ("b_T1w", 0.8)):
        image = nib.Nifti1Image((stripped_head.data**power).astype(np.float32), stripped_head.affine)
        nib.save(image, root / "in" / f"{name}.nii.gz")
    mask = nib.Nifti1Image(stripped_head.brain.astype(np.uint8), stripped_head.affine)
    nib.save(mask, root / "in" / "brain.nii.gz")
    (root / "in" / "tiny.safetensors").write_bytes(tiny_target_file.read_bytes())
    return root


def harmonized(study, out, *words):
    """The sidecar of scan a."""
    target = ["--target", str(study / "in" / "tiny.safetensors"), "--seed", "7", "--out", str(study / out)]
    assert main(["harmonize", str(study / "in" / "a_T1w.nii.gz"), *words, *target]) == 0
    return study / out / "a_T1w_desc-harmonized.json"


def rerun(study, sidecar, *words):
    return main(["rerun", str(sidecar), "--inputs", str(study / "in"), *words])


@pytest.mark.long
def test_a_run_is_repeated_with_equal_bytes(study, capsys, tmp_path):
    sidecar = harmonized(study, "plain", "--mask", str(study / "in" / "brain.nii.gz"))
    capsys.readouterr()
    assert rerun(study, sidecar, "--out", str(tmp_path / "again")) == 0
    said = capsys.readouterr()
    assert said.out.count("equal") == 3
    assert "NOT" not in said.out
    for file in sidecar.parent.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    # What is compared with is not replaced by what it is compared with.
    before = {file: file.read_bytes() for file in sidecar.parent.iterdir()}
    assert rerun(study, sidecar, "--out", str(sidecar.parent), "--overwrite") == 1
    assert "this is an input of the run" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in sidecar.parent.iterdir()} == before


@pytest.mark.long
def test_a_scanner_model_is_inside(study, capsys):
    both = [str(study / "in" / "b_T1w.nii.gz"), "--group", "--no-report", "--no-refine", "--keep-bias"]
    sidecar = harmonized(study, "group", *both)
    record = read_record(sidecar)
    assert record.parameters.scanner is not None
    assert record.parameters.keep_bias
    assert not record.parameters.refine
    assert rerun(study, sidecar) == 0


@pytest.fixture(scope="module")
def cohort(study, tmp_path_factory):
    """The derivative of two scans that share a scanner."""
    root = tmp_path_factory.mktemp("cohort")
    for number, name in ((1, "a_T1w"), (2, "b_T1w")):
        folder = root / "bids" / f"sub-0{number}" / "anat"
        folder.mkdir(parents=True)
        (folder / f"sub-0{number}_T1w.nii.gz").write_bytes((study / "in" / f"{name}.nii.gz").read_bytes())
    (root / "bids" / "dataset_description.json").write_text('{"Name": "two", "BIDSVersion": "1.10.0"}')
    target, out = str(study / "in" / "tiny.safetensors"), root / "derivatives"
    words = ["bids", str(root / "bids"), str(out), "participant", "--target", target, "--n-procs", "0", "-q"]
    assert main([*words, "--scanner-grouping", "one"]) == 0
    return out


@pytest.mark.long
def test_a_scan_of_a_cohort_is_repeated(study, cohort, capsys, tmp_path):
    sidecar = cohort / "sub-01" / "anat" / "sub-01_desc-harmonized_T1w.json"
    again = ["rerun", str(sidecar), "--target", str(study / "in" / "tiny.safetensors")]
    assert sidecar.stat().st_size <= 4000
    scanner = read_record(sidecar).parameters.scanner
    [file] = (cohort / "scanners").iterdir()
    assert (scanner.file, scanner.model) == (f"bids::scanners/{file.name}", None)
    assert scanner.digest in file.name
    assert main([*again, "--out", str(tmp_path / "again")]) == 0
    assert "NOT" not in capsys.readouterr().out

    # A sidecar of an earlier version holds the model itself.
    text, whole = sidecar.read_text(), file.read_text()
    content = json.loads(text)
    content["Parameters"]["Scanner"] = {"Scans": 2, "Digest": scanner.digest, "Model": json.loads(whole)}
    sidecar.write_text(json.dumps(content))
    file.unlink()
    try:
        assert main([*again, "--out", str(tmp_path / "old")]) == 0
        sidecar.write_text(text)
        assert main(again) != 0
        assert f"its scanner model {file.name} was not found" in capsys.readouterr().err
        changed = json.loads(whole)
        changed["scans"] += 1
        file.write_text(json.dumps(changed))
        assert main(again) != 0
        assert "this scanner model has changed" in capsys.readouterr().err
        (tmp_path / file.name).write_text(whole)
        file.unlink()
        assert main([*again, "--inputs", str(tmp_path)]) == 0
    finally:
        sidecar.write_text(text)
        file.write_text(whole)


def test_no_folder_is_named(study):
    text = harmonized(study, "private", "--mask", str(study / "in" / "brain.nii.gz")).read_text()
    assert str(study) not in text
    assert not re.search(r'"/', text)


@pytest.fixture(scope="module")
def sidecar(study):
    return harmonized(study, "once", "--method", "match", "--no-report")


def test_another_result_is_noticed(study, sidecar, tmp_path, capsys):
    content = json.loads(sidecar.read_text())
    name = "a_T1w_desc-harmonized.nii.gz"
    content["Results"][name] = "0" * 64
    content["Versions"]["torch"] = "0.1"
    (tmp_path / "changed.json").write_text(json.dumps(content))
    assert rerun(study, tmp_path / "changed.json") == 1
    said = capsys.readouterr()
    assert f"NOT EQUAL  {name}" in said.out
    assert "torch was 0.1" in said.err


@pytest.mark.parametrize(
    ("name", "word"), [("a_T1w.nii.gz", "scan has changed"), ("tiny.safetensors", "target model has changed")]
)
def test_a_changed_input_is_refused(study, sidecar, tmp_path, capsys, name, word):
    for file in (study / "in").iterdir():
        content = file.read_bytes()
        if file.name == name and file.suffix == ".gz":
            image = nib.load(file)
            nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 1.01, image.affine), tmp_path / file.name)
        else:
            changed = content.replace(b"synthetic", b"Synthetic") if file.name == name else content
            (tmp_path / file.name).write_bytes(changed)
    lonely = tmp_path / "results" / "deep" / sidecar.name
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(sidecar.read_bytes())
    assert main(["rerun", str(lonely), "--inputs", str(tmp_path)]) != 0
    said = capsys.readouterr().err
    assert word in said
    assert name in said
    assert said.count("\n") == 1


def test_missing_inputs_are_named(sidecar, tmp_path, capsys):
    lonely = tmp_path / "a" / "b" / "s.json"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(sidecar.read_bytes())
    assert main(["rerun", str(lonely)]) == 1
    assert "scan a_T1w.nii.gz was not found; name the file or its folder with --inputs" in capsys.readouterr().err


def test_a_target_that_was_never_saved_cannot_be_found(study, sidecar, tmp_path, capsys):
    content = json.loads(sidecar.read_text())
    content["Target"]["Digest"] = ""
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert rerun(study, tmp_path / "s.json") != 0
    assert "its target model tiny was never saved" in capsys.readouterr().err


def test_a_file_starts_no_program(study, sidecar, tmp_path, capsys):
    content = json.loads(sidecar.read_text())
    trace = tmp_path / "it ran"
    content["Parameters"]["MaskCommand"] = f"touch '{trace}'"
    (tmp_path / "evil.json").write_text(json.dumps(content))
    assert rerun(study, tmp_path / "evil.json") == 2
    assert "--mask-command" in capsys.readouterr().err
    assert not trace.exists()


@pytest.mark.parametrize("name", ["../a_T1w.nii.gz", "/etc/passwd", "..\\x", ""])
def test_names_cannot_lead_elsewhere(sidecar, tmp_path, name):
    content = json.loads(sidecar.read_text())
    content["Sources"] = [name]
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="Sources"):
        read_record(tmp_path / "s.json")


def test_other_files_are_no_sidecars(tmp_path):
    for text in ("{}", "[]", "no json", "[" * 100_000):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(InputError, match=r"give the \.json beside"):
            read_record(tmp_path / "s.json")
