"""One Methods text for a study: from all sidecars, refused where results were made in different ways."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import pytest

from blindharmony.cli.main import main
from blindharmony.cli.methods import study_sidecars, study_text
from blindharmony.models.file import load_target


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


@pytest.mark.parametrize(
    ("taken", "said", "left"),
    [
        ((0.1, 0.1, 0.1), "was corrected", ""),
        ((0.0, 0.02, 0.1), "was corrected", "In 2 scans"),
        ((0, 0, 0), "none removed", ""),
    ],
)
def test_a_field_that_was_left_is_not_said_to_be_corrected(study, tiny_target_file, tmp_path, taken, said, left):
    target = load_target(tiny_target_file)
    recipe = target.info.recipe.model_copy(update={"n4": True, "bias": "entropy"})
    target = replace(target, info=target.info.model_copy(update={"recipe": recipe}))
    for sidecar, spread in zip(sorted((study / "out").glob("*_T1w.json")), taken, strict=True):
        content = json.loads(sidecar.read_text())
        content["Preparation"]["n4"] = {"log_bias_sd": spread, "found_sd": 0.1}
        (tmp_path / sidecar.name).write_text(json.dumps(content))
    text = study_text(study_sidecars(tmp_path), target)
    assert said in text
    assert ("may be anatomy was left" in text) is bool(left)
    assert left in text


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
