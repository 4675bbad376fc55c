"""The command as a user meets it: names, exit codes, one clear line for every bad file."""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from blindharmony.api import harmonize
from blindharmony.cli.main import main, parser
from blindharmony.cli.options import for_workers
from blindharmony.errors import OutputError
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.scanner import ScannerModel


@pytest.fixture(scope="module")
def scan(stripped_head, tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), path)
    return path


def test_help_of_every_verb_teaches(capsys):
    (verbs,) = (a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    for words in (["--help"], *([verb, "--help"] for verb in verbs)):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        assert "example" in capsys.readouterr().out


def test_version_and_wrong_use(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("blindharmony ")
    with pytest.raises(SystemExit) as stop:
        main(["harmonize"])
    assert stop.value.code == 2


def test_info_prints_the_card(capsys, tiny_target_file):
    assert main(["info", str(tiny_target_file)]) == 0
    text = capsys.readouterr().out
    for word in ("training scans", "license", "CC0-1.0", "held-out bits/dim", "hash"):
        assert word in text
    assert main(["info", str(tiny_target_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"


def test_targets_lists_included_models_and_those_of_a_folder_and_names_what_is_none(tiny_target_file, tmp_path, capsys):
    shutil.copy(tiny_target_file, tmp_path / "site.safetensors")
    assert main(["targets", str(tmp_path), "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert [card["target"] for card in cards] == ["ds002748", str(tmp_path / "site.safetensors")]
    assert (cards[0]["scans"], cards[0]["license"], cards[0]["field"]) == (38, "CC0-1.0", "3 T")
    assert "19 to 50 years" in cards[0]["people"]
    assert all(cards[0][key] != "not recorded" for key in ("sequence", "use", "limits"))
    assert cards[1]["people"] == "not recorded"
    (tmp_path / "broken.safetensors").write_bytes(b"no model")
    assert main(["targets", str(tmp_path)]) != 0
    printed = capsys.readouterr()
    assert "broken.safetensors" in printed.err
    assert "site.safetensors" in printed.out
    assert main(["targets", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_good_and_bad_scans_together(capsys, scan, tiny_target_file, tmp_path):
    bad = tmp_path / "truncated.nii.gz"
    bad.write_bytes(scan.read_bytes()[:2000])
    flat = tmp_path / "flat.nii"
    nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4)), flat)
    text = tmp_path / "text.nii"
    text.write_text("not an image")
    nan = tmp_path / "nan.nii.gz"
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), np.nan, np.float32), np.eye(4)), nan)
    series = tmp_path / "series.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 20, 3), np.float32), np.eye(4)), series)
    files = [bad, flat, scan, text, nan, series, tmp_path / "gone.nii"]
    out = tmp_path / "out"
    words = ["harmonize", *map(str, files), "--target", str(tiny_target_file), "--out", str(out), "--method", "match"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "scan_desc-harmonized.nii.gz")
    for file in (bad, flat, text, nan, series, tmp_path / "gone.nii"):
        lines = [line for line in said.err.splitlines() if file.name in line and line.startswith("blindharmony:")]
        assert len(lines) == 1
        assert ";" in lines[0]
    assert "Traceback" not in said.err
    assert (out / "scan_desc-harmonized.nii.gz").exists()
    # A second run finds the results there and leaves them alone.
    assert main(["harmonize", str(scan), "--target", str(tiny_target_file), "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["harmonize", "nowhere.nii", "--out", "o"], 66, "nowhere.nii"),
        (["harmonize", "SCAN", "--out", "o", "--target", "nothing"], 2, "included name"),
        (["harmonize", "SCAN", "--out", "o", "--target", "TINY", "--device", "cuda:7"], 2, "--device cpu"),
        (["harmonize", "SCAN", "--out", "o", "--mask", "nomask.nii"], 1, "nomask.nii"),
        (["harmonize", "SCAN", "--out", "o", "--series", "4"], 2, "--series is for DICOM"),
        (["harmonize", "x" * 300 + ".nii", "--out", "o"], 66, "cannot be read"),
        (["sample", "TINY", "--out", "o", "--mask", "SCAN"], 2, "--mask goes with one scan"),
        (
            ["train", "SCAN", "--out", "o.safetensors", "--no-restorer", "--restorer-steps", "9"],
            2,
            "exclude each other",
        ),
        (
            ["benchmark", "--data", "EMPTY", "--target", "TINY", "--out", "o", "--white-matter-label", "2"],
            2,
            "--segmenter",
        ),
        (["harmonize", "EMPTY", "--out", "o"], 66, "EMPTY"),
        (["train", "SCAN", "--out", "o.safetensors"], 2, "at least 5"),
        (["bids", "EMPTY", "o", "participant", "--n-procs", "0", "--omp-nthreads", "2"], 2, "--n-procs N"),
        (["bids", "EMPTY", "o", "participant", "--array", "3"], 2, "--scanner-grouping none"),
        (["bids", "EMPTY", "o", "participant", "--scanner-grouping", "none", "--array", "3"], 2, "no queue says which"),
        (["bids", "EMPTY", "o", "participant", "--n-procs", "0", "--scan-timeout", "9"], 2, "--n-procs 1 or more"),
        (["bids", "EMPTY", "o", "participant", "--job-queue", "long"], 2, "--jobqueue"),
        (["bids", "EMPTY", "o", "group", "--seed", "3"], 66, "without effect at the group level: --seed"),
        (["info", "nothing"], 2, "nothing"),
        (["info", "SCANNER"], 2, "--scanner"),
        (["harmonize", "SCAN", "--out", "o", "--target", "TINY", "--scanner", "SCANNER"], 2, "another target"),
        (["harmonize", "SCAN", "--out", "o", "--target", "TINY", "--scanner", "none.json"], 2, "none.json"),
        (["harmonize", "SCAN", "--out", "o", "--target", "TINY", "--group-table", "none.tsv"], 2, "none.tsv"),
        (["harmonize", "SCAN", "--out", "o", "--target", "TINY", "--group-table", "SCANNER"], 2, "columns"),
    ],
)
def test_exit_codes(words, code, hint, capsys, scan, tiny_target_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    other, line = tmp_path / "site.json", np.array([0.0, 1.0])
    ScannerModel(CurveMap(line, line), 3, "other", 0.0).save(other)
    words = [{"SCAN": str(scan), "TINY": str(tiny_target_file), "SCANNER": str(other)}.get(w, w) for w in words]
    assert main(words) == code
    said = capsys.readouterr()
    assert hint in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["harmonize", "a.nii", "--out", "o", "--targt", "x"], "did you mean --target?"),
        (["bids", "a", "b", "participant", "c"], "unknown: c; see blindharmony bids --help"),
        (["bids", "a", "b", "participant", "--scaner-column", "x"], "did you mean --scanner-column?"),
        (["assess", "a.nii", "--zzz"], "see blindharmony assess --help"),
        (["harmonize", "a.nii", "--out", "o", "--method", "curv"], "'curve', 'match'"),
    ],
)
def test_an_unknown_option_is_answered_with_the_verbs_own_usage(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    first, *usage = shown.splitlines()
    assert said in first
    assert usage[0].startswith(f"usage: blindharmony {words[0]} ")


def test_a_bare_call_teaches_and_a_wrong_verb_is_answered_with_the_right_one(capsys):
    assert main([]) == 2
    assert "examples:" in capsys.readouterr().out
    for words, said in (
        (["harmonise", "a.nii"], "did you mean harmonize?"),
        (["a.nii.gz"], "did you mean: blindharmony harmonize a.nii.gz --out out"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    "words", [["assess", "gone.nii"], ["info", "gone"], ["harmonize", "a.nii", "--zzz"], ["targets", "gone"]]
)
def test_json_is_json_also_when_it_fails(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main([*words, "--json"])
    except SystemExit as ended:
        code = ended.code
    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["exit_code"]) == ("failed", code)
    assert said["what"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_verb_and_a_shell_can_read_it(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    (verbs,) = (a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert all(verb in text for verb in verbs)
    assert "n-procs" in text
    if shell == "bash":
        ask = 'COMP_WORDS=(blindharmony harmonize --on-harm ""); COMP_CWORD=3; _blindharmony; echo "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", f"{text}\n{ask}"], capture_output=True, text=True, check=True)
        assert (done.stdout.split(), done.stderr) == (["scan", "result"], "")


def test_a_damaged_or_newer_model_is_named(capsys, scan, tmp_path, tiny_target_file):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_target_file.read_bytes()[:-500])
    assert main(["harmonize", str(scan), "--target", str(broken), "--out", str(tmp_path)]) == 2
    assert "broken.safetensors" in capsys.readouterr().err


def test_an_internal_error_is_one_line(capsys, scan, tiny_target_file, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr("blindharmony.api.prepare", fail)
    assert main(["harmonize", str(scan), "--target", str(tiny_target_file), "--out", str(tmp_path)]) == 70
    assert "boom" in capsys.readouterr().err


def test_a_mask_that_misses_the_brain_is_refused(capsys, scan, tiny_target_file, tmp_path):
    image = nib.load(scan)
    far = np.zeros(image.shape, np.uint8)
    far[:2, :2, :2] = 1
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(far, image.affine), mask)
    words = [
        "harmonize",
        str(scan),
        "--mask",
        str(mask),
        "--target",
        str(tiny_target_file),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 1
    assert "mask" in capsys.readouterr().err


def test_a_scan_with_a_wild_name(capsys, scan, tiny_target_file, tmp_path):
    name = os.fsdecode(b"<script>a\xff\n\x1b[2J.nii.gz")
    (tmp_path / name).write_bytes(scan.read_bytes())
    words = ["harmonize", str(tmp_path / name), "--target", str(tiny_target_file), "--method", "match"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert len(files) == 4
    assert all(n.isprintable() and n.isascii() for n in files)
    sidecar = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert sidecar["Sources"] == [name]
    assert "<script>a" not in next((tmp_path / "out").glob("*.html")).read_text()


def test_the_demo_asks_for_what_harmonize_knows(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr("blindharmony.api.harmonize", lambda path, *args, **options: seen.append(path) or 1 / 0)
    assert main(["demo", str(tmp_path / "out"), "--quiet"]) == 70
    assert [path.name for path in seen] == ["sub-01_acq-simulated_T1w.nii.gz"]
    assert "internal error (ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "demo", str(tmp_path / "out"), "--quiet"])
    (tmp_path / "out" / "sub-01_acq-simulated_desc-harmonized_T1w.json").touch()
    assert main(["demo", str(tmp_path / "out"), "--quiet"]) == 1
    said = "is no whole result: sub-01_acq-simulated_desc-harmonized_T1w.json changed; pass --overwrite"
    assert said in capsys.readouterr().err


def test_a_mask_among_the_results_is_not_replaced(capsys, scan, tiny_target_file, tmp_path):
    mask, image = tmp_path / "scan_desc-brain_mask.nii.gz", nib.load(scan)
    nib.save(nib.Nifti1Image((image.get_fdata() > 0).astype(np.uint8), image.affine), mask)
    words = ["harmonize", str(scan), "--target", str(tiny_target_file), "--mask", str(mask), "--out", str(tmp_path)]
    before = mask.read_bytes()
    assert main([*words, "--overwrite"]) == 1
    assert f"{mask.name}: this is an input of the run" in capsys.readouterr().err
    with pytest.raises(OutputError, match="input of the run"):
        harmonize(scan, str(tiny_target_file), mask=mask, method="match").save(tmp_path, overwrite=True)
    assert mask.read_bytes() == before
    # An image that was loaded from a file is that file, too.
    assert harmonize(nib.load(scan), str(tiny_target_file), method="match").inputs == (scan,)


def test_an_included_model_is_meant_where_a_folder_has_its_name(tmp_path, monkeypatch, tiny_target_file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds002748").mkdir()
    assert for_workers("ds002748") == "ds002748"
    assert for_workers(os.path.relpath(tiny_target_file)) == str(tiny_target_file.resolve())


def test_importing_the_package_is_cheap():
    code = "import sys, blindharmony; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_public_name_is_there():
    import blindharmony

    assert len(blindharmony.__all__) <= 16
    for name in blindharmony.__all__:
        assert getattr(blindharmony, name) is not None


def test_gzip_with_a_broken_checksum(capsys, scan, tiny_target_file, tmp_path):
    raw = gzip.decompress(scan.read_bytes())
    broken = bytearray(gzip.compress(raw))
    broken[-6] ^= 0xFF
    file = tmp_path / "crc.nii.gz"
    file.write_bytes(bytes(broken))
    assert main(["harmonize", str(file), "--target", str(tiny_target_file), "--out", str(tmp_path / "o")]) == 1
    assert "crc.nii.gz" in capsys.readouterr().err


def test_a_mistake_of_the_program_stops_no_other_scan(capsys, scan, tiny_target_file, tmp_path, monkeypatch):
    import shutil

    from blindharmony import api as intake

    second = tmp_path / "second.nii.gz"
    shutil.copy(scan, second)
    prepare, calls = intake.prepare, []

    def fail_once(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("boom")
        return prepare(*args, **kwargs)

    monkeypatch.setattr(intake, "prepare", fail_once)
    words = ["harmonize", str(scan), str(second), "--target", str(tiny_target_file), "--out", str(tmp_path / "o")]
    assert main([*words, "--no-report"]) == 70
    said = capsys.readouterr()
    assert f"{scan.name}: internal error (RuntimeError: boom)" in said.err
    assert "second_desc-harmonized.nii.gz" in said.out


def test_results_that_would_take_each_others_names_are_refused(capsys, scan, tiny_target_file, tmp_path):
    import shutil

    both = [tmp_path / f"sub-01_{suffix}.nii.gz" for suffix in ("T1w", "MPRAGE")]
    for file in both:
        shutil.copy(scan, file)
    words = ["harmonize", *map(str, both), "--target", str(tiny_target_file), "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert "several scans would be written as sub-01_desc-brain_mask.nii.gz" in capsys.readouterr().err


def test_an_error_bar_that_nobody_knows_is_missed(capsys, scan, tiny_target_file, tmp_path):
    words = ["harmonize", str(scan), "--method", "match", "--uncertainty", "--no-report"]
    assert main([*words, "--target", str(tiny_target_file), "--out", str(tmp_path / "o")]) == 0
    assert "no error bar is written" in capsys.readouterr().err
