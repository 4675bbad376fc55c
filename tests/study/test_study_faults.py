"""A part of ``benchmarks/faults.py``: a disk that fails once costs neither inputs nor earlier results, and is named."""

import os
import random

import pytest
from faulty_study import BEFORE, FaultyStudy, fake_data_set, quick_commands

from blindharmony.errors import InputError, InternalError, OutputError, reportable
from blindharmony.study.derivative import describe
from blindharmony.study.ledger import read_json
from faults import KINDS, Faults

_FAULTS = 25


@pytest.mark.parametrize("before", BEFORE)
def test_a_disk_that_fails_once_loses_nothing(before, tmp_path, tiny_target_file):
    with quick_commands():
        study = FaultyStudy(fake_data_set(tmp_path / "study"), tmp_path, tiny_target_file, before)
        assert len(study.calls) > 250
        rng, met = random.Random(BEFORE.index(before)), set()
        writes = [k for k, name in enumerate(study.calls) if name == "write"]
        for _ in range(_FAULTS):
            kind = rng.choice(KINDS)
            at = rng.choice(writes) if kind == "short" else rng.randrange(len(study.calls))
            happened, code, broken = study.broken_law(at, kind)
            assert not broken, (happened, broken)
            met.add(code)
        assert 1 in met  # some are not to be got over


def test_half_a_file_and_a_lost_one_are_found_out(tmp_path, tiny_target_file):
    """The test itself."""
    with quick_commands():
        study = FaultyStudy(fake_data_set(tmp_path / "study"), tmp_path, tiny_target_file, "the same results")
    study.again()
    assert study.harm(1) == []
    image, sidecar = (study.out / f"sub-01/anat/sub-01_desc-harmonized_T1w.{end}" for end in ("nii.gz", "json"))
    image.write_bytes(image.read_bytes()[:-1])
    sidecar.unlink()
    (study.out / ".blindharmony/plan.json").write_text('{"scans": {')
    (study.study / "sub-02/anat/sub-02_T1w.nii.gz").write_text("ok: 3")
    found = " ".join(study.harm(1))
    for word in ("half-written: sub-01", "lost without a word: sub-01", "half a record", "an input has changed"):
        assert word in found
    assert "exit code 0 without all results" in " ".join(study.harm(0))


def test_a_readme_that_the_disk_does_not_give_is_named_and_that_of_others_stays(tmp_path):
    root, readme = fake_data_set(tmp_path / "study"), tmp_path / "out/README.md"
    describe(root, tmp_path / "out", "t")
    with Faults([readme], at=0).active(), pytest.raises(OutputError, match=r"README\.md: cannot be read"):
        describe(root, tmp_path / "out", "t")
    readme.unlink()
    os.mkfifo(readme)
    describe(root, tmp_path / "out", "t")  # a pipe is not waited for
    readme.unlink()
    readme.write_text("mine")
    describe(root, tmp_path / "out", "t")
    assert readme.read_text() == "mine"


def test_what_a_record_says_is_not_unsaid_when_the_disk_fails(tmp_path):
    file = tmp_path / "record.json"
    assert read_json(file) is None
    file.write_text('{"status": "done"}')
    with (
        Faults([tmp_path], at=1).active(),
        pytest.raises(InputError, match="cannot be read"),
    ):
        read_json(file)


def test_a_failing_disk_is_no_mistake_of_the_program(tmp_path):
    with Faults([tmp_path], at=0, kind="EACCES").active(), pytest.raises(PermissionError) as caught:
        (tmp_path / "a").mkdir()
    assert str(reportable(caught.value)).startswith(f"{tmp_path / 'a'}: the system cannot read or write it (Permission")
    assert isinstance(reportable(RuntimeError("x")), InternalError)
