"""What the fuzzer found in the reader of images, one test each."""

import gzip
import os
import resource
import struct

import nibabel as nib
import numpy as np
import pytest

from blindharmony.errors import InputError, one_line
from blindharmony.files import output_name, write_text
from blindharmony.io.volume import read_volume
from blindharmony.io.write import write_like


@pytest.fixture
def raw(scan) -> bytearray:
    return bytearray(gzip.decompress(scan.read_bytes()))


def refused(path, word):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert word in str(caught.value)
    assert str(caught.value).isprintable()


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("esize", [0, 4, -8, 2**31 - 16, 2**28])
def test_an_extension_is_not_unpacked_into_memory(scan, raw, esize):
    raw[348] = 1
    struct.pack_into("<f", raw, 108, 352.0 + 2**28)
    flood = gzip.compress(raw[:352] + struct.pack("<2i", esize, 4) + bytes(2**28), 1)
    before = peak()
    scan.write_bytes(flood)
    del flood
    refused(scan, "start at byte")
    assert peak() - before < 2**26


def test_an_extension_must_end_before_the_voxels(tmp_path, raw):
    raw[348] = 1
    struct.pack_into("<f", raw, 108, 384.0)
    for length in (0, -16, 48, 2**30):
        content = raw[:352] + struct.pack("<2i", length, 4) + bytes(24) + raw[352:]
        (tmp_path / "a.nii").write_bytes(content)
        refused(tmp_path / "a.nii", "extension")
    (tmp_path / "a.nii").write_bytes(raw[:352] + struct.pack("<2i", 32, 4) + bytes(24) + raw[352:])
    assert read_volume(tmp_path / "a.nii").warnings == ()


def test_mgh_is_not_sought_through_before_its_size_is_known(tmp_path, head):
    nib.save(nib.MGHImage(head, np.eye(4)), tmp_path / "a.mgz")
    content = bytearray(gzip.decompress((tmp_path / "a.mgz").read_bytes()))
    for dims, word in (
        ((2**31 - 1, 2**31 - 1, 1, 1), "voxels"),
        ((-5, 18, 17, 1), "voxels"),
        ((3000, 3000, 3000, 1), "any head"),
    ):
        struct.pack_into(">4i", content, 4, *dims)
        (tmp_path / "a.mgz").write_bytes(gzip.compress(content))
        refused(tmp_path / "a.mgz", word)


def test_a_pipe_is_no_scan(tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "regular file")


@pytest.mark.parametrize(("slope", "inter"), [(1e-30, 0.0), (1e-4, 1e11)])
def test_intensities_that_single_precision_cannot_tell_apart(tmp_path, raw, slope, inter):
    struct.pack_into("<2f", raw, 112, slope, inter)
    (tmp_path / "a.nii").write_bytes(raw)
    refused(tmp_path / "a.nii", "too close")


def test_a_head_100_m_away(tmp_path, head):
    affine = np.eye(4)
    affine[0, 3] = 1e6
    nib.save(nib.Nifti1Image(head, affine), tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "places the head")


@pytest.mark.parametrize(
    ("where", "kind", "value", "word"),
    [
        (80, "f", 3.0, "voxel size"),
        (123, "B", 3, "micrometres"),
        (123, "B", 1, "metres"),
        (288, "f", 0.4, "right angle"),
    ],
)
def test_doubtful_places_are_said(tmp_path, raw, where, kind, value, word):
    struct.pack_into("<" + kind, raw, where, value)
    (tmp_path / "a.nii").write_bytes(raw)
    assert any(word in warning for warning in read_volume(tmp_path / "a.nii").warnings)


def test_bytes_behind_the_voxels_are_said(tmp_path, raw):
    (tmp_path / "a.nii").write_bytes(raw + b"x" * 100)
    assert read_volume(tmp_path / "a.nii").warnings == ("the file holds 100 bytes more than its header declares",)
    struct.pack_into("<h", raw, 42, 17)  # a slice less than there is: every row would be out of place
    (tmp_path / "a.nii").write_bytes(raw)
    assert "more than its header" in read_volume(tmp_path / "a.nii").warnings[0]


def test_names_with_line_breaks_and_control_codes_stay_one_line(tmp_path):
    name = tmp_path / "a\nb\x1b[2J.nii"
    name.write_bytes(b"no image")
    refused(name, r"a\nb\x1b[2J.nii")
    assert one_line("brain é 脑.nii") == "brain é 脑.nii"


def test_a_name_that_is_no_text_can_be_written_about(tmp_path):
    name = os.fsdecode(b"scan\xff.nii")
    path = write_text(tmp_path / "a.json", f'"{name}"')
    assert path.read_text() == '"scan\\udcff.nii"'


@pytest.mark.parametrize(
    "name", ["../../up.nii", "..", "a/../../b.nii", "/etc/passwd.nii", "..\\..\\b.nii", "\x00/x.nii", "."]
)
def test_no_output_name_leaves_its_folder(name, tmp_path):
    out = (tmp_path / output_name(name, "harmonized")).resolve()
    assert out.parent == tmp_path.resolve()
    volume = read_volume(np.arange(4096.0).reshape(16, 16, 16))
    assert write_like(volume, volume.data, out).parent == tmp_path.resolve()
