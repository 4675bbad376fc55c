import nibabel as nib
import numpy as np
import pytest

from blindharmony.errors import InputError
from blindharmony.io.volume import read_volume


def refused(tmp_path, data, *words, affine=None, kind=nib.Nifti1Image):
    path = tmp_path / "odd.nii"
    nib.save(kind(data, np.eye(4) if affine is None else affine), path)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert "odd.nii" in str(caught.value)
    assert caught.value.remedy
    for word in words:
        assert word in str(caught.value)


def test_path_image_array_and_volume_agree(scan):
    image = nib.load(scan)
    volumes = [
        read_volume(source) for source in (str(scan), scan, image, nib.Nifti1Image(image.get_fdata(), image.affine))
    ]
    volumes.append(read_volume(image.get_fdata(), affine=image.affine))
    for volume in volumes:
        assert volume.data.dtype == np.float32
        np.testing.assert_array_equal(volume.data, volumes[0].data)
        np.testing.assert_array_equal(volume.affine, volumes[0].affine)
        assert volume.spacing.tolist() == [1, 1, 1.5]
        assert volume.warnings == ()
    assert [v.path for v in volumes] == [scan, scan, scan, None, None]
    assert read_volume(volumes[0]) is volumes[0]
    with pytest.raises(TypeError, match="affine="):
        read_volume(scan, affine=np.eye(4))


def test_the_callers_array_stays_his(head):
    data = head.astype(np.float32)
    volume = read_volume(data)
    volume.data[:] = 0
    assert data.any()


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint64, np.float16, np.float64, ">f4"])
def test_arrays_of_any_real_type(head, dtype):
    np.testing.assert_array_equal(read_volume(head.astype(dtype)).data, head.astype(dtype))


def test_shapes(tmp_path, head):
    refused(tmp_path, head[0], "2-D")
    refused(tmp_path, np.stack([head] * 3, -1), "3 frames", "extract")
    refused(tmp_path, head[:, :, :1], "18 x 17 x 1")
    refused(tmp_path, head[:15], "at least 16")
    assert read_volume(head[..., None, None]).shape == head.shape


def test_types(tmp_path, head):
    refused(tmp_path, head.astype(np.complex64), "magnitude")
    rgb = np.zeros(head.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(tmp_path, rgb, "color")
    with pytest.raises(InputError, match="complex"):
        read_volume(head.astype(complex))


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.diag([1, 1, 0, 1]), "invertible"),
        (np.diag([np.nan, 1, 1, 1]), "NaN"),
        (np.diag([1, 1, 0.04, 1]), "impossible"),
        (np.diag([20, 1, 1, 1]), "20 x 1 x 1"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "invertible"),
        (np.eye(3), "4 x 4"),
    ],
)
def test_affines(head, affine, word):
    with pytest.raises(InputError, match=word):
        read_volume(head, affine=affine)


def test_zero_affine_in_a_file(tmp_path, head):
    image = nib.Nifti1Image(head, np.eye(4))
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    nib.save(nib.Nifti1Image(head, None, image.header), tmp_path / "odd.nii")
    with pytest.raises(InputError, match=r"odd\.nii: the affine is not invertible; convert"):
        read_volume(tmp_path / "odd.nii")


def test_values(tmp_path, head):
    real = head.astype(np.float64)
    refused(tmp_path, head * 0, "empty")
    refused(tmp_path, head * 0 + 7, "constant", "7")
    refused(tmp_path, real * 1e12, "scl_slope")
    refused(tmp_path, (real - real.mean()) / real.std(), "z-scored", "normalization")
    refused(tmp_path, np.where(real > 500, np.nan, real), "NaN")


def test_few_bad_voxels_are_repaired_and_reported(head):
    data = head.astype(np.float32)
    data[5, 5, 5], data[6, 6, :2] = np.nan, np.inf
    volume = read_volume(data, affine=np.eye(4))
    assert volume.data[5, 5, 5] == 0
    assert volume.warnings == ("3 voxels were NaN or infinite and were set to 0",)


def test_few_negatives_are_kept(head):
    data = head.astype(np.float32)
    data[5, 5, 5] = -3
    assert read_volume(data).data[5, 5, 5] == -3


def test_disagreeing_and_missing_orientation(head):
    image = nib.Nifti1Image(head, np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.eye(4), 1)
    image.header["qoffset_x"] = 5
    assert read_volume(image).warnings == ("sform and qform disagree by 5.0 mm; the sform was used",)
    image.header["quatern_b"] = image.header["quatern_c"] = 1
    assert "the qform is damaged" in read_volume(image).warnings[0]
    nowhere = nib.Nifti1Image(head, None)
    assert "no orientation" in read_volume(nowhere).warnings[0]


def test_freesurfer_without_orientation(head):
    image = nib.MGHImage(head, None)
    image.header["goodRASFlag"] = 0
    assert "no orientation" in read_volume(image).warnings[0]


def test_image_from_a_stream(scan):
    image = nib.Nifti1Image.from_bytes(nib.load(scan).to_bytes())
    assert read_volume(image).path is None
