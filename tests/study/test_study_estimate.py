"""What a study will take is said from a few of its scans, and nothing stays of them."""

import json
import tempfile

import nibabel as nib
import pytest

from blindharmony.cli.main import main
from heads import head_grid, synthetic_brain


@pytest.fixture
def study(tmp_path):
    """Four scans of one scanner, one of nobody knows which."""
    head = synthetic_brain(*head_grid(1, mm=3.0), seed=1)
    for number in range(5):
        anat = tmp_path / f"study/sub-0{number}/anat"
        anat.mkdir(parents=True)
        nib.save(nib.Nifti1Image(head.data + number, head.affine), anat / f"sub-0{number}_T1w.nii.gz")
        fields = {"DeviceSerialNumber": "1"} if number < 4 else {}
        (anat / f"sub-0{number}_T1w.json").write_text(json.dumps(fields))
    (tmp_path / "study/dataset_description.json").write_text(json.dumps({"Name": "five", "BIDSVersion": "1.10.0"}))
    return tmp_path / "study"


@pytest.mark.slow
def test_three_scans_tell_what_all_will_take(study, tmp_path, tiny_target_file, monkeypatch, capsys):
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rooms))
    out = tmp_path / "out"
    words = ["bids", str(study), str(out), "participant", "--target", str(tiny_target_file), "--skip-bids-validation"]
    assert main([*words, "--n-procs", "1", "--estimate", "--json", "-q"]) == 0
    cost = json.loads(capsys.readouterr().out)
    few = cost["measured"]
    assert (cost["scans"], cost["scanners"], cost["alone"], few["scans"]) == (5, 1, 1, 3)
    # Two were fitted together, one went alone; each gave an image, a mask, a report and two sidecars.
    assert few["result_files"] == 5
    assert cost["files"] == 5 * (5 + few["record_files"])
    assert cost["process_hours"] * 3600 == pytest.approx(4 * few["fitted_s"] + few["alone_s"] + few["fit_s"])
    assert few["fitted_s"] > 0.05
    assert cost["core_hours"] * 3600 == pytest.approx(5 * few["core_s"])
    assert few["core_s"] > 0.05
    assert 0.1 < few["memory_gb"] <= cost["memory_gb"]
    assert cost["results_gb"] == pytest.approx(5 * few["results_mb"] / 1e3)
    assert not out.exists()
    assert list(rooms.iterdir()) == []


def test_scans_that_cannot_be_harmonized_cannot_be_reckoned_with(study, tmp_path, tiny_target_file, capsys):
    for scan in study.rglob("*.nii.gz"):
        scan.write_bytes(b"no scan")
    words = ["bids", str(study), str(tmp_path / "out"), "participant", "--target", str(tiny_target_file)]
    assert main([*words, "--n-procs", "1", "--estimate", "--skip-bids-validation", "-q"]) == 1
    assert "none of 3 scans could be harmonized: " in capsys.readouterr().err
