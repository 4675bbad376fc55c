"""What a training is given: which scans teach, and which are held out."""

import argparse
import json
import math
import os
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.train import add_parser, recipe, training_settings
from blindharmony.errors import InputError, OutputError, UsageError
from blindharmony.io.bids import find_masks
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.settings import TrainSettings
from blindharmony.training.data import hold_out, named_scans, prepare_head, prepare_heads, work_folder
from blindharmony.training.target import train


def paths(*numbers):
    return [Path(f"{n}.nii") for n in numbers]


def test_scans_that_are_held_out_count_once():
    taught, unseen = hold_out(paths(0, 1, 2, 3, 4), paths(4))
    assert (len(taught), len(unseen)) == (4, 1)
    with pytest.raises(UsageError, match="scanner from: 3, with 2 held out"):
        hold_out(paths(0, 1, 2), paths(1, 2))


def test_somebody_has_to_teach():
    with pytest.raises(UsageError, match="scanner from: 5, with 5 held out"):
        hold_out(paths(0, 1, 2, 3, 4), paths(0, 1, 2, 3, 4))


def test_few_people_scanned_often():
    scans = [Path(f"sub-{who}_ses-{i}_T1w.nii") for who in "abc" for i in range(3)]
    taught, unseen = hold_out(scans, [])
    assert unseen == scans[6:]
    assert taught == scans[:6]
    with pytest.raises(UsageError, match="6 scans of 2 people are too few people"):
        hold_out(scans[:6], [])


@pytest.mark.parametrize(
    "wrong", [{"steps": -1}, {"restorer_steps": -2}, {"minutes": -1.0}, {"slice_minutes": math.nan}]
)
def test_numbers_that_make_no_sense_are_refused_before_any_work(wrong, tmp_path):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        train(paths(*range(5)), tmp_path / "x.safetensors", **wrong)
    assert not any(tmp_path.iterdir())


def test_every_scan_has_a_mask_or_a_program_that_makes_one(tmp_path):
    scans = [tmp_path / f"{n}.nii" for n in range(5)]
    for scan in scans:
        scan.touch()
    with pytest.raises(UsageError, match=r"no such folder.*--mask-dir"):
        train(scans, tmp_path / "x.safetensors", mask_dir=tmp_path / "none")
    mask = tmp_path / "1_desc-brain_mask.nii.gz"
    mask.touch()
    with pytest.raises(InputError, match=r"0\.nii: no brain mask .*, and for 3 more; .*--mask-command"):
        train(scans, tmp_path / "x.safetensors", mask_dir=tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*scans, mask])
    assert find_masks(scans, tmp_path, command="any") == {scans[1]: mask}


def test_the_mask_that_is_given_is_used_and_remembered(tmp_path, whole_head):
    scan, mask, wrong = (tmp_path / f"{name}.nii.gz" for name in ("scan", "mask", "wrong"))
    nib.save(nib.Nifti1Image(whole_head.data, whole_head.affine), scan)
    nib.save(nib.Nifti1Image(whole_head.brain.astype(np.uint8), whole_head.affine), mask)
    nib.save(nib.Nifti1Image(whole_head.brain[1:].astype(np.uint8), whole_head.affine), wrong)
    plain = PrepRecipe(n4=False)
    head = prepare_head(scan, plain, tmp_path, mask=mask)
    assert head.mask.sum() == whole_head.brain.sum()
    # A program sees the scan in RAS+.
    nib.save(nib.as_closest_canonical(nib.load(mask)), tmp_path / "turned.nii.gz")
    copy = f"cp {tmp_path / 'turned.nii.gz'} {{output}}"
    assert prepare_head(scan, plain, tmp_path, mask_command=copy).key == head.key
    assert len(list(tmp_path.glob("*.safetensors"))) == 2, "kept by what made its mask"
    with pytest.raises(InputError, match=r"scan\.nii\.gz: the mask has"):
        prepare_heads([scan], plain, tmp_path, lambda *stage: None, masks={scan: wrong})


@pytest.mark.parametrize("role", ["scan", "mask"])
def test_a_pipe_among_the_scans_or_masks_is_not_waited_for(role, tmp_path, whole_head):
    os.mkfifo(tmp_path / "pipe.nii")
    nib.save(nib.Nifti1Image(whole_head.data, whole_head.affine), tmp_path / "a.nii")
    scan, mask = (tmp_path / "pipe.nii", None) if role == "scan" else (tmp_path / "a.nii", tmp_path / "pipe.nii")
    with pytest.raises(InputError, match=r"pipe\.nii: this is no regular file"):
        prepare_head(scan, PrepRecipe(), tmp_path, mask=mask)


def test_two_trainings_of_one_model_do_not_meet(tmp_path):
    out, scans = tmp_path / "x.safetensors", [tmp_path / f"{n}.nii" for n in range(5)]
    for scan in scans:
        scan.touch()
    with work_folder(out, resume=False), pytest.raises(OutputError, match=r"x.safetensors.work: another run"):
        train(scans, out)
    assert not (tmp_path / "x.safetensors.work").exists()


def test_what_was_learnt_stays_for_the_next_run_only_if_it_goes_on(tmp_path):
    out, work = tmp_path / "x.safetensors", tmp_path / "x.safetensors.work"
    for resume, kept in ((True, ["checkpoint-flow-2.safetensors", "head.safetensors"]), (False, ["head.safetensors"])):
        work.mkdir(exist_ok=True)
        for name in ("checkpoint-flow-2", "head"):
            work.joinpath(f"{name}.safetensors").touch()
        with pytest.raises(KeyboardInterrupt), work_folder(out, resume=resume):
            raise KeyboardInterrupt
        assert sorted(p.name for p in work.glob("*.safetensors")) == kept


def test_python_finds_the_scans_of_the_contrast_that_was_asked_for(tmp_path):
    for name in ("T1w", "T2w"):
        scan = tmp_path / f"sub-01/anat/sub-01_{name}.nii.gz"
        scan.parent.mkdir(parents=True, exist_ok=True)
        scan.touch()
    with pytest.raises(UsageError, match="scanner from: 1, with 1 held out"):
        train(tmp_path, tmp_path / "x.safetensors", suffix="T2w", minutes=1)


def test_an_unknown_setting_is_refused_with_a_hint(tmp_path):
    with pytest.raises(UsageError, match="minuts is unknown; did you mean minutes"):
        train(paths(*range(5)), tmp_path / "x.safetensors", minuts=3)


def test_held_out_scans_are_named_by_subject_or_file(tmp_path):
    scans = [tmp_path / f"sub-{n}_T1w.nii" for n in ("01", "02")]
    other = tmp_path / "other.nii"
    other.touch()
    assert named_scans(scans, ["sub-02", scans[1].name, scans[0], other]) == [scans[1], scans[0], other]
    with pytest.raises(UsageError, match="held-out 07 is none of the scans"):
        named_scans(scans, ["07"])


def arguments_from(*words):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["train", "study", "--out", "x.safetensors", *words])


def settings_from(*words):
    return training_settings(arguments_from(*words))


def test_the_options_of_the_command_are_the_settings():
    assert settings_from() == TrainSettings()
    words = ["--minutes", "3", "--steps", "5", "--no-restorer", "--slice-steps", "2", "--seed", "7"]
    words += ["--precision", "full", "--suffix", "T2w", "--batch", "2"]
    assert settings_from(*words, "--set", "flow_fit.rate=0.001", "--set", "deformation.flip=false").differences() == {
        **{"minutes": 3.0, "steps": 5, "restorer": False, "slice_steps": 2, "seed": 7, "precision": "full"},
        **{"suffix": "T2w", "batch": 2, "flow_fit": {"rate": 0.001}, "deformation": {"flip": False}},
    }


def test_a_file_of_settings_comes_before_numbers_and_options(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("minutes = 3\nseed = 1\n[flow_fit]\nrate = 0.1\npatch = 16\n")
    words = ["--config", str(file), "--set", "flow-fit.rate=0.2", "--seed", "5"]
    assert settings_from(*words).differences() == {"minutes": 3.0, "seed": 5, "flow_fit": {"rate": 0.2, "patch": 16}}


@pytest.mark.parametrize(
    "changes", [{}, {"steps": 5, "restorer": False}, {"flow_fit": {"level_shares": [1, 2, 3, 4, 5]}}]
)
def test_the_recipe_of_a_model_has_all_its_settings(tmp_path, changes):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(changes))
    arguments = arguments_from("--config", str(file), "--participant-label", "01", "--set", "deformation.flip=false")
    program, *words = shlex.split(recipe(arguments))
    again = arguments_from(*words[2:-2])
    assert (program, words[:2]) == ("blindharmony", ["train", "study"])
    assert training_settings(again) == training_settings(arguments)
    assert again.participant_label == ["01"]


def test_a_restorer_that_is_left_out_has_no_steps():
    with pytest.raises(UsageError, match="exclude each other"):
        settings_from("--no-restorer", "--restorer-steps", "3")


@pytest.mark.parametrize("wrong", ["flow_fit.rate", "rate=3", "flow_fit.rat=1", "flow_fit.rate=-1", "flow_fit.rate=x"])
def test_a_number_that_cannot_be_set_is_refused(wrong):
    with pytest.raises(UsageError, match=r"rate|flow_fit"):
        settings_from("--set", wrong)
