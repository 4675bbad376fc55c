"""The largest scan by its header, and no more of a stranger's file than that."""

import nibabel as nib
import numpy as np

from blindharmony.study.ledger import largest


def test_headers_are_enough_and_damaged_ones_count_nothing(tmp_path):
    for name, shape in (("a.nii.gz", (4, 5, 6)), ("b.nii", (7, 5, 6))):
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / name)
    (tmp_path / "c.nii").write_text("nothing")
    with (tmp_path / "d.nii").open("wb") as file:
        header = nib.Nifti1Header()
        header.set_data_shape((4, 4, 4))
        header["vox_offset"] = 352
        file.write(header.binaryblock + b"\1\0\0\0" + b"\xf0\xff\xff\x7f" + b"\6\0\0\0")  # an extension of 2 GB
    assert largest(tmp_path / name for name in ("a.nii.gz", "b.nii", "c.nii", "d.nii", "gone.nii")) == 210
    assert largest([]) == 0
