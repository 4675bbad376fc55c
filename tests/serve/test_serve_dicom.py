"""A DICOM folder comes file by file; its T1 becomes a scan, and nothing else of it stays."""

import nibabel as nib
import numpy as np
import pytest
from serve_site import MOST

from blindharmony.preprocessing.registration import load_template
from dicoms import write_series

pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    """A T1, another contrast, and a note."""
    root = tmp_path_factory.mktemp("dicom")
    brain = load_template().data[::4, ::4, ::4]
    write_series(root / "a", brain, (4, 4, 4), number=4)
    write_series(root / "b", brain**0.5, (4, 4, 4), number=7, description="t2_space_sag")
    (root / "note.txt").write_text("words")
    return root


def send(site, files, name="Anna B/visit 1"):
    series = site.client.post("/api/series", json={"name": name}).json()["id"]
    answers = [site.client.put(f"/api/series/{series}", content=file.read_bytes()) for file in files]
    return series, answers, site.client.post(f"/api/series/{series}/scan", json={})


def files_of(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_the_t1_of_a_folder_becomes_a_scan_that_is_harmonized(site, visit):
    _, answers, made = send(site, files_of(visit))
    assert {answer.status_code for answer in answers} == {204}
    assert made.status_code == 201
    assert made.json()["name"] == "visit 1, series 4 t1_mprage_sag"
    (file,) = [path for path in site.store.uploads.folder.rglob("*") if path.is_file()]
    assert file.name == "visit-1_ser-4-t1-mprage-sag.nii.gz"
    image = nib.load(file)
    assert image.shape == load_template().data[::4, ::4, ::4].shape
    assert np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), 4, atol=0.01)
    assert b"Anna" not in image.header.binaryblock
    asked = {"uploads": [made.json()["id"]], "target": "ds002748", "together": False}
    job = site.client.post("/api/jobs", json=asked).json()["id"]
    assert site.until(job, "done")["title"] == "visit 1, series 4 t1_mprage_sag"


def test_two_series_that_could_be_meant_are_named_and_nothing_stays(site, visit, tmp_path):
    write_series(tmp_path, load_template().data[::4, ::4, ::4], (4, 4, 4), number=9)
    _, _, answer = send(site, [*files_of(visit / "a"), *files_of(tmp_path)])
    assert answer.status_code == 422
    assert "several series could be meant: 4 't1_mprage_sag'" in answer.json()["what"]
    assert answer.json()["remedy"] == "give the folder of the series that is meant"
    assert list(site.store.uploads.folder.iterdir()) == []


def test_a_folder_without_dicom_is_refused(site, visit):
    series, _, answer = send(site, [visit / "note.txt"])
    assert answer.status_code == 422
    assert "no file of this folder is DICOM" in answer.json()["what"]
    again = site.client.put(f"/api/series/{series}", content=b"x")
    assert (again.status_code, again.json()["what"]) == (409, "this folder is not there any more")
    assert list(site.store.uploads.folder.iterdir()) == []


def test_limits_hold_for_the_whole_folder(make_site, visit):
    site = make_site(most=1)
    series = site.client.post("/api/series", json={"name": "x"}).json()["id"]
    assert site.client.post("/api/series", json={"name": "y"}).status_code == 409
    half = bytes(128) + b"DICM" + bytes(MOST // 2)
    assert site.client.put(f"/api/series/{series}", content=half).status_code == 204
    assert site.client.put(f"/api/series/{series}", content=half).status_code == 413
    assert site.client.delete(f"/api/uploads/{series}").status_code == 204
    assert list(site.store.uploads.folder.iterdir()) == []
    assert site.client.post("/api/series", json={"name": "y"}).status_code == 201


def test_strangers_cannot_send_one(site):
    for path in ("/api/series", f"/api/series/{'0' * 16}", f"/api/series/{'0' * 16}/scan"):
        method = "PUT" if path.count("/") == 3 else "POST"
        answer = site.client.request(method, path, json={"name": "x"}, headers={"origin": "http://evil.example"})
        assert answer.status_code == 403
