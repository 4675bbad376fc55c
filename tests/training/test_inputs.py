"""What a training is given: which scans teach, and which are held out."""

import math
from pathlib import Path

import pytest

from blindharmony import training
from blindharmony.errors import OutputError, UsageError
from blindharmony.training import target_fit
from blindharmony.training.hold_out import hold_out
from blindharmony.training.work_folder import work_folder


def paths(*numbers):
    return [Path(f"{n}.nii") for n in numbers]


def test_scans_that_are_held_out_count_once():
    taught, unseen = hold_out(paths(0, 1, 2, 3, 4), paths(4))
    assert (len(taught), len(unseen)) == (4, 1)
    with pytest.raises(UsageError, match="3 scans, 1 of them to learn from"):
        hold_out(paths(0, 1, 2), paths(1, 2))


def test_somebody_has_to_teach():
    with pytest.raises(UsageError, match="5 scans, 0 of them to learn from"):
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
        target_fit.train_target(paths(*range(5)), tmp_path / "x.safetensors", **wrong)
    assert not any(tmp_path.iterdir())


def test_two_trainings_of_one_model_do_not_meet(tmp_path):
    out = tmp_path / "x.safetensors"
    with work_folder(out, resume=False), pytest.raises(OutputError, match=r"x.safetensors.work: another run"):
        target_fit.train_target(paths(*range(5)), out)
    assert not (tmp_path / "x.safetensors.work").exists()


def test_what_was_learnt_stays_for_the_next_run_only_if_it_goes_on(tmp_path):
    out, work = tmp_path / "x.safetensors", tmp_path / "x.safetensors.work"
    for resume, kept in ((True, ["checkpoint.safetensors", "head.safetensors"]), (False, ["head.safetensors"])):
        work.mkdir(exist_ok=True)
        for name in ("checkpoint", "head"):
            work.joinpath(f"{name}.safetensors").touch()
        with pytest.raises(KeyboardInterrupt), work_folder(out, resume=resume):
            raise KeyboardInterrupt
        assert sorted(p.name for p in work.glob("*.safetensors")) == kept


def test_python_finds_the_scans_of_the_contrast_that_was_asked_for(tmp_path, monkeypatch):
    for name in ("T1w", "T2w"):
        scan = tmp_path / f"sub-01/anat/sub-01_{name}.nii.gz"
        scan.parent.mkdir(parents=True, exist_ok=True)
        scan.touch()
    seen = {}
    monkeypatch.setattr(target_fit, "train_target", lambda scans, out, **options: seen.update(options, scans=scans))
    training.train(tmp_path, tmp_path / "x.safetensors", suffix="T2w", minutes=1)
    assert [p.name for p in seen["scans"]] == ["sub-01_T2w.nii.gz"]
    assert (seen["suffix"], seen["minutes"], seen["compute"].device) == ("T2w", 1, "cpu")
