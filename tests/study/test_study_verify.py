"""``blindharmony verify``: every result is intact, changed, missing or without record; a rerun trusts the intact."""

import json
import os
import shutil

import nibabel as nib
import pytest
from fake_study import fake_run, make_study

from blindharmony.cli.main import main
from blindharmony.files import write_sidecar
from blindharmony.study.derivative import describe
from blindharmony.study.ledger import Ledger
from blindharmony.study.run import held

NAMES = [f"sub-0{i}" for i in range(4)]


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", {name: f"ok: {name}" for name in NAMES})


@pytest.fixture(scope="module")
def one(stripped_head, tiny_target, tmp_path_factory):
    """A folder with one scan and one with its result."""
    from blindharmony.api import harmonize

    folder = tmp_path_factory.mktemp("one")
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), folder / "a.nii.gz")
    harmonize(folder / "a.nii.gz", tiny_target).save(folder / "out")
    return folder


def states(folder, capsys):
    """Exit code, the objects for results, and the last one."""
    capsys.readouterr()
    code = main(["verify", str(folder), "--json"])
    *results, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert end["results"] == len(results) == sum(end[k] for k in ("intact", "changed", "missing", "no_record"))
    return code, {r["result"].rpartition("/")[2]: (r["status"], r["files"]) for r in results}


def flipped(file):
    """One bit of a file changed; size and dates are as before."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_each_result_of_a_study_is_told_and_what_is_not_whole_is_made_again(study, tmp_path, capsys):
    out = tmp_path / "out"
    fake_run(study, out)
    assert states(out, capsys)[0] == 0
    images = {i: out / f"sub-0{i}/anat/sub-0{i}_desc-harmonized_T1w.nii.gz" for i in range(4)}
    before = {i: image.read_bytes() for i, image in images.items()}
    flipped(images[0])
    images[1].unlink()
    images[2].with_name("sub-02_desc-harmonized_T1w.json").unlink()
    code, told = states(out, capsys)
    assert code == 1
    assert told == {
        images[0].name: ("changed", {images[0].name: "changed"}),
        images[1].name: ("missing", {images[1].name: "missing"}),
        images[2].name: ("missing", {"sub-02_desc-harmonized_T1w.json": "missing"}),
        images[3].name: ("intact", {}),
    }
    said = []
    tally = fake_run(study, out, say=said)
    assert (tally.done, tally.kept) == (3, 1)
    assert sum("is not as it was written" in line for line in said) == 1
    assert sum("is missing" in line for line in said) == 2
    assert {i: image.read_bytes() for i, image in images.items()} == before
    assert states(out, capsys)[0] == 0


def test_a_fitted_scanner_that_was_damaged_is_told_and_not_taken(tmp_path, capsys):
    """Among the results it is written again; among the records it is fitted again before anything is made with it."""
    same = {"DeviceSerialNumber": "1"}
    study = make_study(tmp_path / "study", {name: f"ok: {name}" for name in NAMES}, dict.fromkeys(NAMES, same))
    out = tmp_path / "out"
    fake_run(study, out)
    (shared,) = (out / "scanners").iterdir()
    content = shared.read_bytes()
    flipped(shared)
    assert states(out, capsys)[1][shared.name] == ("changed", {shared.name: "changed"})
    shared.unlink()
    code, told = states(out, capsys)
    assert (code, told[shared.name]) == (1, ("missing", {shared.name: "missing"}))
    assert fake_run(study, out).kept == 4
    assert shared.read_bytes() == content
    assert states(out, capsys)[0] == 0
    image = out / "sub-01/anat/sub-01_desc-harmonized_T1w.nii.gz"
    before = image.read_bytes()
    image.unlink()
    for kept in (out / ".blindharmony/scanners").glob("*[!e].json"):
        flipped(kept)
    assert fake_run(study, out).kept == 3
    assert image.read_bytes() == before
    assert shared.read_bytes() == content


def test_a_resumed_study_is_read_only_where_something_has_moved(study, tmp_path, monkeypatch):
    from blindharmony.study import ledger

    out, read = tmp_path / "out", []
    fake_run(study, out)
    digest = ledger.hashlib.file_digest
    monkeypatch.setattr(ledger.hashlib, "file_digest", lambda file, how: read.append(file.name) or digest(file, how))
    assert fake_run(study, out).kept == 4
    assert not read
    shutil.copytree(out, tmp_path / "copied")
    for times in (8, 0):  # files of a copy are other files; once read, they are known
        read.clear()
        assert fake_run(study, tmp_path / "copied").kept == 4
        assert sum("desc-harmonized" in str(name) for name in read) == times


def test_a_study_of_an_earlier_version_resumes_and_has_no_record(study, tmp_path, capsys):
    out = tmp_path / "out"
    fake_run(study, out)
    for i in range(4):
        file = out / f".blindharmony/scans/sub-0{i}_T1w/record.json"
        record = json.loads(file.read_text())
        del record["files"]
        write_sidecar(file, record, overwrite=True)
        sidecar = out / f"sub-0{i}/anat/sub-0{i}_desc-harmonized_T1w.json"
        sidecar.write_text(json.dumps({"Description": "x"}).ljust(sidecar.stat().st_size))
    code, told = states(out, capsys)
    assert code == 0
    assert {status for status, _ in told.values()} == {"no record"}
    assert fake_run(study, out).kept == 4
    (out / "sub-01/anat/sub-01_desc-harmonized_T1w.nii.gz").write_bytes(b"half")
    assert Ledger(out).spoiled(Ledger(out).record("sub-01_T1w")) == {
        "sub-01/anat/sub-01_desc-harmonized_T1w.nii.gz": "changed"
    }
    assert fake_run(study, out).done == 1


@pytest.mark.parametrize("content", [[], {"files": []}, {"files": {"a": 3}, "outputs": {"a": 3}}, {"outputs": [1]}])
def test_a_damaged_record_is_no_record(tmp_path, content, capsys):
    out = tmp_path / "out"
    scan = out / ".blindharmony/scans/sub-01_T1w"
    scan.mkdir(parents=True)
    more = {"status": "done", **content} if isinstance(content, dict) else content
    (scan / "record.json").write_text(json.dumps(more))
    assert main(["verify", str(out)]) in (1, 66)
    assert "internal" not in capsys.readouterr().err


def test_a_harmonized_scan_is_verified_by_its_sidecar(one, tiny_target_file, tmp_path, capsys):
    out = shutil.copytree(one / "out", tmp_path / "out")
    image, mask, sidecar = (
        out / f"a_desc-{name}" for name in ("harmonized.nii.gz", "brain_mask.nii.gz", "harmonized.json")
    )
    assert states(out, capsys) == (0, {image.name: ("intact", {})})
    flipped(mask)
    assert states(out, capsys) == (1, {image.name: ("changed", {mask.name: "changed"})})
    words = ["harmonize", str(one / "a.nii.gz"), "--out", str(out), "--target", str(tiny_target_file)]
    capsys.readouterr()
    assert main(words) == 1
    assert f"exists already, and is no whole result: {mask.name} changed" in capsys.readouterr().err
    mask.unlink()
    os.mkfifo(mask)  # nobody waits for it
    assert states(out, capsys)[1] == {image.name: ("changed", {mask.name: "changed"})}
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({k: v for k, v in content.items() if k != "Results"}))
    assert states(out, capsys) == (0, {sidecar.name: ("no record", {})})
    sidecar.write_bytes(bytes(100))
    assert states(out, capsys)[1] == {sidecar.name: ("changed", {sidecar.name: "changed"})}
    sidecar.unlink()  # as if the run was killed before the last file
    assert states(out, capsys)[1] == {image.name: ("missing", {sidecar.name: "missing"})}


def test_nothing_to_verify_is_said(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "none")]) == 66
    assert main(["verify", str(tmp_path)]) == 66
    assert "no result of a run is here" in capsys.readouterr().err


def test_prepared_brains_that_a_killed_run_left_are_removed_and_that_is_said(study, tmp_path, capsys):
    out = tmp_path / "out"
    fake_run(study, out)
    describe(study, out, "tiny", "T1w")
    ledger = Ledger(out)
    (first, *_) = sorted((ledger.home / "scans").iterdir())
    left = ledger.prepared(first.name)
    left.mkdir()
    (left / "brain.safetensors").write_bytes(b"a brain")
    words = ["bids", str(study), str(out), "group"]
    with held(ledger):  # a run works with it
        assert main(words) == 0
    assert left.is_dir()
    capsys.readouterr()
    assert main(words) == 0
    assert not left.exists()
    assert (
        f"removed prepared brains of 1 scan that a killed run left in {ledger.home / 'scans'}"
        in capsys.readouterr().err
    )
    assert main(words) == 0
    assert "removed" not in capsys.readouterr().err
