"""What comes in is limited, looked at, and gone again if it is no scan."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest
from serve_site import MOST

from trees import grown


def _incoming(site):
    return [p for p in site.store.uploads.folder.rglob("*") if p.is_file()]


def test_a_scan_is_received_under_a_washed_name(site, scan_bytes):
    answer = site.upload("C:\\x\\../../Anna B.nii.gz", scan_bytes)
    assert answer.status_code == 201
    assert answer.json()["name"] == "Anna B.nii.gz"
    (file,) = _incoming(site)
    assert file.name == "Anna-B.nii.gz"
    assert file.parent.parent == site.store.uploads.folder
    assert file.read_bytes() == scan_bytes


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.nii.gz", b"no scan", "not compressed"),
        ("a.nii.gz", b"", "empty"),
        ("a.nii", 400 * b"\x00", "not a readable image"),
        ("a.txt", b"words", "ends in .txt"),
        ("a.nii", 128 * b"\x00" + b"DICM", "DICOM"),
    ],
)
def test_what_is_no_scan_is_refused_with_the_reason(site, name, content, words):
    answer = site.upload(name, content)
    assert answer.status_code == 422
    assert words in answer.json()["what"]
    assert str(site.store.folder) not in answer.text
    assert answer.json()["remedy"]
    assert _incoming(site) == []


def test_a_cut_off_scan_is_refused(site, scan_bytes):
    assert "cut off" in site.upload("a.nii.gz", scan_bytes[:-200]).json()["what"]
    short = gzip.decompress(scan_bytes)[:-50]
    assert "truncated" in site.upload("a.nii", short).json()["what"]
    assert _incoming(site) == []


def test_a_series_is_refused(site, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((16, 16, 16, 3), np.uint8), np.eye(4)), tmp_path / "s.nii")
    assert "3 frames" in site.upload("s.nii", (tmp_path / "s.nii").read_bytes()).json()["what"]


@pytest.mark.parametrize("declared", [True, False])
def test_too_much_is_refused_while_it_comes(site, declared):
    taken = 0

    def pieces():
        nonlocal taken
        for _ in range(100):
            taken += 2**18
            yield bytes(2**18)

    answer = site.upload("a.nii", bytes(MOST + 1) if declared else pieces())
    assert answer.status_code == 413
    assert "larger than 1 MB" in answer.json()["what"]
    assert _incoming(site) == []


def test_a_nearly_full_disk_is_noticed_before_it_is_full(make_site, scan_bytes):
    site = make_site(room=shutil.disk_usage("/").total * 1000)
    answer = site.upload("a.nii.gz", scan_bytes)
    assert answer.status_code == 507
    assert "nearly full" in answer.json()["what"]


def test_only_so_many_may_wait(make_site, scan_bytes):
    site = make_site(most=2)
    ids = [site.upload("a.nii.gz", scan_bytes).json()["id"] for _ in range(2)]
    assert site.upload("a.nii.gz", scan_bytes).status_code == 409
    assert site.client.delete(f"/api/uploads/{ids[0]}").status_code == 204
    assert site.upload("a.nii.gz", scan_bytes).status_code == 201
    assert len(_incoming(site)) == 2


def test_scans_whose_page_is_gone_do_not_block_the_others_for_ever(make_site, scan_bytes):
    now = [0.0]
    site = make_site(most=2, clock=lambda: now[0])
    for _ in range(2):
        assert site.upload("a.nii.gz", scan_bytes).status_code == 201
    now[0] = 5 * 3600
    assert site.upload("a.nii.gz", scan_bytes).status_code == 409
    now[0] = 7 * 3600
    assert site.upload("b.nii.gz", scan_bytes).status_code == 201
    assert [file.name for file in _incoming(site)] == ["b.nii.gz"]


def test_a_bomb_is_counted_not_unpacked(site):
    header = nib.Nifti1Header()
    header.set_data_shape((64, 64, 64))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    bomb = gzip.compress(header.binaryblock + bytes(4) + bytes(2**26), 1)
    answer = site.upload("a.nii.gz", bomb)
    assert answer.status_code == 422
    assert "far more than its header declares" in answer.json()["what"]
    assert _incoming(site) == []


def test_every_file_of_odd_data_sets_is_received_or_refused_with_a_reason(site, tmp_path):
    answers = []
    for seed in range(40):
        grown(tmp_path / f"tree{seed}", seed)
        for file in sorted((tmp_path / f"tree{seed}").rglob("*")):
            if file.is_file() and not file.is_symlink() and file.stat().st_size < MOST:
                answer = site.upload(file.name.encode("utf-8", "replace").decode(), file.read_bytes())
                assert answer.status_code in (201, 422, 429), (seed, file.name, answer.text)
                answers.append(answer.status_code)
                said = answer.json()
                if answer.status_code == 201:
                    site.client.delete(f"/api/uploads/{said['id']}")
                else:
                    assert said["what"]
                    assert said["remedy"]
                    assert str(site.store.folder) not in answer.text
    assert set(answers) >= {201, 422}


def test_a_header_that_reading_mends_is_no_reason_to_refuse(site, tmp_path, scan_bytes):
    file = tmp_path / "a.nii.gz"
    file.write_bytes(scan_bytes)
    image = nib.load(file)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = np.zeros((3, 4))
    image.header["sform_code"] = 1
    image.header.set_qform(image.affine, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "b.nii.gz")
    assert site.upload("b.nii.gz", (tmp_path / "b.nii.gz").read_bytes()).status_code == 201
