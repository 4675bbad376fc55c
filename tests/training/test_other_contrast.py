"""Nothing assumes T1w: a target of another contrast is learnt and used the same way."""

import nibabel as nib
import numpy as np
import pytest

from blindharmony.image import find_scans
from blindharmony.pipeline import harmonize
from blindharmony.prep.recipe import PrepRecipe
from blindharmony.training.target_fit import train_target
from heads import head_grid, synthetic_brain
from targets import TINY


def t2_like(seed):
    """A head with bright CSF and dark white matter."""
    head = synthetic_brain(*head_grid(seed, mm=3.0), seed=seed)
    top = head.data.max()
    return np.where(head.brain, 1.15 * top - head.data, 0).astype(np.float32), head.affine


@pytest.fixture(scope="module")
def target(tmp_path_factory, people_once):
    study = tmp_path_factory.mktemp("t2")
    for seed in range(5):
        folder = study / f"sub-{seed:02d}" / "anat"
        folder.mkdir(parents=True)
        data, affine = t2_like(seed)
        nib.save(nib.Nifti1Image(data, affine), folder / f"sub-{seed:02d}_T2w.nii.gz")
    scans = find_scans([study], suffix="T2w")
    out = study / "t2.safetensors"
    recipe = PrepRecipe(n4=False)
    return train_target(scans, out, steps=1, spec=TINY, recipe=recipe, copies=0, restorer=False, suffix="T2w")


def test_a_t2w_target_keeps_its_contrast(target):
    assert target.info.suffix == "T2w"
    data, affine = t2_like(7)
    truth = harmonize(nib.Nifti1Image(data, affine), target).prepared.scan
    bent = nib.Nifti1Image((data / data.max()) ** 1.5 * 500, affine)
    found = harmonize(bent, target)
    inside = truth.inside() & found.prepared.scan.inside()
    before = found.prepared.scan.data - truth.data
    after = found.estimate.image - truth.data
    assert np.sqrt((after[inside] ** 2).mean()) < 0.35 * np.sqrt((before[inside] ** 2).mean())
    assert found.sidecar["Description"].startswith("T2w")
