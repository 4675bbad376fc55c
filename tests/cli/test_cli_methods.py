"""One Methods text for a study: from all sidecars, refused where results were made in different ways."""

import json
import shutil

import nibabel as nib
import pytest

from blindharmony.cli.main import main


@pytest.fixture(scope="module")
def study(stripped_head, tiny_target_file, tmp_path_factory):
    """Two scans of one scanner and one alone, harmonized to the small target."""
    folder = tmp_path_factory.mktemp("study")
    paths = [folder / f"sub-0{number}_T1w.nii.gz" for number in (1, 2, 3)]
    for path in paths:
        nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), path)
    (folder / "scanners.tsv").write_text("scan\tscanner\n" + "".join(f"{path.name}\tA\n" for path in paths[:2]))
    words = ["harmonize", *map(str, paths), "--group-table", str(folder / "scanners.tsv"), "--no-report"]
    assert main([*words, "--target", str(tiny_target_file), "--out", str(folder / "out")]) == 0
    return folder


def text_of(folder, target, capsys):
    assert main(["methods", str(folder), "--target", str(target)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_study_has_one_text_with_its_numbers(study, tiny_target_file, capsys):
    text = text_of(study / "out", tiny_target_file, capsys)
    assert "2 scans of one scanner (2) shared one curve" in text
    assert "One scan was harmonized by itself." in text
    assert "The scan had been skull-stripped before" in text
    assert "Settings were the defaults; the seed was 0." in text
    levels = [json.loads(p.read_text())["Verdict"]["Level"] for p in (study / "out").glob("*_T1w.json")]
    word = {"good": "good", "caution": "to be looked at", "poor": "poor"}[levels[0]]
    assert f"of 3, {levels.count(levels[0])} {word}" in text
    assert "Jeong H" in text


def test_settings_and_scans_that_came_back_are_said(study, tiny_target_file, tmp_path, capsys):
    sidecar = next((study / "out").glob("sub-03*T1w.json"))
    content = json.loads(sidecar.read_text())
    content["Harmonized"] = False
    content["Parameters"]["KeepBias"] = True
    (tmp_path / sidecar.name).write_text(json.dumps(content))
    text = text_of(tmp_path, tiny_target_file, capsys)
    assert "One scan was returned with intensities unchanged" in text
    assert "defaults but for keep_bias true" in text


def test_results_made_in_different_ways_or_with_another_target_are_refused(study, tiny_target_file, tmp_path, capsys):
    shutil.copytree(study / "out", tmp_path / "out")
    sidecar = next((tmp_path / "out").glob("sub-03*T1w.json"))
    content = json.loads(sidecar.read_text())
    content["Parameters"]["SettingsDigest"] = "0" * 12
    sidecar.write_text(json.dumps(content))
    assert main(["methods", str(tmp_path / "out"), "--target", str(tiny_target_file)]) == 1
    assert "made in 2 ways, with different settings" in capsys.readouterr().err
    assert main(["methods", str(study / "out"), "--target", "ds002748"]) == 1
    assert "another target model" in capsys.readouterr().err
    assert main(["methods", str(tmp_path)]) == 1
    (tmp_path / "empty").mkdir()
    assert main(["methods", str(tmp_path / "empty")]) == 66
    assert "no sidecar of a result" in capsys.readouterr().err
