"""What a training is given: which scans teach, and which are held out."""

from pathlib import Path

import pytest

from blindharmony import training
from blindharmony.errors import UsageError
from blindharmony.training import target_fit
from blindharmony.training.target_fit import hold_out


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
