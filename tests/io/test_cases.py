"""Files that people have: every case of docs/reference/hostile-files.md, rebuilt on a synthetic whole head."""

import argparse
import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from blindharmony.cli.console import Screen
from blindharmony.cli.groups import groups_of
from blindharmony.errors import InputError, NothingFoundError, OutputError, PreprocessingError
from blindharmony.files import atomic_path, check_outputs, output_name, result_names, write_text, written_together
from blindharmony.io.bids import bids_scans, find_mask, find_scans, list_scans, read_filter
from blindharmony.io.masks import load_mask
from blindharmony.io.tables import column_of, read_table, scanner_table, unmatched
from blindharmony.io.volume import noticed, read_volume
from blindharmony.io.write import write_like
from blindharmony.preprocessing.brain import ExtractBrain, foreground_brain, mask_on, read_mask
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.preprocessing.steps import Scan
from blindharmony.quality.checks import Severity, brain_found
from faults import Faults
from heads import grid_affine, synthetic_brain

NIBABEL = Path(nib.__file__).parent / "tests" / "data"


@pytest.fixture(scope="module")
def psr():
    """A whole head on a straight PSR grid of 4 mm, as IXI has them."""
    affine = grid_affine((4.0, 4.0, 4.0), "PSR", origin=(-90, 110, -80))
    return synthetic_brain((56, 50, 48), affine, seed=5, skull=True, noise=0.005)


def saved(path, data, affine, header=None, kind=nib.Nifti1Image, **fields):
    image = kind(data, affine, header)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


# Masks are no scans.


def mask_cases(m):
    """What people store as the mask ``m``: name → (values, dtype on disk, slope and intercept)."""
    smooth = ndimage.gaussian_filter(m.astype(np.float32), 0.7)
    aseg = np.where(m, 2, 0)
    aseg[m & (np.indices(m.shape)[0] > m.shape[0] // 2)] = 2035
    tissue = np.where(m, 3, 0)
    tissue[m & ~ndimage.binary_erosion(m, iterations=2)] = 1
    ringing = np.clip(smooth * 1.2 - 0.1, -0.1, 1.1)
    t1 = np.where(m, 30 + 90 * ndimage.gaussian_filter(np.random.default_rng(0).random(m.shape), 1), 0)
    return {
        "binary": (m, "u1", None),
        "255": (m * 255, "u1", None),
        "0.999": (m * 0.999, "f4", None),
        "probability": (smooth, "f4", None),
        "probability in 0..255": (np.round(smooth * 255), "u1", None),
        "automatic slope": (np.where(m, 0.9995, 2e-4), "u1", "auto"),
        "intercept": (m * 1.0, "i2", (1 / 30000, 1e-5)),
        "labels": (aseg, "i2", None),
        "tissues": (tissue, "u1", None),
        "cubic": (ringing, "f4", None),
        "cubic, moved": (ndimage.shift(m.astype(np.float32), 0.3, order=3), "f4", None),
        "background -1": (np.where(m, 1, -1), "i2", None),
        "NaN outside": (np.where(m, 1, np.nan), "f4", None),
        "stripped scan": (t1, "f4", None),
    }


@pytest.mark.parametrize("case", mask_cases(np.ones((9, 9, 9), bool)))
def test_whatever_is_stored_as_a_mask_is_the_same_brain(psr, tmp_path, case):
    values, dtype, slope = mask_cases(psr.brain)[case]
    image = nib.Nifti1Image(np.asarray(values, np.float32), psr.affine)
    image.header.set_data_dtype(np.dtype(dtype))
    if isinstance(slope, tuple):
        image.header.set_slope_inter(*slope)
    nib.save(image, tmp_path / "m.nii.gz")
    inside = load_mask(tmp_path / "m.nii.gz").inside
    dice = 2 * (inside & psr.brain).sum() / (inside.sum() + psr.brain.sum())
    assert dice > (0.97 if case.startswith(("probability", "cubic")) else 0.9999)


def test_a_distance_map_is_named(psr, tmp_path):
    distance = ndimage.distance_transform_edt(~psr.brain) - ndimage.distance_transform_edt(psr.brain)
    path = saved(tmp_path / "sdt.nii.gz", distance.astype(np.float32), psr.affine)
    with pytest.raises(InputError, match=r"map of distances.*give the binary mask"):
        load_mask(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: np.ones_like(m), "everything is inside"),
        (lambda m: np.zeros_like(m), "nothing is inside"),
        (lambda m: ~m, "field of view inside"),
        (lambda m: m & (np.indices(m.shape).sum(0) % 11 == 0), "ml inside, which no brain has"),
        (lambda m: np.stack([m, ~m], -1), "series of 2 frames"),
    ],
    ids=["ones", "zeros", "inside out", "too small", "one-hot"],
)
def test_a_mask_that_can_be_no_brain_is_refused(psr, tmp_path, make, message):
    path = saved(tmp_path / "m.nii", make(psr.brain).astype(np.uint8), psr.affine)
    with pytest.raises(InputError, match=message) as caught:
        load_mask(path)
    assert "MR magnitude" not in str(caught.value)


def test_a_ras_mask_fits_a_psr_scan(psr, tmp_path):
    """fMRIPrep turns scan and mask to RAS; the mask still is of this scan."""
    scan = saved(tmp_path / "sub-X_T1w.nii.gz", psr.data, psr.affine)
    image = nib.as_closest_canonical(nib.Nifti1Image(psr.brain.astype(np.uint8), psr.affine))
    path = tmp_path / "fmriprep/sub-X/anat/sub-X_desc-brain_mask.nii.gz"
    path.parent.mkdir(parents=True)
    nib.save(image, path)
    assert image.shape != psr.data.shape
    found = find_mask(tmp_path / "fmriprep", scan)
    np.testing.assert_array_equal(mask_on(read_mask(found), psr.scan), psr.brain)
    volume = read_volume(scan)
    prepared = prepare(volume, PrepRecipe(n4=False), mask=read_mask(found))
    assert "".join(nib.orientations.aff2axcodes(prepared.native.affine)) == "RAS"
    np.testing.assert_array_equal(prepared.native.inside(), image.get_fdata() > 0)


def test_a_mask_of_another_place_is_still_refused(psr):
    moved = psr.affine.copy()
    moved[:3, 3] += 7
    with pytest.raises(InputError, match="lies elsewhere"):
        mask_on(Scan(psr.brain.astype(np.float32), moved, psr.brain), psr.scan)


# Already stripped is a judgement.


def stripped(head, data):
    foreground, sure = foreground_brain(Scan(data.astype(np.float32), head.affine))
    return foreground if sure else None


def test_a_stripped_brain_is_known_whatever_surrounds_it(stripped_head):
    rng = np.random.default_rng(0)
    brain = stripped_head.brain
    noise = 0.003 * stripped_head.data.max() * rng.standard_normal(brain.shape)
    odd = stripped_head.data.copy()
    odd[0, 0, 0] = 9
    for name, data in {"zero": stripped_head.data, "noise": stripped_head.data + noise, "odd corner": odd}.items():
        found = stripped(stripped_head, data)
        assert found is not None, name
        assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.97, name


@pytest.mark.parametrize("millimetres", [40, 60, 80])
@pytest.mark.parametrize("air", [True, False], ids=["air noise", "denoised"])
def test_a_slab_of_a_head_is_no_stripped_brain(psr, millimetres, air):
    data = psr.data.copy()
    if not air:
        data[data < 0.05 * data.max()] = 0
    middle, half = int(np.argwhere(psr.brain)[:, 1].mean()), millimetres // 8
    slab = Scan(data[:, middle - half : middle + half], psr.affine)
    _, sure = foreground_brain(slab)
    assert not sure


@pytest.mark.parametrize("size", [0.7, 0.8])
@pytest.mark.parametrize("rounded", [True, False])
def test_a_denoised_small_head_is_no_stripped_brain(psr, size, rounded):
    """A child's head cut to the head, no larger than a brain can be; the background is smooth and hardly anywhere 0."""
    head = ndimage.binary_fill_holes(psr.data > 0.05 * psr.data.max())
    air = ndimage.gaussian_filter(np.random.default_rng(0).random(psr.data.shape), 2)
    data = np.where(head, psr.data / psr.data.max() * 1000, 0) + 0.5 + 6 * (air - air.min()) / np.ptp(air)
    data = ndimage.gaussian_filter(data, 0.6)
    affine = psr.affine.copy()
    affine[:3, :3] *= size
    _, sure = foreground_brain(Scan((np.round(data) if rounded else data).astype(np.float32), affine))
    assert not sure


def test_a_doubtful_scan_is_asked_about(psr, monkeypatch):
    """Whoever is asked decides: a foreground with scalp is no brain, one that agrees is."""
    middle = int(np.argwhere(psr.brain)[:, 1].mean())
    cut = slice(middle - 7, middle + 7)
    data = np.where(psr.data > 0.05 * psr.data.max(), psr.data, 0)[:, cut]
    answer = psr.brain[:, cut]
    monkeypatch.setattr("blindharmony.preprocessing.brain.extract_brain", lambda *a, **k: answer)
    brain = ExtractBrain().estimate(Scan(data, psr.affine))
    assert brain.source == "network"
    np.testing.assert_array_equal(brain.mask, answer)
    alone = np.where(answer, data, 0)
    assert ExtractBrain().estimate(Scan(alone, psr.affine)).source == "stripped"


def test_a_denoised_head_without_a_dark_skull_is_no_stripped_brain(psr, monkeypatch):
    """Of any size: the network has a glance at it, whatever its layers look like."""
    monkeypatch.setattr("blindharmony.preprocessing.brain._has_skull", lambda *_: False)
    monkeypatch.setattr("blindharmony.preprocessing.brain.extract_brain", lambda *_, **__: psr.brain)
    head = ndimage.binary_fill_holes(psr.data > 0.05 * psr.data.max())
    affine = psr.affine @ np.diag([0.75, 0.75, 0.75, 1])
    whole = Scan(np.where(head, psr.data, 0).astype(np.float32), affine)
    assert foreground_brain(whole)[1]
    brain = ExtractBrain().estimate(whole)
    assert (brain.source, brain.doubt) == ("network", "")
    stripped = replace(whole, data=np.where(psr.brain, psr.data, 0).astype(np.float32), affine=psr.affine)
    monkeypatch.setattr("blindharmony.preprocessing.brain.extract_brain", lambda *_, **__: pytest.fail("not asked"))
    assert ExtractBrain().estimate(stripped).source == "stripped"


def test_what_cannot_be_told_is_said(stripped_head, monkeypatch):
    """Between a brain and its head: a part of a brain would be cut off, or skull left on, without a word."""

    def inner(brain):
        return ndimage.binary_erosion(brain, iterations=3)

    overlap = 2 * inner(stripped_head.brain).sum() / (inner(stripped_head.brain).sum() + stripped_head.brain.sum())
    assert 0.8 < overlap < 0.9
    room = "blindharmony.preprocessing.brain."
    monkeypatch.setattr(room + "_at_a_glance", lambda scan, foreground, device: (foreground, inner(foreground)))
    monkeypatch.setattr(room + "extract_brain", lambda data, *_, **__: inner(data > 0))
    scan = Scan(stripped_head.data, stripped_head.affine)
    result = ExtractBrain().estimate(scan)
    assert result.source == "network"
    assert "cannot be told" in result.doubt
    volume = read_volume(stripped_head.data, affine=stripped_head.affine)
    prepared = prepare(volume, PrepRecipe(n4=False))
    (check,) = brain_found(SimpleNamespace(prepared=prepared))
    assert check.severity == Severity.CAUTION
    assert "--mask" in check.advice
    assert "cannot be told" in prepared.summary()["brain-mask"]["doubt"]
    monkeypatch.setattr(room + "extract_brain", lambda data, *_, **__: data > 0)
    assert ExtractBrain().estimate(scan).source == "stripped"

    def none(*_, **__):
        raise PreprocessingError("no brain was found in this image")

    monkeypatch.setattr(room + "extract_brain", none)
    with pytest.raises(PreprocessingError, match=r"could be a brain without skull.*the scan itself as its mask"):
        ExtractBrain().estimate(scan)


def test_what_was_taken_for_a_stripped_brain_is_said_in_later_errors(stripped_head, monkeypatch):
    def refused(*_, **__):
        raise PreprocessingError("registration to the template failed", remedy="check the brain mask")

    monkeypatch.setattr("blindharmony.preprocessing.recipe.Register.estimate", refused)
    volume = read_volume(stripped_head.data, affine=stripped_head.affine)
    with (
        pytest.raises(PreprocessingError, match=r"noticed before: the skull seemed to be removed.*; no units"),
        noticed(["no units"]),
    ):
        prepare(volume, PrepRecipe(n4=False))


# Values are weighed.


def test_nan_around_a_brain_is_background(psr, tmp_path):
    path = saved(tmp_path / "a.nii.gz", np.where(psr.brain, psr.data, np.nan).astype(np.float32), psr.affine)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data != 0, psr.brain & (psr.data != 0))
    assert any("background" in w and "NaN" in w for w in volume.warnings)
    inside_out = np.where(psr.brain, np.nan, psr.data + 1).astype(np.float32)
    with pytest.raises(InputError, match="NaN or infinite"):
        read_volume(saved(tmp_path / "b.nii.gz", inside_out, psr.affine))


@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.93, 0.995])
@pytest.mark.parametrize("stored", ["i2", "f4"])
def test_wrapped_white_matter_never_passes(psr, tmp_path, quantile, stored):
    scale = 32767 / np.quantile(psr.data[psr.brain], quantile)
    wrapped = (psr.data * scale).round().astype("i8").astype("u2").astype("i2").astype(stored)
    assert (wrapped < 0).any()
    with pytest.raises(InputError, match=r"wrapped.*uint16"):
        read_volume(saved(tmp_path / "w.nii.gz", wrapped, psr.affine))


def test_mp2rage_is_named_and_shifted(psr, tmp_path):
    rng = np.random.default_rng(1)
    head = psr.data > 20
    uni = np.where(head, np.clip(psr.data / psr.data.max(), 0, 1) - 0.5, rng.random(psr.data.shape) - 0.5)
    volume = read_volume(saved(tmp_path / "uni.nii.gz", uni.astype(np.float32), psr.affine))
    assert any("MP2RAGE" in w for w in volume.warnings)
    np.testing.assert_allclose(volume.data, uni + 0.5, atol=1e-6)


def test_small_negative_values_stay_and_are_said(psr, tmp_path):
    data = psr.data + 0.01 * psr.data.max() * np.random.default_rng(2).standard_normal(psr.data.shape)
    volume = read_volume(saved(tmp_path / "n.nii.gz", data.astype(np.float32), psr.affine))
    assert any("negative" in w for w in volume.warnings)
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    with pytest.raises(InputError, match="CT, phase or z-scored"):
        read_volume(saved(tmp_path / "z.nii.gz", (data - data.mean()).astype(np.float32), psr.affine))


# Geometry.


@pytest.mark.parametrize(("kind", "excess"), [(nib.Nifti1Image, 1e-6), (nib.Nifti2Image, 1e-15)])
def test_a_half_turn_whose_quaternion_is_a_rounding_too_long_is_read_and_written(kind, excess, psr, tmp_path):
    image = kind(psr.data, np.diag([-2.0, 2, -2, 1]))
    image.header.set_sform(None, 0)
    image.header.set_qform(np.diag([-2.0, 2, -2, 1]), 1)
    nib.save(image, tmp_path / "half.nii")
    content = bytearray((tmp_path / "half.nii").read_bytes())
    layout = kind.header_class.template_dtype
    header = np.frombuffer(bytes(content[: layout.itemsize]), layout, count=1).copy()
    header["quatern_c"] *= 1 + excess
    assert abs(float(header["quatern_c"][0])) > 1
    content[: layout.itemsize] = header.tobytes()
    (tmp_path / "half.nii").write_bytes(content)
    volume = read_volume(tmp_path / "half.nii")
    np.testing.assert_allclose(volume.affine, np.diag([-2.0, 2, -2, 1]), atol=1e-4)
    result = nib.load(write_like(volume, volume.data, tmp_path / "out.nii.gz"))
    np.testing.assert_allclose(result.affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_the_qform_helps_when_the_sform_is_no_place(psr, tmp_path, bad):
    image = nib.Nifti1Image(psr.data, psr.affine)
    image.set_qform(psr.affine, 1)
    image.set_sform(psr.affine, 1)
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = bad
    path = tmp_path / "q.nii"
    path.write_bytes(nib.Nifti1Image(psr.data, None, image.header).to_bytes())
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, psr.affine, atol=1e-3)
    assert any("qform was used" in w for w in volume.warnings)
    again = read_volume(write_like(volume, volume.data, tmp_path / "again.nii"))
    np.testing.assert_allclose(again.affine, psr.affine, atol=1e-3)
    assert again.warnings == ()


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e-3), (3, 1e3)], ids=["metres", "micrometres"])
def test_declared_units_are_converted(psr, tmp_path, unit, factor):
    affine = np.diag([factor, factor, factor, 1]) @ psr.affine
    volume = read_volume(saved(tmp_path / "u.nii", psr.data, affine, xyzt_units=unit))
    np.testing.assert_allclose(volume.affine, psr.affine, rtol=1e-5, atol=1e-3)
    assert any("converted to millimeters" in w for w in volume.warnings)
    again = read_volume(write_like(volume, volume.data, tmp_path / "again.nii"))
    np.testing.assert_allclose(again.affine, psr.affine, rtol=1e-5, atol=1e-3)
    # Two metres are no voxel: the number was in millimetres all along.
    assumed = read_volume(saved(tmp_path / "v.nii", psr.data, psr.affine, xyzt_units=unit))
    assert any("millimeters were assumed" in w for w in assumed.warnings)


def test_units_without_meaning_are_written_as_millimetres(psr, tmp_path):
    path = saved(tmp_path / "a.nii", psr.data, psr.affine, kind=nib.Nifti2Image, xyzt_units=2**30)
    image = nib.load(path)
    image.affine[:3, 3] = 0
    write_like(read_volume(image), psr.data, tmp_path / "out.nii.gz")
    assert nib.load(tmp_path / "out.nii.gz").header.get_xyzt_units() == ("mm", "unknown")


def test_an_affine_changed_in_memory_is_written(psr, tmp_path):
    image = nib.load(saved(tmp_path / "a.nii", psr.data, psr.affine))
    image.affine[:3, 3] = 0
    volume = read_volume(image)
    again = nib.load(write_like(volume, volume.data, tmp_path / "b.nii"))
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-4)
    assert not again.affine[:3, 3].any()


def test_the_type_wished_for_saving_is_not_the_files(psr, tmp_path):
    image = nib.load(saved(tmp_path / "a.nii", psr.data.astype(np.int16), psr.affine))
    image.set_data_dtype(np.float64)
    np.testing.assert_array_equal(read_volume(image).data, psr.data.astype(np.int16))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_slope_without_intercept_has_intercept_0(psr, tmp_path, name):
    image = nib.Nifti1Image(psr.data.astype(np.int16), psr.affine)
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([2, np.nan], "<f4").tobytes()
    (tmp_path / "plain.nii").write_bytes(content)
    path = tmp_path / name
    if name.endswith(".gz"):
        import gzip

        path.write_bytes(gzip.compress(bytes(content)))
    else:
        path.write_bytes(content)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, 2.0 * psr.data.astype(np.int16))
    assert any("no intercept" in w for w in volume.warnings)


def test_images_of_other_libraries(psr, tmp_path):
    path = saved(tmp_path / "a.nii.gz", psr.data, psr.affine)
    volume = read_volume(SimpleITK.ReadImage(str(path)))
    np.testing.assert_array_equal(volume.data, psr.data)
    np.testing.assert_allclose(volume.affine, psr.affine, atol=1e-3)
    import torch

    tensor = torch.from_numpy(psr.data)
    np.testing.assert_array_equal(read_volume(tensor, affine=psr.affine).data, psr.data)
    assert any("no affine" in w for w in read_volume(tensor).warnings)
    assert any("no affine" in w for w in read_volume(psr.data).warnings)
    assert read_volume(psr.data, affine=psr.affine).warnings == ()
    for odd in (tensor.bfloat16(), tensor.to_sparse()):
        with pytest.raises(InputError, match=r"this tensor; give tensor.to_dense\(\).float\(\)"):
            read_volume(odd, affine=psr.affine)
    with pytest.raises(InputError, match="a list is no scan"):
        read_volume([1, 2])


# Which files: every one is done or listed with its reason.


def touch(root, *places):
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()


def counted(root, **options):
    """The listing of a data set, with the law that every image is in it once."""
    scans, passed_over = bids_scans(root, **options)
    listed = [s.path for s in scans] + [p.path for p in passed_over]
    assert len(listed) == len(set(listed))
    return {s.path.name for s in scans}, {p.path.name: p.why for p in passed_over}


def test_parts_echoes_and_inversions_are_no_scans_of_their_own(tmp_path):
    anat = tmp_path / "sub-01/anat"
    names = [f"sub-01_echo-{n}_T1w.nii.gz" for n in (1, 2, 3, 4)]
    names += [f"sub-01_acq-m_inv-{n}_T1w.nii.gz" for n in (1, 2)]
    names += ["sub-01_part-phase_T1w.nii.gz", "sub-01_part-mag_T1w.nii.gz", "sub-01_T1w.NII.GZ"]
    names += ["sub-01_acq-one_echo-1_T1w.nii.gz"]
    touch(anat, *names)
    scans, why = counted(tmp_path)
    assert scans == {"sub-01_part-mag_T1w.nii.gz", "sub-01_T1w.NII.GZ", "sub-01_acq-one_echo-1_T1w.nii.gz"}
    assert scans | set(why) == set(names)
    assert "phase" in why["sub-01_part-phase_T1w.nii.gz"]
    assert "one echo of several" in why["sub-01_echo-2_T1w.nii.gz"]
    assert "one inversion of several" in why["sub-01_acq-m_inv-1_T1w.nii.gz"]
    # The same lister, whoever asks.
    listing = list_scans([tmp_path])
    assert {p.name for p in listing.scans} == scans
    assert {item.path.name for item in listing.passed_over} == set(why)
    file = tmp_path / "filter.json"
    file.write_text('{"t1w": {"echo": 2}}')
    assert counted(tmp_path, only=read_filter(file))[0] == {"sub-01_echo-2_T1w.nii.gz"}


def test_what_has_two_names_is_done_once_and_said(tmp_path):
    """Equal contents of an annex are one file; devices are passed over by each of their names."""
    (tmp_path / "object").touch()
    for name in ("sub-01", "sub-02"):
        anat = tmp_path / "study" / name / "anat"
        anat.mkdir(parents=True)
        (anat / f"{name}_T1w.nii.gz").symlink_to(tmp_path / "object")
        (anat / f"{name}_run-2_T1w.nii.gz").symlink_to("/dev/null")
    listing = list_scans([tmp_path / "study"])
    assert [scan.name for scan in listing.scans] == ["sub-01_T1w.nii.gz"]
    assert {item.path.name: item.why for item in listing.passed_over} == {
        "sub-01_run-2_T1w.nii.gz": "no regular file",
        "sub-02_run-2_T1w.nii.gz": "no regular file",
        "sub-02_T1w.nii.gz": "another name of sub-01_T1w.nii.gz",
    }


def test_a_folder_that_may_not_be_read_is_not_empty(tmp_path):
    (tmp_path / "sub-01/anat").mkdir(parents=True)
    (tmp_path / "sub-01/anat/sub-01_T1w.nii.gz").touch()
    calls = Faults([tmp_path / "sub-01/anat"])
    with calls.active():
        assert len(list_scans([tmp_path]).scans) == 1
    at = next(k for k, name in enumerate(calls.calls) if name in ("scandir", "listdir"))
    with Faults(calls.folders, at, "EACCES").active(), pytest.raises(NothingFoundError, match="Permission denied"):
        list_scans([tmp_path])


def test_folders_below_images_are_said(tmp_path):
    for name in ("a.nii.gz", "more/b.nii.gz", "out/a_desc-harmonized.nii.gz", "deep/er/c.nii", ".hidden/d.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "visit").mkdir()
    (tmp_path / "visit/IM0001").write_bytes(bytes(128) + b"DICM" + bytes(100))
    listing = list_scans([tmp_path])
    assert [scan.name for scan in listing.scans] == ["a.nii.gz"]
    assert {item.path.name: item.why.split(";")[0] for item in listing.passed_over} == {
        "more": "a folder with images",
        "deep": "a folder with images",
        "visit": "a folder with DICOM",
    }
    both = list_scans([tmp_path, tmp_path / "more"])
    assert [scan.name for scan in both.scans] == ["a.nii.gz", "b.nii.gz"]
    assert "more" not in {item.path.name for item in both.passed_over}


def test_names_in_a_folder_that_are_passed_over_are_said(tmp_path):
    touch(
        tmp_path, "a.nii.gz", "mask_T1.nii.gz", "sub_01_mask_free.nii.gz", "b_desc-harmonized.nii.gz", "c.PAR", "d.mnc"
    )
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    listing = list_scans([tmp_path])
    assert [p.name for p in listing.scans] == ["a.nii.gz"]
    assert len(listing.passed_over) == len(list(tmp_path.iterdir())) - 1
    text = "\n".join(listing.lines())
    for word in ("mask", "earlier run", "PAR/REC", "MINC", "back to itself", "no regular file"):
        assert word in text, word
    with pytest.raises(InputError, match="leads back to itself"):
        read_volume(tmp_path / "loop.nii.gz")
    assert find_scans([tmp_path / "loop.nii.gz"]) == [tmp_path / "loop.nii.gz"]


def test_dicom_is_known_by_its_content(tmp_path):
    for n in range(3):
        (tmp_path / f"IM{n:04}.img").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 50)
    with pytest.raises(NothingFoundError, match="DICOM"):
        list_scans([tmp_path])
    touch(tmp_path, "roi.nii.gz")
    listing = list_scans([tmp_path])
    assert [p.name for p in listing.scans] == ["roi.nii.gz"]
    assert "3 files passed over (DICOM beside other images" in listing.lines()[0]


def test_freesurfer_subjects(tmp_path):
    touch(tmp_path, "s1/mri/orig.mgz", "s2/mri/orig.mgz", "fsaverage/mri/orig.mgz")
    listing = list_scans([tmp_path])
    assert [str(p.relative_to(tmp_path)) for p in listing.scans] == ["s1/mri/orig.mgz", "s2/mri/orig.mgz"]
    assert len(listing.passed_over) == 1
    assert find_scans([tmp_path / "s1"]) == [tmp_path / "s1/mri/orig.mgz"]
    names = [set(result_names(p).values()) for p in listing.scans]
    assert not names[0] & names[1]
    assert output_name(listing.scans[0], "harmonized") == "s1_orig_desc-harmonized.nii.gz"


# Tables.

ROWS = "participant_id\tscanner\nsub-01\tGE Münster\nsub-02 \tn/a\nsub-03\t NaN \nsub-04\t\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_table_is_read_whoever_wrote_it(tmp_path, encoding, ends):
    for n in range(1, 6):
        touch(tmp_path, f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_bytes((ROWS + "sub-09\tX\n").replace("\n", ends).encode(encoding))
    labels, notes = column_of(tmp_path, bids_scans(tmp_path)[0], "scanner")
    assert labels == {"sub-01/anat/sub-01_T1w.nii.gz": "GE Münster"}
    assert any("sub-09" in line for line in notes)
    assert any("sub-05" in line and "sub-02" in line for line in notes)


def test_a_participant_with_two_scanners_is_refused(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tscanner\nsub-01\tGE\nsub-01\tPhilips\n")
    with pytest.raises(InputError, match=r"sub-01 two scanners, 'GE' and 'Philips'"):
        column_of(tmp_path, bids_scans(tmp_path)[0], "scanner")


def test_unknown_is_no_scanner_and_what_does_not_match_is_said(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("scan\tscanner\nx/a.nii.gz\tn/a\nb.nii.gz\tNA\nC.nii.gz\tGE\nd.nii.gz \t GE\n")
    rows = scanner_table(table)
    assert rows == {"a.nii.gz": "", "b.nii.gz": "", "C.nii.gz": "GE", "d.nii.gz": "GE"}
    lines = unmatched(["a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz"], rows)
    assert lines == [
        "1 row of the table names no scan: C.nii.gz",
        "1 scan has no row in the table: c.nii.gz",
        "2 scans have no value in the table: a.nii.gz, b.nii.gz",
    ]
    assert read_table(table)[0] == ("scan", "scanner")


def test_volumes_of_freesurfer_are_told_apart_by_their_subjects(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("scan\tscanner\nsubjects/s1/mri/orig.mgz\tGE\ns2_orig.mgz\tPhilips\n")
    files = [tmp_path / "subjects" / name / "mri" / "orig.mgz" for name in ("s1", "s2", "s3")]
    arguments = argparse.Namespace(group=False, group_table=table, save_scanner=None)
    assert groups_of(arguments, files, Screen(quiet=True)) == {"GE": [files[0]], "Philips": [files[1]]}


# Remedies are held against the files that cause them.


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"/annex/objects/MD5E-s9--x.nii.gz\n", "git-annex", "datalad get"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "web page", "download it again"),
        (b"not a scan at all", "not compressed", "no image"),
    ],
    ids=["annex", "lfs", "html", "text"],
)
def test_what_stands_for_a_scan_is_named(tmp_path, content, what, remedy):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    error = refusal(path)
    assert what in error.what
    assert remedy in error.remedy
    link = tmp_path / "b.nii.gz"
    link.symlink_to("../.git/annex/objects/x/y/gone")
    assert "datalad get" in refusal(link).remedy


def test_a_scan_that_is_not_compressed_can_be_renamed_as_said(psr, tmp_path):
    saved(tmp_path / "a.nii", psr.data, psr.affine)
    wrong = (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    assert refusal(wrong).remedy == "rename it to .nii"
    read_volume(wrong.rename(tmp_path / "a.nii"))


def converted(source, path):
    """What "nib-convert" makes of a file, which comes with nibabel."""
    from nibabel.cmdline.convert import main

    main([str(source), str(path), "--force"])
    return path


def test_analyze_can_be_converted_as_said(psr, tmp_path):
    nib.save(nib.Spm99AnalyzeImage(psr.data.astype(np.int16), psr.affine), tmp_path / "a.img")
    error = refusal(tmp_path / "a.img")
    assert "Analyze" in error.what
    assert "left and right" in error.remedy
    assert "nib-convert a.img a_converted.nii.gz" in error.remedy
    again = read_volume(converted(tmp_path / "a.img", tmp_path / "a_converted.nii.gz"))
    assert again.shape == psr.data.shape


@pytest.mark.parametrize(
    ("name", "what", "partner"),
    [
        ("phantom_EPI_asc_CLEAR_2_1.PAR", "PAR/REC", "phantom_EPI_asc_CLEAR_2_1.REC"),
        ("minc1_1_scale.mnc", "MINC", None),
        ("example4d+orig.HEAD", "AFNI", "example4d+orig.BRIK.gz"),
    ],
)
def test_other_formats_can_be_converted_as_said(tmp_path, name, what, partner):
    for file in filter(None, (name, partner)):
        shutil.copy(NIBABEL / file, tmp_path / file)
    error = refusal(tmp_path / name)
    assert what in error.what
    assert "nib-convert" in error.remedy
    # The example is 4-D or small: what counts is that the next refusal is about that, not about the format.
    image = converted(tmp_path / name, tmp_path / "made.nii.gz")
    assert nib.load(image).shape == nib.load(tmp_path / name).shape


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [("a+orig.BRIK.gz", "AFNI", "nib-convert"), ("a.mnc.gz", "MINC", "nib-convert"), ("a.img.gz", "pair", "gunzip")],
)
def test_other_formats_are_known_when_they_are_compressed(tmp_path, name, what, remedy):
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08")
    touch(tmp_path, "a.nii")
    error = refusal(tmp_path / name)
    assert what in error.what
    assert remedy in error.remedy
    listing = list_scans([tmp_path])
    assert [item.path.name for item in listing.passed_over] == [name]


def test_cifti_is_no_volume(tmp_path):
    shutil.copy(NIBABEL / "row_major.dconn.nii", tmp_path / "a.dconn.nii")
    error = refusal(tmp_path / "a.dconn.nii")
    assert "CIFTI" in error.what or "D, not a volume" in error.what or "series" in error.what


def test_what_reading_noticed_is_part_of_later_errors(psr, tmp_path):
    image = nib.Nifti1Image(psr.data, psr.affine)
    image.header["sform_code"] = image.header["qform_code"] = 0
    volume = read_volume(image)
    with (
        pytest.raises(PreprocessingError, match=r"no brain.*noticed before: .*left and right"),
        noticed(volume.warnings),
    ):
        raise PreprocessingError("no brain was found")


# Out: nothing that is read is replaced.


def test_no_output_is_an_input_by_path_link_or_inode(tmp_path):
    scan = tmp_path / "scan.nii.gz"
    scan.write_text("scan")
    (tmp_path / "link.json").symlink_to(scan)
    os.link(scan, tmp_path / "hard.json")
    (tmp_path / "folder").symlink_to(tmp_path)
    for place in ("scan.nii.gz", "link.json", "hard.json", "folder/scan.nii.gz", "folder/folder/scan.nii.gz"):
        with pytest.raises(OutputError, match="input of the run"):
            check_outputs([tmp_path / "new", tmp_path / place], [None, scan])
        with (
            pytest.raises(OutputError, match="input of the run"),
            written_together([tmp_path / place], overwrite=True, inputs=[scan]),
        ):
            pass
    check_outputs([tmp_path / "other.json"], [scan, tmp_path / "gone"])
    assert scan.read_text() == "scan"


def test_pipes_and_devices_are_no_outputs(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OutputError, match="pipe or a device"):
            write_text(place, "x", overwrite=True)
    with pytest.raises(OutputError, match="same name"):
        write_text(tmp_path, "x", overwrite=True)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTTY, errno.EACCES, errno.EPERM, errno.ENOSYS])
def test_a_disk_without_links_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refused)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(OutputError, match="exists already"):
        write_text(tmp_path / "a.txt", "other")
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF])
def test_a_disk_without_fsync_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    assert write_text(tmp_path / "a.txt", "whole").read_text() == "whole"


def test_every_case_of_the_page_names_its_test():
    root = Path(__file__).parents[2]
    here = "\n".join(line for line in Path(__file__).read_text().splitlines() if line.startswith("def test_"))
    page = (root / "docs/reference/hostile-files.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 5]
    cases = [line.split("|")[4] for line in rows if not line.startswith("| case")]
    assert len(cases) > 30
    for names in cases:
        for name in names.replace("`", "").split(","):
            assert (root / name.strip()).is_file() if "/" in name else name.strip() in here, name


def test_letters_of_old_alphabets_end_no_row_of_a_table(tmp_path):
    table = tmp_path / "scanners.tsv"
    table.write_bytes(
        "scan\tnote\tscanner\r\na.nii\tmoved a bit… rescanned\tGE\rb.nii\t\u2028\tSiemens\n".encode("cp1252", "ignore")
    )
    columns, rows = read_table(table)
    assert columns == ("scan", "note", "scanner")
    assert [(row["scan"], row["scanner"]) for row in rows] == [("a.nii", "GE"), ("b.nii", "Siemens")]
