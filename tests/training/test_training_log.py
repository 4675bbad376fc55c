"""The training log can be read back, and says so when it is none."""

import json

import pytest

from blindharmony.errors import InputError
from blindharmony.training.page import read_log


def test_rows_of_a_resumed_run_replace_earlier_ones(tmp_path):
    rows = [
        {"level": 1, "step": 1, "train": 2.0, "held_out": 3.0, "seconds": 5.0},
        {"level": 1, "step": 2, "train": 1.0, "held_out": 2.0, "seconds": 9.0},
        {"level": 1, "step": 2, "train": 1.5, "held_out": 2.5, "seconds": 2.0},
    ]
    path = tmp_path / "m.log.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    log = read_log(path)
    assert log.curves == {1: [(1.0, 2.0, 3.0), (2.0, 1.5, 2.5)]}
    assert log.seconds == 11.0


def test_the_restorer_has_a_curve_of_its_own(tmp_path):
    rows = [
        {"level": 1, "step": 1, "train": 2.0, "held_out": 3.0, "seconds": 5.0},
        {"network": "restorer", "step": 10, "train": 0.8, "held_out": 0.7, "seconds": 2.0},
        {"network": "restorer", "step": 20, "train": 0.7, "held_out": 0.6, "seconds": 4.0},
    ]
    path = tmp_path / "m.log.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    log = read_log(path)
    assert log.curves == {1: [(1.0, 2.0, 3.0)]}
    assert log.restorer == [(10.0, 0.8, 0.7), (20.0, 0.7, 0.6)]
    assert log.seconds == 5.0


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"level": "x"}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "m.log.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="not a training log"):
        read_log(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "missing.jsonl")
