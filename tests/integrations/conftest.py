"""One scan as a file, and what the package itself makes of it: every library has to give the same."""

import nibabel as nib
import pytest

from blindharmony.api import harmonize


@pytest.fixture(scope="session")
def scan_file(stripped_head, tmp_path_factory):
    path = tmp_path_factory.mktemp("interop") / "sub-01_T1w.nii.gz"
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), path)
    return path


@pytest.fixture(scope="session")
def plain(scan_file, tiny_target):
    return harmonize(scan_file, tiny_target)
