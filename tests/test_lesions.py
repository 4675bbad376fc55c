"""Lesions that are named are left out of every fit and check, and are harmonized all the same."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from blindharmony.api import harmonize, learn_scanner
from blindharmony.cli.main import main
from blindharmony.errors import InputError, UsageError
from blindharmony.io.bids import find_lesions
from blindharmony.io.masks import load_lesion
from blindharmony.preprocessing.steps import CorrectBias, Reorient, Scan

MASK = "sub-01_label-lesion_mask.nii.gz"


@pytest.fixture(scope="module")
def lesion(stripped_head):
    """A ball of about 3 cm in the middle of a hemisphere."""
    centre = np.argwhere(stripped_head.brain)
    middle = centre[np.argmin(np.abs(centre - np.quantile(centre, 0.35, axis=0)).sum(1))]
    ball = ((np.indices(stripped_head.data.shape).T - middle) ** 2).sum(-1).T < 6**2
    return ball & ndimage.binary_erosion(stripped_head.brain, iterations=2)


def with_lesion(head, lesion, value):
    """The head as a file's image, its lesion of another intensity."""
    data = np.where(lesion, np.float32(value) * head.data.max(), head.data).astype(np.float32)
    return nib.Nifti1Image(data, head.affine)


@pytest.fixture(scope="module")
def results(stripped_head, lesion, tiny_target):
    """The same head with a dark and with a very bright lesion."""
    scans = [with_lesion(stripped_head, lesion, value) for value in (0.05, 3.0)]
    masks = {"mask": stripped_head.brain, "lesion_mask": lesion}
    return [harmonize(scan, tiny_target, refine=False, on_harm="result", **masks) for scan in scans]


def test_what_is_in_a_lesion_changes_no_other_voxel_and_no_check(results, lesion):
    dark, bright = results
    assert np.array_equal(dark.data[~lesion], bright.data[~lesion])
    numbers = [
        {check.name: check.value for check in result.verdict.checks if check.name != "lesion mask"}
        for result in results
    ]
    assert numbers[0] == numbers[1]


def test_a_lesion_is_harmonized_as_the_rest(results, lesion):
    dark, bright = results
    assert dark.data[lesion].mean() < np.median(dark.data[dark.mask & ~lesion]) < bright.data[lesion].mean()


def test_the_verdict_says_how_much_is_left_out(results, lesion, stripped_head):
    check = results[0].verdict.named("lesion mask")
    voxel = abs(np.linalg.det(stripped_head.affine[:3, :3])) / 1000
    assert check.value == pytest.approx(lesion.sum() * voxel)


def test_without_a_mask_a_lesion_does_change_the_rest(results, stripped_head, lesion, tiny_target):
    scan = with_lesion(stripped_head, lesion, 3.0)
    result = harmonize(scan, tiny_target, mask=stripped_head.brain, refine=False, on_harm="result")
    assert not np.array_equal(result.data[~lesion], results[1].data[~lesion])
    assert result.verdict.named("lesion mask") is None


def test_a_scanner_is_learnt_without_lesions(stripped_head, lesion, tiny_target):
    masks = {"masks": [stripped_head.brain], "lesion_masks": [lesion]}
    dark, bright = (learn_scanner([with_lesion(stripped_head, lesion, v)], tiny_target, **masks) for v in (0.05, 3.0))
    assert dark.digest == bright.digest


@pytest.mark.parametrize("method", ["n4-itk", "entropy"])
def test_the_bias_field_does_not_see_a_lesion(method, stripped_head, lesion):
    dark, bright = (
        CorrectBias(12.0, method).estimate(
            Scan(
                np.where(lesion, np.float32(value), stripped_head.data),
                stripped_head.affine,
                stripped_head.brain,
                lesion,
            )
        )
        for value in (0.01, 9.0)
    )
    assert np.array_equal(dark.log_bias, bright.log_bias)


def test_a_lesion_is_turned_with_its_scan(stripped_head, lesion):
    step, scan = Reorient(), Scan(stripped_head.data, stripped_head.affine, stripped_head.brain, lesion)
    turned = step.apply(scan, step.estimate(scan))
    assert np.array_equal(np.sort(turned.data[turned.lesion]), np.sort(scan.data[lesion]))


def test_the_option_the_sidecar_and_a_second_run(stripped_head, lesion, tiny_target_file, tmp_path, capsys):
    scan, out = tmp_path / "sub-01_T1w.nii.gz", tmp_path / "out"
    with_lesion(stripped_head, lesion, 0.1).to_filename(scan)
    nib.Nifti1Image(lesion.astype(np.uint8), stripped_head.affine).to_filename(tmp_path / MASK)
    options = ["--target", str(tiny_target_file), "--lesion-mask", str(tmp_path / MASK), "--no-report"]
    assert main(["harmonize", str(scan), "--out", str(out), *options]) == 0
    sidecar = out / "sub-01_desc-harmonized_T1w.json"
    capsys.readouterr()
    assert main(["harmonize", str(scan), "--out", str(out), *options]) == 0
    assert "done before, skipped" in capsys.readouterr().err
    assert main(["harmonize", str(scan), "--out", str(out), *options[:2], "--no-report"]) == 1
    assert "made with another lesion mask, or none" in capsys.readouterr().err
    assert json.loads(sidecar.read_text())["Parameters"]["LesionMask"]["Name"] == MASK
    again = ["rerun", str(sidecar), "--out", str(tmp_path / "again"), "--target", str(tiny_target_file)]
    assert main([*again, "--inputs", str(tmp_path)]) == 0, capsys.readouterr()


def test_lesion_masks_are_found_by_their_bids_name(tmp_path):
    folder = tmp_path / "lesions" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    (folder / MASK).touch()
    (folder / "sub-01_desc-brain_mask.nii.gz").touch()
    scans = [tmp_path / f"sub-0{n}_T1w.nii.gz" for n in (1, 2)]
    assert find_lesions(scans, tmp_path / "lesions") == {scans[0]: folder / MASK}
    with pytest.raises(UsageError, match="no lesion mask of these scans"):
        find_lesions(scans[1:], tmp_path / "lesions")


def test_a_brain_mask_is_no_lesion_mask():
    with pytest.raises(InputError, match="more than any lesion"):
        load_lesion(np.pad(np.ones((90, 90, 90)), 30), np.eye(4))


def test_a_lesion_mask_that_does_not_fit_is_called_one(stripped_head, tiny_target):
    scan = nib.Nifti1Image(stripped_head.data, stripped_head.affine)
    small = np.zeros((40, 40, 40), bool)
    small[20, 20, 20] = True
    with pytest.raises(InputError, match="the lesion mask has"):
        harmonize(scan, tiny_target, mask=stripped_head.brain, lesion_mask=small)
    with pytest.raises(InputError, match="lesion mask"):
        harmonize(scan, tiny_target, mask=stripped_head.brain, lesion_mask=stripped_head.brain)
