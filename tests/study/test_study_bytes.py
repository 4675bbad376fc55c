"""The same scans give the same bytes, in this process or others, whatever the number of threads."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.demo import demo_scan
from blindharmony.cli.main import main
from blindharmony.study.derivative import validation_errors
from heads import head_grid, synthetic_brain


def words(study, out, level, *more):
    return [str(w) for w in ("bids", study, out, level, "-q", *more)]


def run(study, out, target, *more):
    command = [sys.executable, "-m", "blindharmony", *words(study, out, "participant", "--target", target, *more)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr


def files(out):
    """Everything but the run's own notes, which hold times."""
    found = {f.relative_to(out): f for f in out.rglob("*") if f.is_file()}
    return {name: f.read_bytes() for name, f in found.items() if name.parts[0] not in (".blindharmony", "logs")}


def of_one_scanner(study, images, first=1):
    for number, image in enumerate(images, first):
        scan = study / f"sub-0{number}/anat/sub-0{number}_T1w.nii.gz"
        scan.parent.mkdir(parents=True)
        nib.save(image, scan)
    (study / "dataset_description.json").write_text(json.dumps({"Name": "two", "BIDSVersion": "1.10.0"}))
    (study / "T1w.json").write_text(json.dumps({"DeviceSerialNumber": "1"}))
    return study


def same(one, two):
    assert sum(name.name.endswith(".nii.gz") for name in files(one)) >= 2
    assert files(one) == files(two)
    assert validation_errors(one) == [], "the official BIDS validator"


@pytest.mark.long
def test_processes_and_threads_change_no_byte(tmp_path, tiny_target_file, capsys):
    heads = [synthetic_brain(*head_grid(number, mm=3.0), seed=number) for number in (1, 2)]
    study = of_one_scanner(tmp_path / "study", [nib.Nifti1Image(h.data, h.affine) for h in heads])
    here, there = tmp_path / "here", tmp_path / "there"
    assert main(words(study, here, "participant", "--target", tiny_target_file, "--n-procs", 0)) == 0
    run(study, there, tiny_target_file, "--n-procs", 2, "--omp-nthreads", 2)
    same(here, there)
    # Nothing is done twice, and the cohort's table knows both.
    capsys.readouterr()
    assert main(words(study, here, "participant", "--target", tiny_target_file, "--n-procs", 0)) == 0
    assert "0 scans harmonized, 2 done before" in capsys.readouterr().out
    assert main(words(study, here, "group", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["status"] == {"done": 2}
    page = (here / "cohort.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert page.count('<circle class="own"') == 1
    assert validation_errors(here) == []
    # A third scan of the scanner takes its curve, and says so; no byte of the first two changes.
    before = files(here)
    head = synthetic_brain(*head_grid(3, mm=3.0), seed=3)
    of_one_scanner(study, [nib.Nifti1Image(head.data, head.affine)], first=3)
    assert main(words(study, here, "participant", "--target", tiny_target_file, "--n-procs", 0)) == 0
    assert {name: content for name, content in files(here).items() if name in before} == before
    models = [json.loads(f.read_text())["Parameters"]["Scanner"] for f in sorted(here.glob("sub-*/anat/*_T1w.json"))]
    assert models[0] == models[1]
    assert models[2] == {**models[0], "Late": True}


@pytest.mark.slow
def test_processes_and_threads_change_no_byte_of_real_scans(tmp_path):
    """N4, registration, the trained flow and the restorer as well."""
    scan = nib.load(demo_scan())
    mirrored = nib.Nifti1Image(np.asarray(scan.dataobj)[::-1].copy(), scan.affine, scan.header)
    study = of_one_scanner(tmp_path / "study", [scan, mirrored])
    one, two = tmp_path / "one", tmp_path / "two"
    run(study, one, "ds002748", "--n-procs", 1, "--omp-nthreads", 2)
    run(study, two, "ds002748", "--n-procs", 2, "--omp-nthreads", 1)
    same(one, two)
