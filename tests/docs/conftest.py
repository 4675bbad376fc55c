"""The folder that the documentation speaks of: scans, a site, a study, a model; all synthetic."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from blindharmony.models import card
from heads import head_grid, synthetic_brain


@pytest.fixture(scope="session")
def workspace(tiny_target_file, tmp_path_factory):
    """What a reader is assumed to have, made once."""
    folder = tmp_path_factory.mktemp("reader")
    heads = [synthetic_brain(*head_grid(seed, mm=3.5, axes="RAS"), seed=seed) for seed in range(5)]
    images = [nib.Nifti1Image(head.data, head.affine) for head in heads]
    for name in ("scan.nii.gz", "sub-01_T1w.nii.gz", "new_scan.nii.gz"):
        nib.save(images[0], folder / name)
    nib.save(nib.Nifti1Image(heads[0].brain.astype("uint8"), heads[0].affine), folder / "mask.nii.gz")
    (folder / "siteA").mkdir()
    for name, image in zip("abc", images, strict=False):
        nib.save(image, folder / "siteA" / f"{name}.nii.gz")
    # As scanners store sagittal slices: not in the axis order of the masks.
    images = [as_stored(image, "PSR") for image in images]
    study = folder / "study"
    about = {"Manufacturer": "Maker", "ManufacturersModelName": "Model", "MagneticFieldStrength": 3}
    for index, image in enumerate(images, 1):
        anat = study / f"sub-{index:02d}" / "anat"
        anat.mkdir(parents=True)
        nib.save(image, anat / f"sub-{index:02d}_T1w.nii.gz")
        (anat / f"sub-{index:02d}_T1w.json").write_text(json.dumps(about))
        made = f"filename\tacq_time\nanat/sub-{index:02d}_T1w.nii.gz\t2026-01-{index:02d}T09:00:00\n"
        (study / f"sub-{index:02d}" / f"sub-{index:02d}_scans.tsv").write_text(made)
    (study / "dataset_description.json").write_text(json.dumps({"Name": "study", "BIDSVersion": "1.10.0"}))
    (study / "README").write_text("Synthetic heads.\n")
    keep_fmriprep_masks(heads, folder / "fmriprep")
    shutil.copy(tiny_target_file, folder / "mysite.safetensors")
    return folder


def as_stored(image, axes):
    """The same image with its voxels in another order."""
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
    return image.as_reoriented(turn)


def keep_fmriprep_masks(heads, derivatives):
    """Brain masks as fMRIPrep keeps them: axes to right, anterior, superior, and beside each its copy in MNI space."""
    for index, head in enumerate(heads, 1):
        anat = derivatives / f"sub-{index:02d}" / "anat"
        anat.mkdir(parents=True)
        mask = nib.as_closest_canonical(nib.Nifti1Image(head.brain.astype("uint8"), head.affine))
        nib.save(mask, anat / f"sub-{index:02d}_desc-brain_mask.nii.gz")
        standard = nib.Nifti1Image(np.ones((4, 4, 4), "uint8"), np.eye(4))
        nib.save(standard, anat / f"sub-{index:02d}_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz")
    about = {"Name": "fMRIPrep - fMRI PREProcessing workflow", "BIDSVersion": "1.4.0", "DatasetType": "derivative"}
    (derivatives / "dataset_description.json").write_text(json.dumps(about))


@pytest.fixture
def reader(workspace, tmp_path, monkeypatch):
    """A copy of the folder, to be in."""
    place = tmp_path / "reader"
    shutil.copytree(workspace, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return place


@pytest.fixture
def stand_in(tiny_target_file, monkeypatch):
    """A small model in place of the included one: the same words, a tenth of the time."""
    real = card.included_targets
    known = {"ds002748": tiny_target_file}
    for module in ("models.card", "models", "integrations.bundle", "result", "provenance"):
        monkeypatch.setattr(f"blindharmony.{module}.included_targets", lambda: known)
    return real
