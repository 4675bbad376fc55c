"""A request to end (SIGTERM) is answered as Ctrl-C is: a last line, a table of what is left, an exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from heads import head_grid, synthetic_brain


@pytest.fixture
def study(tmp_path):
    head = synthetic_brain(*head_grid(0, mm=3.0), seed=0, skull=True)
    scan = tmp_path / "study/sub-01/anat/sub-01_T1w.nii.gz"
    scan.parent.mkdir(parents=True)
    # Signal everywhere: the brain is still to be found, by the extractor.
    air = np.random.default_rng(0).uniform(5, 10, head.data.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(np.maximum(head.data, 0) + air, head.affine), scan)
    description = {"Name": "one", "BIDSVersion": "1.10.0"}
    (tmp_path / "study/dataset_description.json").write_text(json.dumps(description))
    return tmp_path / "study"


@pytest.mark.parametrize("verb", ["harmonize", "bids", "bids with a worker"])
@pytest.mark.long
def test_the_command_ends_with_a_last_line_and_leaves_no_process(study, tmp_path, tiny_target_file, verb):
    mark, out = tmp_path / "mark", tmp_path / "out"
    extractor = tmp_path / "slow.py"
    extractor.write_text(f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(100)")
    more = ["--target", str(tiny_target_file), "--mask-command", f"{sys.executable} {extractor} {{input}} {{output}}"]
    if verb == "harmonize":
        words = ["harmonize", str(study), "--out", str(out)]
    else:
        words = ["bids", str(study), str(out), "participant", "--n-procs", str(int(verb != "bids"))]
    command = [sys.executable, "-m", "blindharmony", *words, *more]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        for _ in range(1200):
            if mark.exists() and mark.read_text():
                break
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        said = ""
        for line in run.stderr:
            said += line
            if "interrupted" in line:  # asked twice: the exit code and the last line stay
                run.send_signal(signal.SIGTERM)
                run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
    assert said.splitlines()[-1] == "blindharmony: interrupted; what was finished is kept"
    if verb != "harmonize":
        (row,) = (out / "logs/failures.tsv").read_text().splitlines()[1:]
        assert row.split("\t")[1] == "not started"
    for _ in range(100):
        if not _alive(int(mark.read_text())):
            break
        time.sleep(0.05)
    assert not _alive(int(mark.read_text()))
    assert not [f for f in out.rglob("*") if ".tmp" in f.name]


def _alive(pid):
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
