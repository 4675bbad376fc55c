"""What is done is skipped and said; a name of the user's own; several scans at a time; what would be done."""

import json
import os
import shutil

import nibabel as nib
import pytest

from blindharmony.cli.main import main
from blindharmony.cli.one_scan import scanner_in


@pytest.fixture(scope="module")
def scan(stripped_head, tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "a.nii.gz"
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), path)
    return path


@pytest.fixture(scope="module")
def words(scan, tiny_target_file):
    return ["harmonize", "--target", str(tiny_target_file), "--method", "match", "--no-report", str(scan)]


def test_a_result_that_is_there_is_skipped_or_refused_by_how_it_was_made(words, scan, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    result = tmp_path / "out" / "a_desc-harmonized.nii.gz"
    assert main([*words, *out]) == 0
    capsys.readouterr()
    made = result.stat().st_mtime_ns
    assert main([*words, *out]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(result)
    assert "done before, skipped" in said.err
    assert main([*words, *out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "done before"
    for more, why in (
        (["--seed", "3"], "made with other settings"),
        (["--mask", str(tmp_path / "out" / "mask.nii.gz")], "made with another mask"),
        (["--viewer"], "made without viewer"),
    ):
        shutil.copy(tmp_path / "out" / "a_desc-brain_mask.nii.gz", tmp_path / "out" / "mask.nii.gz")
        assert main([*words, *out, *more]) == 1
        assert why in capsys.readouterr().err
    assert result.stat().st_mtime_ns == made
    result.write_bytes(b"changed")
    assert main([*words, *out]) == 1
    assert "no whole result" in capsys.readouterr().err
    assert main([*words, *out, "--overwrite"]) == 0
    assert result.stat().st_size > 1000


def test_an_error_bar_that_nobody_knows_makes_no_result_another(words, scan, tmp_path, capsys):
    out = ["--uncertainty", "--out", str(tmp_path / "out")]
    for _ in range(2):
        assert main([*words, *out]) == 0
    assert "done before, skipped" in capsys.readouterr().err


def test_a_scan_that_is_gone_fails_alone(words, scan, tmp_path, capsys):
    other, out = tmp_path / "b.nii.gz", ["--out", str(tmp_path / "out")]
    shutil.copy(scan, tmp_path / "kept.nii.gz")
    other.symlink_to(tmp_path / "kept.nii.gz")
    assert main([*words, str(other), *out]) == 0
    result = tmp_path / "out" / "b_desc-harmonized.nii.gz"
    made = result.read_bytes()
    (tmp_path / "kept.nii.gz").unlink()
    capsys.readouterr()
    assert main([*words, str(other), *out]) == 1
    said = capsys.readouterr()
    assert "b.nii.gz: the system cannot read or write it" in said.err
    assert "a.nii.gz: done before, skipped" in said.err
    assert result.read_bytes() == made


def test_a_result_of_another_version_with_settings_of_its_own_is_said(words, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main([*words, *out]) == 0
    sidecar = tmp_path / "out" / "a_desc-harmonized.json"
    content = json.loads(sidecar.read_text())
    content["Parameters"]["Settings"] = {"curve": {"of_tomorrow": 1}}
    content["Versions"]["blindharmony"] = "9.0"
    sidecar.write_text(json.dumps(content))
    assert main([*words, *out]) == 1
    assert "made by another version" in capsys.readouterr().err


def test_a_result_has_the_name_that_the_user_gives_and_can_be_made_again(words, scan, tmp_path, capsys):
    file = tmp_path / "new" / "b.nii.gz"
    assert main([*words, "-o", str(file)]) == 0
    assert sorted(p.name for p in file.parent.iterdir()) == ["b.json", "b.nii.gz", "b_desc-brain_mask.nii.gz"]
    assert main([*words, "-o", str(file)]) == 0
    assert "done before" in capsys.readouterr().err
    target = ["--target", words[words.index("--target") + 1]]
    assert main(["rerun", str(file.with_name("b.json")), "--inputs", str(scan), *target]) == 0
    for more, hint in (
        ([], "nothing says where"),
        (["--out", str(tmp_path / "c.nii.gz")], "use -o"),
        (["-o", str(tmp_path)], "is no name of a scan"),
        (["-o", str(file), "--out", str(tmp_path)], "exclude each other"),
    ):
        assert main([*words, *more]) == 2
        assert hint in capsys.readouterr().err
    assert main([*words, str(file), "-o", str(tmp_path / "d.nii.gz")]) == 2
    assert "-o names one file" in capsys.readouterr().err


def test_a_dry_run_writes_nothing_and_says_all(words, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*words, "--out", str(out), "--dry-run", "--group", "--method", "curve"]) == 0
    assert "harmonize, with one scanner" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.long
def test_several_scans_at_a_time_give_the_files_of_one_after_the_other(words, scan, tmp_path, capsys):
    second = tmp_path / "c.nii.gz"
    shutil.copy(scan, second)
    bad = tmp_path / "bad.nii"
    bad.write_text("no image")
    more = [str(second), str(bad), "--json"]
    assert main([*words, *more, "--out", str(tmp_path / "one")]) == 1
    first = {line["scan"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert main([*words, *more, "--out", str(tmp_path / "two"), "--n-procs", "2"]) == 1
    then = {line["scan"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(first) == set(then)
    assert (first[str(bad)]["what"], first[str(bad)]["remedy"]) == (then[str(bad)]["what"], then[str(bad)]["remedy"])
    assert first[str(second)]["figures"] == then[str(second)]["figures"]
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.long
def test_a_group_in_several_processes_has_the_same_scanner_and_a_done_group_is_skipped(words, scan, tmp_path, capsys):
    second = tmp_path / "c.nii.gz"
    shutil.copy(scan, second)
    words = [*(word if word != "match" else "curve" for word in words), str(second), "--group"]
    assert main([*words, "--out", str(tmp_path / "one"), "--save-scanner", str(tmp_path / "one.json")]) == 0
    again = [*words, "--out", str(tmp_path / "two"), "--n-procs", "2", "--save-scanner", str(tmp_path / "two.json")]
    assert main(again) == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    capsys.readouterr()
    assert main(again) == 0
    said = capsys.readouterr()
    assert said.err.count("done before") == 2
    assert "fitted" not in said.err


def test_inputs_stand_on_both_sides_of_an_option(words, scan, tmp_path, capsys):
    other = shutil.copy(scan, tmp_path / "b.nii.gz")
    assert main([*words, "-v", str(other), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert [line.partition(" -> ")[0] for line in capsys.readouterr().out.splitlines()] == [str(scan), str(other)]
    with pytest.raises(SystemExit):
        main([*words, "--ot", str(other), "--out", str(tmp_path / "out")])
    assert "unknown: --ot" in capsys.readouterr().err


def test_a_damaged_sidecar_is_about_its_own_scan_alone(words, scan, tmp_path, capsys):
    other, out = tmp_path / "b.nii.gz", ["--out", str(tmp_path / "out")]
    shutil.copy(scan, other)
    assert main([*words, *out]) == 0
    sidecar = tmp_path / "out" / "a_desc-harmonized.json"
    content = json.loads(sidecar.read_text())
    content["Parameters"]["Settings"] = {"Curve": {"Nope": 1}}
    sidecar.write_text(json.dumps(content))
    assert main([*words, str(other), *out]) == 1
    assert "made with other settings" in capsys.readouterr().err
    assert (tmp_path / "out" / "b_desc-harmonized.nii.gz").exists()


@pytest.mark.parametrize(
    "scanner",
    [{"Scans": 3, "Digest": "0" * 12, "File": "bids::scanners/a.json"}, {"Digest": "0" * 12, "Model": {"scans": 1}}, 3],
)
def test_a_scanner_that_a_sidecar_does_not_hold_is_none(scanner, words, tmp_path):
    assert main([*words, "--out", str(tmp_path)]) == 0
    sidecar = tmp_path / "a_desc-harmonized.json"
    content = json.loads(sidecar.read_text())
    content["Parameters"]["Scanner"] = scanner
    sidecar.write_text(json.dumps(content))
    assert scanner_in(sidecar) is None
    sidecar.write_text('{"Parameters": null}')
    assert scanner_in(sidecar) is None


@pytest.mark.parametrize("named", [False, True])
def test_what_a_killed_run_left_unfinished_goes_with_the_next_run(named, words, tmp_path, capsys):
    left = tmp_path / ".a_desc-harmonized.json.1-0123abcd.tmp"
    left.mkdir()
    (left / "a_desc-harmonized.nii.gz").write_bytes(b"half a scan")
    os.utime(left, (0, 0))
    out = ["-o", str(tmp_path / "mine.nii.gz")] if named else ["--out", str(tmp_path)]
    assert main([*words, *out, "--dry-run"]) == 0
    assert left.exists()
    assert main([*words, *out]) == 0
    assert f"1 unfinished result that a killed run had left in {tmp_path} removed" in capsys.readouterr().err
    assert not left.exists()
