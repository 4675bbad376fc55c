"""The Boutiques descriptor: it follows from the command's grammar, and Boutiques itself accepts and runs it."""

import argparse
import json
import shutil
import sys

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.completion import grammars
from blindharmony.cli.export import descriptor
from blindharmony.cli.main import main, parser
from blindharmony.models.file import load_target


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("boutiques") / "blindharmony.json"
    assert main(["export", "--boutiques", str(path)]) == 0
    return path


def test_every_option_is_in_it_as_the_grammar_has_it(file):
    content = json.loads(file.read_text())
    grammar = grammars(parser())["harmonize"]
    options = {action.dest: action for action in grammar._actions}
    inputs = {entry["id"]: entry for entry in content["inputs"]}
    assert set(options) - set(inputs) == {"help", "set"}
    assert inputs["refine"]["command-line-flag"] == "--no-refine"
    assert (inputs["refine"]["type"], inputs["seed"]["type"], inputs["mask"]["type"]) == ("Flag", "Number", "File")
    assert inputs["on_harm"]["value-choices"] == ["scan", "result"]
    assert inputs["scans"] == {
        "id": "scans",
        "name": "scans",
        "description": options["scans"].help,
        "value-key": "[SCANS]",
        "optional": False,
        "list": True,
        "type": "File",
    }
    assert all(entry["value-key"] in content["command-line"] for entry in content["inputs"])


def test_a_new_option_appears_by_itself():
    grammar = argparse.ArgumentParser(description="d")
    grammar.add_argument("--new", metavar="X", help="something (default: %(default)s)", default=3)
    (entry,) = descriptor(grammar)["inputs"]
    assert entry["description"] == "something (default: 3)"
    assert entry["command-line-flag"] == "--new"


@pytest.mark.parametrize("words", [[], ["ds002748"], ["ds002748", "--boutiques", "a"], ["--monai-bundle", "a"]])
def test_one_thing_is_written_at_a_time(words):
    assert main(["export", *words]) == 2


@pytest.mark.long
def test_boutiques_runs_it_with_the_real_harmonization(file, scan_file, plain, tiny_target_file, tmp_path, monkeypatch):
    bosh = pytest.importorskip("boutiques").bosh
    bosh(["validate", str(file)])
    shim = tmp_path / "bin" / "blindharmony"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blindharmony "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent), prepend=":")
    scan = shutil.copy(scan_file, tmp_path)
    asked = {"scans": [scan], "out": "made", "target": str(tiny_target_file), "no_report": True, "seed": 0}
    invocation = tmp_path / "invocation.json"
    invocation.write_text(json.dumps(asked))
    monkeypatch.chdir(tmp_path)
    done = bosh(["exec", "launch", str(file), str(invocation)])
    assert done.exit_code == 0, done.stderr
    image = nib.load(tmp_path / "made" / "sub-01_desc-harmonized_T1w.nii.gz")
    # The command registers the scan to its end, the fixture only begins to.
    assert np.corrcoef(image.get_fdata()[plain.mask], plain.data[plain.mask])[0, 1] > 0.999
    sidecar = json.loads((tmp_path / "made" / "sub-01_desc-harmonized_T1w.json").read_text())
    assert sidecar["Target"]["Digest"] == load_target(tiny_target_file).digest
