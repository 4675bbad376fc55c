"""A DICOM folder in, a harmonized scan out, with the converted scan kept."""

import json

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.main import main
from blindharmony.errors import InputError, NothingFoundError
from blindharmony.io.dicom import Series, choose, convert, is_dicom
from blindharmony.preprocessing.registration import load_template
from dicoms import write_series

pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    return load_template().data[::2, ::2, ::2]


@pytest.fixture(scope="module")
def visit(brain, tmp_path_factory):
    """A visit with a T1, its reformatted copy, a localizer and another contrast."""
    root = tmp_path_factory.mktemp("dicom") / "visit 1"
    write_series(root / "a", brain, (2, 2, 2), number=4)
    made = ("DERIVED", "SECONDARY", "MPR")
    write_series(root / "b", brain, (2, 2, 2), number=5, description="t1_mprage_MPR", image_type=made)
    write_series(root / "c", brain[:, :, 30:33], (2, 2, 20), number=1, description="localizer", three_d=False)
    write_series(root / "d", brain**0.5, (2, 2, 2), number=7, description="t2_space_sag")
    return root


def test_dicom_is_known_by_its_magic(visit, tmp_path):
    assert is_dicom(visit)
    assert is_dicom(next((visit / "a").iterdir()))
    (tmp_path / "x.dcm").write_bytes(bytes(200))
    assert not is_dicom(tmp_path)


def test_conversion_keeps_voxels_and_place(visit, brain, tmp_path):
    found = nib.as_closest_canonical(nib.load(convert(visit / "a", tmp_path)[0].file))
    np.testing.assert_array_equal(found.get_fdata(), np.round(brain / brain.max() * 3000))
    np.testing.assert_allclose(np.abs(np.diag(found.affine)), [2, 2, 2, 1], atol=1e-5)


@pytest.mark.long
def test_the_t1_of_a_visit_is_harmonized_and_kept(visit, tiny_target_file, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["harmonize", str(visit), "--target", str(tiny_target_file), "--method", "match", "--out", str(out)]
    assert main(words) == 0
    stem = "visit 1_ser-4-t1-mprage-sag"
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["converted", f"{stem}_desc-brain_mask.nii.gz"]
        + [f"{stem}_desc-harmonized{e}" for e in (".html", ".json", ".nii.gz")]
    )
    assert sorted(p.name for p in (out / "converted").iterdir()) == [f"{stem}.json", f"{stem}.nii.gz"]
    assert "Nobody" not in (out / "converted" / f"{stem}.json").read_text()
    sidecar = json.loads((out / f"{stem}_desc-harmonized.json").read_text())
    assert sidecar["Sources"] == [f"{stem}.nii.gz"]
    assert main(["rerun", str(out / f"{stem}_desc-harmonized.json"), "--target", str(tiny_target_file)]) == 0
    assert main([*words, "--series", "7"]) == 0
    assert (out / "visit 1_ser-7-t2-space-sag_desc-harmonized.nii.gz").is_file()


def test_a_file_stands_for_its_series(visit, tiny_target_file, tmp_path):
    file = sorted((visit / "d").iterdir())[3]
    assert main(["harmonize", str(file), "--target", str(tiny_target_file), "--no-report", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "d_ser-7-t2-space-sag_desc-harmonized.nii.gz").is_file()


@pytest.mark.long
def test_two_folders_of_one_name_are_not_one_scan(visit, brain, tiny_target_file, tmp_path, capsys):
    for who, contrast in (("A", brain), ("B", brain**1.2)):
        write_series(tmp_path / who / "DICOM", contrast, (2, 2, 2), number=4)
    words = ["harmonize", *(str(tmp_path / who / "DICOM") for who in "AB"), "--target", str(tiny_target_file)]
    words += ["--method", "match", "--no-report", "--out", str(tmp_path / "out")]
    for more in ([], ["--overwrite"]):
        assert main([*words, *more]) == 1
        said = capsys.readouterr().err
        assert f"{tmp_path / 'B' / 'DICOM'}: its scan would be called" in said
        assert said.count("harmonizing to") == 1


def test_without_dcm2niix_it_is_said_how_to_get_it(visit, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert main(["harmonize", str(visit), "--out", str(tmp_path / "out")]) == 1
    assert "pip install blindharmony[dicom]" in capsys.readouterr().err


def test_broken_dicom_is_one_line(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(500))
    assert main(["harmonize", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "dcm2niix made nothing of it" in said
    assert said.count("\n") == 1


def series(number, description, shape=(160, 192, 160), *, made=False, modality="MR"):
    return Series(None, number, description, shape, made, modality)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([series(3, "anything")], 3),
        ([series(1, "localizer", (256, 256, 3)), series(3, "x")], 3),
        ([series(3, "t1_mprage", made=True), series(4, "mprage")], 4),
        ([series(3, "t1_mprage", made=True)], 3),
        ([series(2, "t2_space"), series(3, "SAG BRAVO")], 3),
        ([series(2, "bold", (64, 64, 40, 200)), series(3, "x"), series(4, "T1", modality="CT")], 3),
    ],
)
def test_rules(found, chosen, tmp_path):
    assert choose(found, tmp_path).number == chosen


def test_doubt_is_not_decided(tmp_path):
    two = [series(3, "t1_mprage"), series(4, "t1_mprage_repeat")]
    with pytest.raises(InputError, match=r"3 't1_mprage' .*; 4 't1_mprage_repeat' .*--series NUMBER"):
        choose(two, tmp_path)
    assert choose(two, tmp_path, 4).number == 4
    with pytest.raises(NothingFoundError, match="series 9"):
        choose(two, tmp_path, 9)
    with pytest.raises(NothingFoundError, match="no series is an MR volume"):
        choose([series(1, "localizer", (256, 256, 3))], tmp_path)


def test_a_series_of_several_images(tmp_path):
    phase = Series(tmp_path / "5_ph.nii", 5, "t1_mprage", (160, 192, 160), True, "MR")
    echoes = [Series(tmp_path / f"5_e{i}.nii", 5, "t1_mprage", (160, 192, 160), False, "MR") for i in (1, 2)]
    assert choose([phase, echoes[0]], tmp_path, 5) is echoes[0]
    with pytest.raises(InputError, match=r"series 5 gives several images: 5_e1\.nii, 5_e2\.nii; convert it"):
        choose([phase, *echoes], tmp_path, 5)
