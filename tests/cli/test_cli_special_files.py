"""No command waits for ever, whatever file is a pipe or a device: each ends with a documented code and a line."""

import gzip
import json
import os
import shutil
import signal

import pytest

import good_files
from blindharmony.cli.main import main
from readers import Late
from trees import work_cut_off

# The words of each command; X is the file that is none.
CASES = [
    "harmonize X --out OUT --target MODEL",
    "harmonize SCAN --out OUT --target X",
    "harmonize SCAN --out X --target MODEL",
    *(
        f"harmonize SCAN --out OUT --target MODEL {option} X"
        for option in (
            "--mask",
            "--mask-dir",
            "--lesion-mask",
            "--lesion-dir",
            "--config",
            "--group-table",
            "--scanner",
        )
    ),
    "harmonize SCAN --out OUT --target MODEL --group-table X",
    "harmonize SCAN --out OUT --target MODEL --scanner X",
    "harmonize SCAN --out OUT --target MODEL --group --save-scanner X",
    "bids X OUT participant --n-procs 0 --target MODEL",
    "bids STUDY X participant --n-procs 0 --target MODEL --skip-bids-validation",
    "bids STUDY X group",
    *(
        f"bids STUDY OUT participant --n-procs 0 --skip-bids-validation {option} X"
        for option in ("--target", "--bids-filter-file", "--mask-dir", "--lesion-dir", "--config")
    ),
    "view X",
    "view SCAN --scan X --out OUT/p.html",
    "view SCAN --scan SCAN --out X",
    "serve --folder X --port 0",
    "serve --folder OUT --target X --port 0",
    "assess X --target MODEL",
    "assess SCAN --target X",
    *(f"assess SCAN --target MODEL {option} X" for option in ("--mask", "--lesion-mask", "--config")),
    "train X STUDY --out OUT/m.safetensors",
    "train STUDY SCAN --out X",
    "sample X --out OUT",
    "sample MODEL --out OUT --scan X",
    "info X",
    "targets X",
    "export X --monai-bundle OUT",
    "export MODEL --monai-bundle X",
    "rerun X",
    "verify X",
    "watch X",
    "watch OUT --dates X",
    "methods X",
    "demo OUT --target X",
]


@pytest.fixture
def places(tmp_path, tiny_target_file):
    """What the words stand for."""
    scan = tmp_path / "a_desc-harmonized.nii.gz"
    scan.write_bytes(gzip.compress(good_files.nifti(), 1, mtime=0))
    anat = tmp_path / "study/sub-01/anat"
    anat.mkdir(parents=True)
    shutil.copy(scan, anat / "sub-01_T1w.nii.gz")
    (tmp_path / "study/dataset_description.json").write_text(json.dumps({"Name": "s", "BIDSVersion": "1.10.0"}))
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "device.nii.gz").symlink_to("/dev/zero")
    names = {"SCAN": scan.name, "STUDY": "study", "OUT": "out"}
    return {"MODEL": str(tiny_target_file), **{word: str(tmp_path / name) for word, name in names.items()}}


@pytest.mark.parametrize("words", CASES)
def test_no_command_waits_for_a_pipe_or_reads_a_device(words, places, tmp_path, capsys):
    def late(*_):
        raise Late

    def named(word):
        first, slash, rest = word.partition("/")
        return places.get(first, first) + slash + rest

    signal.signal(signal.SIGALRM, late)
    for kind in ("pipe", "device"):
        # A scan is known by its name.
        given = f"{tmp_path / kind}{'.nii.gz' if ' X' in words.partition(' --')[0] else ''}"
        signal.alarm(20)
        try:
            with work_cut_off():
                code = main([given if word == "X" else named(word) for word in words.split()])
        except Late:
            code = "late"
        finally:
            signal.alarm(0)
        said = capsys.readouterr().err
        assert code in (1, 2, 66), (kind, code, said)
        assert said.strip().splitlines()[-1].startswith("blindharmony: ") or "targets" in words, said
        assert "internal error" not in said
        assert not (tmp_path / kind).is_file()
