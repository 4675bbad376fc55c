from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def head() -> np.ndarray:
    """Small positive volume with a background of zeros."""
    data = np.random.default_rng(0).integers(1, 900, (18, 17, 16)).astype(np.int16)
    data[:3] = 0
    return data


@pytest.fixture
def scan(tmp_path: Path, head: np.ndarray) -> Path:
    path = tmp_path / "in" / "sub-01_T1w.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(head, np.diag([1, 1, 1.5, 1])), path)
    return path
