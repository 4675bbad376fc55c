"""Nothing assumes T1w: a target of another contrast is learnt and used the same way."""

import nibabel as nib
import numpy as np
import pytest

from blindharmony.api import harmonize
from blindharmony.io.bids import find_scans
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.training.target import train
from heads import head_grid, synthetic_brain
from targets import TINY


def t2_like(seed):
    """A whole head with bright CSF and dark white matter, and where its brain is."""
    head = synthetic_brain(*head_grid(seed, mm=3.0), seed=seed, skull=True)
    brain = np.where(head.brain, 1.15 * head.data[head.brain].max() - head.data, head.data)
    return brain.astype(np.float32), head.affine, head.brain


@pytest.fixture(scope="module")
def target(tmp_path_factory, people_once):
    study, masks = tmp_path_factory.mktemp("t2"), tmp_path_factory.mktemp("masks")
    for seed in range(5):
        data, affine, brain = t2_like(seed)
        anat = f"sub-{seed:02d}/anat/sub-{seed:02d}"
        for file, values in (
            (study / f"{anat}_T2w", data),
            (masks / f"{anat}_desc-brain_mask", brain.astype(np.uint8)),
        ):
            file.parent.mkdir(parents=True)
            nib.save(nib.Nifti1Image(values, affine), f"{file}.nii.gz")
    scans = find_scans([study], suffix="T2w")
    how = {"steps": 1, "spec": TINY, "recipe": PrepRecipe(n4=False), "copies": 0, "restorer": False, "suffix": "T2w"}
    return train(scans, study / "t2.safetensors", mask_dir=masks, **how)


@pytest.mark.long
def test_a_t2w_target_keeps_its_contrast(target):
    assert target.info.suffix == "T2w"
    data, affine, brain = t2_like(7)
    truth = harmonize(nib.Nifti1Image(data, affine), target, mask=brain).prepared.scan
    bent = nib.Nifti1Image((data / data.max()) ** 1.5 * 500, affine)
    found = harmonize(bent, target, mask=brain)
    inside = truth.inside() & found.prepared.scan.inside()
    before = found.prepared.scan.data - truth.data
    after = found.estimate.image - truth.data
    assert np.sqrt((after[inside] ** 2).mean()) < 0.35 * np.sqrt((before[inside] ** 2).mean())
    assert found.sidecar["Description"].startswith("T2w")
