"""The default method as users run it: the included target, bias field, person model, registration, refinement.

All of it at once, on one small head; the laws of single parts are tested beside them.
"""

import json

import nibabel as nib
import numpy as np
import pytest

from blindharmony.api import harmonize, learn_scanner
from blindharmony.cli.main import main
from blindharmony.files import file_sha256
from heads import head_grid, synthetic_brain, written


def change(result, other):
    """How far two results are apart inside the brain, as a share of its mean."""
    brain = result.mask & other.mask
    return np.abs(result.data - other.data)[brain].mean() / result.data[brain].mean()


@pytest.fixture(scope="module")
def folder(real_result, tmp_path_factory):
    """The result as it is written, with its error bar."""
    folder = tmp_path_factory.mktemp("out")
    real_result.save(folder, uncertainty=True)
    return folder


def sidecar_of(folder):
    return json.loads((folder / "sub-07_desc-harmonized_T1w.json").read_text())


def test_every_step_of_the_default_method_is_taken(real_result, folder, real_target):
    sidecar = sidecar_of(folder)
    preparation, figures = sidecar["Preparation"], sidecar["Figures"]
    assert preparation.keys() == {"orient", "brain-mask", "n4", "gain", "place"}
    assert preparation["n4"]["log_bias_sd"] > 0.05
    assert 0.9 < preparation["place"]["overlap"] < 0.999
    assert figures["refinement strength"] == round(real_result.estimate.refinement, 3) > 0.5
    assert figures["refinement change (rms)"] > 0.01
    assert figures["person's difference from the mean (rms)"] > 0
    assert 0 < figures["error bar (% of the brightest tissue)"] < 5
    assert figures["bits/voxel before"] != figures["bits/voxel after"]
    assert figures["excess after (sd)"] < 4


def test_every_place_and_both_halves_are_looked_at(real_result, real_target):
    place, halves = (real_result.verdict.named(name) for name in ("unlike place", "halves"))
    assert place.unit == "SD"
    assert 0 < real_target.places.largest.min() < place.limit[1] < 2 * real_target.places.largest.max()
    assert place.value == real_result.evidence.unlike.z > 0
    assert 0.1 < halves.value < 0.95
    assert 2 < real_result.sidecar["Figures"]["FWHM as scanned (mm)"] < 20


def test_the_result_is_like_the_head_and_the_scan_is_not(real_result, noisy_head):
    """The head without noise, bias and gamma: nothing of the program has seen it."""
    truth = synthetic_brain(noisy_head.data.shape, noisy_head.affine, seed=3, noise=0, bias=0)
    np.testing.assert_array_equal(truth.brain, noisy_head.brain)

    def likeness(data):
        return np.corrcoef(data[truth.brain], truth.data[truth.brain])[0, 1]

    before, after = likeness(np.squeeze(real_result.source.data)), likeness(np.squeeze(real_result.data))
    assert 1 - after < 0.8 * (1 - before)


def test_the_intensities_are_those_that_this_person_has_on_the_target(real_result, real_target):
    region = real_result.prepared.scan.inside() & real_target.fit_region
    curve = np.quantile(real_result.estimate.image[region], real_target.levels)
    away = (curve - real_target.mean_curve) / real_target.person.spread
    assert np.sqrt((away**2).mean()) < 3
    assert np.abs(away).max() < 5


def test_the_verdict_and_its_numbers_are_written(real_result, folder, real_target, real_scan):
    sidecar = sidecar_of(folder)
    assert sidecar["Verdict"]["Level"] == real_result.verdict.level == "good"
    assert not {check.name for check in real_result.verdict.checks if check.severity}
    assert sidecar["Verdict"]["Headline"] == real_result.verdict.headline
    assert sidecar["Target"]["Name"] == "ds002748"
    assert sidecar["Target"]["Digest"] == real_target.digest
    assert sidecar["Method"] == "curve"
    assert sidecar["SourceSHA256"] == file_sha256(real_scan)
    assert sidecar["Results"] == {
        path.name: file_sha256(path) for path in folder.iterdir() if not path.name.endswith(".json")
    }
    assert len(sidecar["Results"]) == 4


def test_the_header_is_the_scans_and_outside_the_brain_nothing_is_made(real_result, folder, real_scan, noisy_head):
    before, after = nib.load(real_scan), nib.load(folder / "sub-07_desc-harmonized_T1w.nii.gz")
    assert after.shape == before.shape
    for part in ("qform", "sform"):
        (a, code_a), (b, code_b) = (getattr(image.header, f"get_{part}")(coded=True) for image in (after, before))
        np.testing.assert_array_equal(a, b)
        assert int(code_a) == int(code_b)
    assert after.header.get_xyzt_units() == before.header.get_xyzt_units()
    values = np.squeeze(after.get_fdata())
    assert (values[~noisy_head.brain] == 0).all()
    assert (values[noisy_head.brain] > 0).mean() > 0.99


def test_the_error_bar_is_there_and_small(real_result):
    deviation, brain = real_result.uncertainty, real_result.mask
    assert (deviation[~brain] == 0).all()
    # Of single voxels, through scanners of any contrast; the curve's own is a third of it.
    assert 0 < deviation[brain].mean() < 0.08 * real_result.data[brain].mean()
    bar = real_result.estimate.error
    assert 0 < bar.deviation.mean() < 0.5 * bar.voxel.mean()


@pytest.mark.long
def test_a_rerun_gives_the_same_bytes_of_every_file(folder, real_scan, real_target_file, tmp_path, capsys):
    words = ["--inputs", str(real_scan.parent), "--target", str(real_target_file), "--out", str(tmp_path)]
    assert main(["rerun", str(folder / "sub-07_desc-harmonized_T1w.json"), *words]) == 0
    assert "NOT" not in capsys.readouterr().out
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    assert {"".join(path.suffixes) for path in tmp_path.iterdir()} == {".nii.gz", ".html", ".json"}


@pytest.mark.long
def test_a_monotone_change_of_the_source_does_not_matter(real_result, noisy_head, real_target, tmp_path):
    """Not exactly: noise is bent with the head, and a bias field is found in what the first curve makes of it."""
    scan = written(tmp_path / "sub-07_T1w.nii.gz", np.log1p(noisy_head.data / 300), noisy_head.affine)
    assert change(real_result, harmonize(scan, real_target)) < 0.06


@pytest.mark.slow  # a minute; groups run in test_group.py with a small target
def test_two_scans_of_one_scanner_share_a_curve(
    real_scan, real_result, real_target, kept_preparation, tmp_path_factory
):
    other = synthetic_brain(*head_grid(5, mm=3.0), seed=5, noise=0.06)
    second = written(tmp_path_factory.mktemp("second") / "sub-08_T1w.nii.gz", other.data**1.4, other.affine, top=900)
    scanner = learn_scanner([real_scan, second], real_target, cache=kept_preparation)
    assert scanner.scans == 2
    assert scanner.lift > 0
    assert len(scanner.rounds) == 3
    shared = harmonize(real_scan, real_target, scanner=scanner, cache=kept_preparation, refine=False)
    assert "lift" in shared.sidecar["Preparation"]
    assert shared.sidecar["Parameters"]["Scanner"]["Scans"] == 2
    assert shared.verdict.level != "poor"  # its noise is left in, so it is to be looked at
    assert change(real_result, shared) < 0.1
