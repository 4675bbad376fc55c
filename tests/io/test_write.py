import gzip

import nibabel as nib
import numpy as np
import pytest

from blindharmony.errors import OutputError
from blindharmony.io import write as module
from blindharmony.io.volume import read_volume
from blindharmony.io.write import write_like


def test_equal_input_gives_equal_bytes(scan, tmp_path, monkeypatch):
    volume = read_volume(scan)
    one = write_like(volume, volume.data, tmp_path / "one.nii.gz").read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert write_like(volume, volume.data, tmp_path / "two.nii.gz").read_bytes() == one
    assert one[3:8] == bytes(5), "neither a name nor a time"


def test_mask_is_written_as_uint8(scan, tmp_path):
    volume = read_volume(scan)
    image = nib.load(write_like(volume, volume.data > 0, tmp_path / "m.nii.gz", dtype=np.uint8))
    assert image.get_data_dtype() == np.uint8
    assert set(np.unique(image.dataobj)) == {0, 1}


def test_patient_text_stays_behind(head, tmp_path):
    image = nib.Nifti1Image(head, np.eye(4))
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "in.nii")
    volume = read_volume(tmp_path / "in.nii")
    out = write_like(volume, volume.data, tmp_path / "out.nii.gz")
    assert b"DOE" not in gzip.decompress(out.read_bytes())
    assert nib.load(out).header["descrip"].item().startswith(b"blindharmony")


def test_long_description_is_cut_between_letters(scan, tmp_path):
    volume = read_volume(scan)
    out = write_like(volume, volume.data, tmp_path / "o.nii", description="a" * 78 + "é")
    assert nib.load(out).header["descrip"].item() == b"a" * 78


def test_sheared_array_gets_no_qform(head, tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.2
    out = nib.load(write_like(volume := read_volume(head, affine=affine), volume.data, tmp_path / "o.nii"))
    assert (int(out.header["sform_code"]), int(out.header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(out.affine, affine)


def test_pair_comes_back_as_one_file(head, tmp_path):
    nib.save(nib.Nifti1Pair(head, np.diag([2, 2, 2, 1])), tmp_path / "scan.img")
    for name in ("scan.img", "scan.hdr"):
        volume = read_volume(tmp_path / name)
        out = nib.load(write_like(volume, volume.data, tmp_path / "o.nii.gz", overwrite=True))
        np.testing.assert_array_equal(out.get_fdata(), head)
        np.testing.assert_array_equal(out.affine, np.diag([2, 2, 2, 1]))


def test_nifti_source_can_become_freesurfer(scan, tmp_path):
    volume = read_volume(scan)
    out = nib.load(write_like(volume, volume.data, tmp_path / "o.mgz"))
    np.testing.assert_allclose(out.affine, volume.affine, atol=1e-4)


def test_the_source_is_never_overwritten(scan):
    volume = read_volume(scan)
    with pytest.raises(OutputError, match="input scan"):
        write_like(volume, volume.data, scan, overwrite=True)


def test_unknown_output_type(scan, tmp_path):
    volume = read_volume(scan)
    with pytest.raises(OutputError, match=r"o\.png.*name it"):
        write_like(volume, volume.data, tmp_path / "o.png")


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (lambda d: d[1:], np.float32, "shape"),
        (lambda d: d, np.int16, "dtype"),
        (lambda d: d + 0.5, np.uint8, "whole"),
        (lambda d: d * 300, np.uint8, "whole"),
        (lambda d: d * np.nan, np.float32, "NaN"),
        (lambda d: d.astype(float) * 1e300, np.float32, "NaN"),
    ],
)
def test_unfit_data(scan, tmp_path, change, dtype, message):
    volume = read_volume(scan)
    with pytest.raises(ValueError, match=message):
        write_like(volume, change(volume.data), tmp_path / "o.nii", dtype=dtype)
    assert not (tmp_path / "o.nii").exists()


def test_failure_in_the_middle_leaves_nothing(scan, tmp_path, monkeypatch):
    volume = read_volume(scan)
    monkeypatch.setattr(module.nib.Nifti1Image, "to_stream", lambda self, file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_like(volume, volume.data, tmp_path / "out" / "o.nii.gz")
    assert list((tmp_path / "out").iterdir()) == []
