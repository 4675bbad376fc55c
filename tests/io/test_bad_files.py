"""Every damaged or foreign file ends in one message that names it and says what to do."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindharmony.errors import InputError
from blindharmony.io.volume import read_volume


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert caught.value.remedy
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


def test_missing_folder_and_broken_link(tmp_path):
    refused(tmp_path / "a.nii", "no such file")
    refused(tmp_path, "folder")
    (tmp_path / "b.nii").symlink_to(tmp_path / "gone")
    refused(tmp_path / "b.nii", "datalad get")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.nii", b"hello " * 500, "not a readable image"),
        ("a.nii.gz", gzip.compress(b"hello " * 500, mtime=0), "not a readable image"),
        ("a.mgz", gzip.compress(b"hello " * 500, mtime=0), "not a readable image"),
        ("a.nii.gz", b"hello " * 500, "not compressed"),
        ("a.nii", gzip.compress(b"hello", mtime=0), "rename"),
        ("a.nii", b"", "empty"),
        ("a.txt", b"hello", ".nii.gz"),
        ("a", b"hello", "without extension"),
        ("a.dcm", bytes(128) + b"DICM" + bytes(100), "dcm2niix"),
        ("a.nii", bytes(128) + b"DICM" + bytes(100), "dcm2niix"),
        ("a.img", b"hello", "a.hdr is missing"),
    ],
)
def test_foreign_files(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, word)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mgh"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_cut_off(tmp_path, head, name, part):
    path = tmp_path / name
    kind = nib.MGHImage if ".mg" in name else nib.Nifti1Image
    nib.save(kind(head, np.eye(4)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(path)


def test_header_declares_more_than_there_is(tmp_path, scan):
    content = bytearray(gzip.decompress(scan.read_bytes()))
    struct.pack_into("<3h", content, 42, 900, 900, 900)
    scan.write_bytes(gzip.compress(content))
    refused(scan, "truncated", "1458000352")
    (tmp_path / "a.nii").write_bytes(content)
    refused(tmp_path / "a.nii", "truncated")


@pytest.mark.parametrize("dims", [(3000, 3000, 3000), (32767, 32767, 32767)])
def test_absurd_size_is_refused_before_reading(tmp_path, scan, dims, monkeypatch):
    content = bytearray(gzip.decompress(scan.read_bytes()))
    struct.pack_into("<3h", content, 42, *dims)
    scan.write_bytes(gzip.compress(content))
    refused(scan, "voxels")
    (tmp_path / "a.nii").write_bytes(content)
    refused(tmp_path / "a.nii", "voxels")


def test_compressed_flood_behind_a_small_header(scan):
    scan.write_bytes(gzip.compress(gzip.decompress(scan.read_bytes()) + bytes(40_000_000), 1))
    refused(scan, "far more")


def test_wrong_checksum(scan):
    content = bytearray(scan.read_bytes())
    content[-8] ^= 1
    scan.write_bytes(content)
    refused(scan, "damaged", "CRC")


def test_analyze_does_not_tell_left_from_right(tmp_path, head):
    nib.save(nib.Spm99AnalyzeImage(head, np.eye(4)), tmp_path / "a.img")
    refused(tmp_path / "a.img", "Analyze", "left and right", "nib-convert")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 351), what=st.binary(min_size=1, max_size=8))
def test_a_damaged_header_gives_a_volume_or_one_message(scan, tmp_path, where, what):
    content = bytearray(gzip.decompress(scan.read_bytes()))
    content[where : where + len(what)] = what
    (tmp_path / "a.nii").write_bytes(content[:10144])
    try:
        values = read_volume(tmp_path / "a.nii").data
    except InputError:
        refused(tmp_path / "a.nii")
    else:
        assert np.isfinite(values).all()


def test_repaired_header_is_reported_not_printed(tmp_path, scan, capfd):
    content = bytearray(gzip.decompress(scan.read_bytes()))
    struct.pack_into("<h", content, 254, 99)
    (tmp_path / "a.nii").write_bytes(content)
    warnings = read_volume(tmp_path / "a.nii").warnings
    assert warnings[0] == "the header was repaired: sform_code 99 not valid; setting to 0"
    assert capfd.readouterr() == ("", "")


def test_unreadable(scan, monkeypatch):
    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    refused(scan, "Permission denied", "permissions")
