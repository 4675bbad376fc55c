"""A small part of ``benchmarks/fuzz.py``: damaged files give a valid object or one clear line, nothing else."""

import shutil

import pytest

from readers import KINDS, damaged, outcome
from trees import COMMANDS, broken_law, grown, words_for, work_cut_off

_CASES = {"target": 6, "table": 20, "log": 30}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "prepare"])
def test_damaged_files_are_read_or_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("mutations.FLOODS", (2**22, 2**25))  # larger ones are for the benchmark
    path = tmp_path / KINDS[kind].name
    seen = set()
    for seed in range(_CASES.get(kind, 40)):
        content = damaged(kind, seed)
        path.write_bytes(content)
        found = outcome(kind, path, content)
        assert found.name in {"accepted", "refused"}, (seed, found)
        seen.add(found.name)
    assert "refused" in seen


def test_whole_data_sets_are_done_or_refused_file_by_file(tmp_path, tiny_target_file):
    root, out, met = tmp_path / "tree", tmp_path / "out", set()
    with work_cut_off():
        for seed in range(80):
            for old in (root, out):
                shutil.rmtree(old, ignore_errors=True)
            grown(root, seed)
            words = words_for(root, out, tiny_target_file, seed)
            code, *broken = broken_law(root, out, words, seed)
            assert not broken, (seed, words, broken)
            met.add((words[0], code))
    assert {verb for verb, _ in met} == set(COMMANDS)
    assert {code for _, code in met} >= {"1", "2", "66"}
