"""A small part of ``benchmarks/fuzz.py``: damaged files give a valid object or one clear line, nothing else."""

import pytest

from readers import KINDS, damaged, outcome

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
