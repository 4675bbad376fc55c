"""No output of any command is one of its inputs: by path, by a link, or by another name of the same file."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.demo import SCAN
from blindharmony.cli.main import main
from blindharmony.files import mask_name, result_names

_SAID = "this is an input of the run"


@pytest.fixture
def files(tmp_path, stripped_head, tiny_target_file):
    """A folder with a scan, its mask, a target, a table, settings, and a study of the same scan."""
    folder = tmp_path / "in"
    anat = folder / "study/sub-01/anat"
    anat.mkdir(parents=True)
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), folder / "a.nii.gz")
    nib.save(nib.Nifti1Image(stripped_head.brain.astype(np.uint8), stripped_head.affine), folder / "mask.nii.gz")
    shutil.copy(folder / "a.nii.gz", anat / "sub-01_T1w.nii.gz")
    (folder / "study/dataset_description.json").write_text(json.dumps({"Name": "s", "BIDSVersion": "1.10.0"}))
    shutil.copy(tiny_target_file, folder / "t.safetensors")
    (folder / "table.tsv").write_text("scan\tscanner\na.nii.gz\tGE\n")
    (folder / "config.json").write_text("{}")
    (folder / "filter.json").write_text("{}")
    return folder


_RESULT = result_names("a.nii.gz")
_STUDY = "sub-01/anat/" + result_names("sub-01_T1w.nii.gz")["sidecar"]
# Command: its words with IN and OUT, the input {} that is also an output, where that output is, below OUT.
CASES = {
    "harmonize: the scan": ("harmonize {} --out OUT", "a.nii.gz", _RESULT["scan"]),
    "harmonize: another scan": ("harmonize IN/a.nii.gz {} --out OUT", "mask.nii.gz", _RESULT["scan"]),
    "harmonize: the mask": ("harmonize IN/a.nii.gz --mask {} --out OUT", "mask.nii.gz", _RESULT["mask"]),
    "harmonize: the target": ("harmonize IN/a.nii.gz --target {} --out OUT", "t.safetensors", _RESULT["report"]),
    "harmonize: settings": ("harmonize IN/a.nii.gz --config {} --out OUT", "config.json", _RESULT["sidecar"]),
    "harmonize: the table": ("harmonize IN/a.nii.gz --group-table {} --out OUT", "table.tsv", _RESULT["viewer"]),
    "harmonize: the scanner": ("harmonize {} --group --save-scanner OUT/s.json --out OUT", "a.nii.gz", "s.json"),
    "bids: a filter": ("bids --bids-filter-file {}", "filter.json", "logs/failures.tsv"),
    "bids: settings": ("bids --config {}", "config.json", _STUDY),
    "bids: the target": ("bids --target {}", "t.safetensors", _STUDY.replace(".json", ".html")),
    "train: a scan": ("train {} IN/mask.nii.gz --out OUT/m.safetensors", "a.nii.gz", "m.safetensors"),
    "train: its log": ("train {} IN/mask.nii.gz --out OUT/m.safetensors", "a.nii.gz", "m.log.jsonl"),
    "train: its page": ("train {} IN/mask.nii.gz --out OUT/m.safetensors", "a.nii.gz", "m.training.html"),
    "train: settings": ("train IN/a.nii.gz --config {} --out OUT/m.safetensors", "config.json", "m.log.jsonl"),
    "sample: the scan": ("sample IN/t.safetensors --scan {} --out OUT", "a.nii.gz", "samples.html"),
    "sample: the target": ("sample {} --out OUT", "t.safetensors", "samples.json"),
    "export: the model": ("export {} --monai-bundle OUT", "t.safetensors", "models/model.safetensors"),
    "export: into a text": ("export {} --monai-bundle OUT", "t.safetensors", "docs/README.md"),
    "view: the scan": ("view IN/a.nii.gz --scan {} --out OUT/p.html", "mask.nii.gz", "p.html"),
    "view: the result": ("view {} --scan IN/mask.nii.gz --out OUT/p.html", "a.nii.gz", "p.html"),
    "demo: the target": ("demo OUT --target {}", "t.safetensors", result_names(SCAN)["report"]),
    "demo: its own scan": ("demo OUT --target {}", "t.safetensors", SCAN),
}


@pytest.mark.parametrize("how", ["link", "inode"])
@pytest.mark.parametrize("case", CASES)
def test_an_output_is_never_an_input(files, tmp_path, capsys, case, how):
    words, name, below = CASES[case]
    out, source = tmp_path / "out", files / name
    place = out / below
    place.parent.mkdir(parents=True)
    place.symlink_to(source) if how == "link" else os.link(source, place)
    verb, *more = words.format(source).replace("IN/", f"{files}/").replace("OUT", str(out)).split()
    if verb == "bids":
        (out / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": "blindharmony"}]}))
        more = [str(files / "study"), str(out), "participant", "--n-procs", "0", "--skip-bids-validation", *more]
    else:
        more.append("--overwrite")
    if verb in ("harmonize", "bids") and "--target" not in more:
        more += ["--target", str(files / "t.safetensors")]
    before = source.read_bytes()
    code = main([verb, *more])
    assert _SAID in (said := capsys.readouterr().err), said
    assert code == 1
    assert source.read_bytes() == before


def test_an_output_is_never_an_input_by_its_own_path(files, tmp_path, capsys):
    """A scan that lies where the result of another goes; ``..`` and a linked folder hide nothing."""
    scan = files / _RESULT["mask"]
    (files / "mask.nii.gz").rename(scan)
    (tmp_path / "linked").symlink_to(files)
    before = scan.read_bytes()
    for out in (files, files / ".." / "in", tmp_path / "linked"):
        words = ["harmonize", str(files / "a.nii.gz"), str(scan), "--out", str(out), "--overwrite"]
        assert main([*words, "--target", str(files / "t.safetensors")]) == 1
        assert _SAID in capsys.readouterr().err
    assert scan.read_bytes() == before


@pytest.mark.parametrize("how", ["link", "inode"])
def test_a_study_does_not_replace_the_masks_that_it_was_given(files, tmp_path, capsys, how):
    out, masks, source = tmp_path / "out", tmp_path / "masks/sub-01/anat", files / "mask.nii.gz"
    place = out / "sub-01/anat" / mask_name("sub-01_T1w.nii.gz")
    for folder in (place.parent, masks):
        folder.mkdir(parents=True)
    place.symlink_to(source) if how == "link" else os.link(source, place)
    (masks / place.name).symlink_to(place)
    (out / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": "blindharmony"}]}))
    words = ["bids", str(files / "study"), str(out), "participant", "--n-procs", "0", "--skip-bids-validation"]
    words += ["--mask-dir", str(tmp_path / "masks"), "--target", str(files / "t.safetensors")]
    before = source.read_bytes()
    assert main(words) == 1
    assert f"{place}: {_SAID}" in capsys.readouterr().err
    assert source.read_bytes() == before
