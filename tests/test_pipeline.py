"""The method from end to end on synthetic heads: what every user relies on."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from blindharmony.api import harmonize, prepared_for, summarize_scan
from blindharmony.errors import InputError, OutputError, ScannerError, UsageError
from blindharmony.files import file_sha256
from blindharmony.harmonization.intensity import CurveMap, ErrorBar
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import rank_features
from blindharmony.io.volume import read_volume
from blindharmony.models.person import PersonModel
from blindharmony.preprocessing.recipe import Applied
from blindharmony.preprocessing.registration import load_template
from blindharmony.preprocessing.steps import BiasField, CorrectBias
from blindharmony.report.scan import gauges
from blindharmony.result import scan_evidence
from heads import written


@pytest.fixture(scope="module")
def scan_file(stripped_head, tmp_path_factory):
    """The oblique stripped head as int16 with a slope, scanner and aligned codes, and a trailing axis."""
    path = tmp_path_factory.mktemp("scan") / "sub-01_T1w.nii.gz"
    return written(path, stripped_head.data, stripped_head.affine)


@pytest.fixture(scope="module")
def result(scan_file, tiny_target):
    return harmonize(scan_file, tiny_target)


def test_the_result_lies_exactly_on_the_scan(result, scan_file, tmp_path):
    before, after = nib.load(scan_file), nib.load(result.save(tmp_path)[0])
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    for part in ("qform", "sform"):
        a, b = (getattr(i.header, f"get_{part}")(coded=True) for i in (after, before))
        np.testing.assert_array_equal(a[0], b[0])
        assert int(a[1]) == int(b[1])
    assert after.header.get_xyzt_units() == before.header.get_xyzt_units()
    assert after.header.get_data_dtype() == np.float32


def test_a_gpu_would_not_be_asked_to_round(scan_file, tiny_target):
    exact = []
    harmonize(scan_file, tiny_target, progress=lambda *_: exact.append(not torch.backends.cudnn.allow_tf32))
    assert exact
    assert all(exact)
    assert torch.backends.cudnn.allow_tf32  # what others compute is theirs


def test_a_damaged_qform_and_unknown_units_are_no_reason_to_fail(result):
    header = result.source.template.header.copy()
    header["quatern_b"], header["xyzt_units"] = 3, 6
    template = replace(result.source.template, header=header)
    damaged = replace(result, source=replace(result.source, template=template))
    np.testing.assert_array_equal(damaged.image.get_sform(), result.image.get_sform())


def test_saving_writes_four_files_and_never_overwrites(result, tmp_path):
    files = result.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "sub-01_desc-brain_mask.nii.gz",
        "sub-01_desc-harmonized_T1w.html",
        "sub-01_desc-harmonized_T1w.json",
        "sub-01_desc-harmonized_T1w.nii.gz",
    ]
    sidecar = json.loads(files[-1].read_text())
    assert sidecar["Target"]["Name"] == "tiny"
    assert sidecar["Method"] == "curve"
    assert len(sidecar["SourceSHA256"]) == 64
    with pytest.raises(OutputError, match="overwrite"):
        result.save(tmp_path)
    result.save(tmp_path, overwrite=True)


def test_a_mask_may_be_an_array_on_the_scans_grid(stripped_head, scan_file, tiny_target):
    mask = ndimage.binary_erosion(stripped_head.brain, iterations=2)
    prepared = prepared_for(tiny_target, read_volume(scan_file), mask=mask)
    assert prepared.brain_mask.source == "given"
    np.testing.assert_array_equal(prepared.to_file_grid(prepared.native.inside().astype(np.float32)) > 0.5, mask)


def test_a_mask_without_the_lower_third_is_told_from_registration_to_verdict(scan_file, stripped_head, tiny_target):
    up = stripped_head.affine[2, :3]
    axis = int(np.abs(up).argmax())
    height = np.indices(stripped_head.brain.shape)[axis] * np.sign(up[axis])
    low, high = height[stripped_head.brain].min(), height[stripped_head.brain].max()
    cut = harmonize(scan_file, tiny_target, mask=stripped_head.brain & (height > low + 0.35 * (high - low)))
    overlap = cut.sidecar["Preparation"]["place"]["overlap"]
    assert 0.8 < overlap < 0.9
    assert any("overlap" in warning and f"{overlap:.2f}" in warning for warning in cut.warnings)
    assert cut.verdict.level != "good"


def test_zero_outside_a_stripped_brain_stays_zero(result, stripped_head):
    assert (result.data[stripped_head.data == 0] == 0).all()


def test_intensity_order_is_kept(result, stripped_head):
    inside = result.mask
    source, out = result.source.data[inside], result.data[inside]
    order = np.argsort(source, kind="stable")
    assert (np.diff(out[order]) >= -1e-2).all()


def test_the_result_has_the_targets_intensities(result, tiny_target):
    region = result.prepared.scan.inside() & tiny_target.fit_region
    curve = np.quantile(result.estimate.image[region], tiny_target.levels)
    assert np.abs(curve - tiny_target.quantiles.mean(0)).max() < 1e-3


@pytest.mark.parametrize("change", [lambda x: 37.0 * x, lambda x: x**1.5, lambda x: np.log1p(3 * x)])
def test_monotone_changes_of_the_source_do_not_matter(change, stripped_head, tiny_target):
    unit = stripped_head.data.max()
    data = change(np.maximum(stripped_head.data, 0) / unit).astype(np.float32)
    again = harmonize(data_image(data, stripped_head.affine), tiny_target)
    reference = harmonize(data_image(stripped_head.data, stripped_head.affine), tiny_target)
    inside = reference.mask & again.mask
    difference = np.abs(again.data - reference.data)[inside].mean() / reference.data[inside].mean()
    # Not exact: interpolation sees the changed scan.
    assert difference < 0.005


def test_a_scan_with_the_targets_own_intensities_is_left_alone(stripped_head, tiny_target):
    first = harmonize(data_image(stripped_head.data, stripped_head.affine), tiny_target)
    again = harmonize(data_image(first.data, stripped_head.affine), tiny_target)
    inside = first.mask
    assert np.abs(again.data - first.data)[inside].mean() < 0.01 * first.data[inside].mean()


def test_equal_seeds_give_equal_bytes(scan_file, tiny_target, tmp_path):
    files = [harmonize(scan_file, tiny_target, seed=3).save(tmp_path / str(i)) for i in range(2)]
    assert {file.suffix for file in files[0]} == {".gz", ".html", ".json"}
    for a, b in zip(*files, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_arrays_images_and_paths_are_alike(scan_file, stripped_head, tiny_target, result):
    image = nib.load(scan_file)
    np.testing.assert_allclose(harmonize(image, tiny_target).data, result.data, rtol=1e-4, atol=1e-2)
    assert result.image.shape == result.data.shape
    # An array has no orientation of its own: one in RAS+ order at 1 mm is understood.
    brain = load_template().data
    assert harmonize(brain, tiny_target, method="match").data.shape == brain.shape


def test_outside_the_brain_the_curve_goes_on(whole_head, tiny_target):
    found = harmonize(
        data_image(whole_head.data, whole_head.affine),
        tiny_target,
        mask=data_image(whole_head.brain.astype(np.float32), whole_head.affine),
    )
    outside = (whole_head.data > 0) & ~whole_head.brain
    source, out = whole_head.data[outside], found.data[outside]
    assert (np.diff(out[np.argsort(source, kind="stable")]) >= -1e-2).all()
    assert (out > 0).mean() > 0.99
    assert found.sidecar["SkullStripped"] is False


def test_a_mask_of_another_shape_is_refused(scan_file, tiny_target):
    with pytest.raises(InputError, match="mask"):
        harmonize(scan_file, tiny_target, mask=np.pad(np.ones((20, 20, 20)), 2))


def test_unknown_methods_and_devices_are_named(scan_file, tiny_target):
    with pytest.raises(UsageError, match="match"):
        harmonize(scan_file, tiny_target, method="magic")
    with pytest.raises(UsageError, match="--device"):
        harmonize(scan_file, tiny_target, device="tpu")
    with pytest.raises(UsageError, match="slice flow"):
        harmonize(scan_file, tiny_target, method="latent")


def test_without_a_flow_the_default_is_histogram_matching(scan_file, tiny_target):
    plain = replace(tiny_target, pyramid=None, info=tiny_target.info.model_copy(update={"pyramid": None}))
    a, b = harmonize(scan_file, plain), harmonize(scan_file, tiny_target, method="match")
    np.testing.assert_array_equal(a.data, b.data)
    assert a.after.typicality is None


def test_a_person_model_moves_the_curve_of_a_known_head(scan_file, tiny_target, result):
    levels, plain = tiny_target.levels, tiny_target.quantiles
    region = result.prepared.scan.inside() & tiny_target.fit_region
    matched = np.where(region, result.estimate.image, 0).astype(np.float32)
    own = rank_features(matched, region, tiny_target.atlas)
    rows = own + np.array([0.0, 1.0, -1.0])[:, None] * np.linspace(0.5, 1, own.size)
    curves = tiny_target.mean_curve * np.array([1.2, 0.9, 0.9])[:, None]
    knows = replace(tiny_target, person=PersonModel(rows, curves, np.arange(3)))
    # Three made-up people prove little, and the curve is used as far as it is sure: here, all of it.
    moved = harmonize(scan_file, knows, on_harm="result", curve={"evidence": 0})
    found = np.quantile(moved.estimate.image[region], levels)
    assert 1.1 < found[64] / plain.mean(0)[64] < 1.2
    assert float(moved.figures["surprise"]) < 0.2


def data_image(data, affine):
    return nib.Nifti1Image(np.asarray(data, np.float32), affine)


def test_the_curve_of_another_scanner_is_a_reason_to_look(scan_file, tiny_target):
    at = np.linspace(0.01, 3, 300)
    other = ScannerModel(CurveMap.through(at, 2 * at**2), 4, tiny_target.digest, 0.0)
    alone, wrong = harmonize(scan_file, tiny_target), harmonize(scan_file, tiny_target, scanner=other)
    assert any("away from the target's" in w for w in wrong.warnings)
    assert wrong.verdict.level != "good"
    assert not any("away from the target's" in w for w in alone.warnings)
    assert repr(alone).startswith("<HarmonizeResult of ")
    assert len(repr(alone)) < 150 > len(repr(tiny_target))


def test_the_error_bar_goes_with_a_bias_field_that_is_put_back(result, tmp_path):
    bar = ErrorBar(np.array([0.0, 2.0]), np.array([0.01, 0.2]))
    plain = replace(result, estimate=replace(result.estimate, error=bar))
    last = result.prepared.history[-1]
    field = np.full(result.prepared.native.data.shape, np.log(2), np.float32)
    history = (*result.prepared.history[:-1], Applied(CorrectBias(), BiasField(field, 0.0), last.before), last)
    lit = replace(
        plain,
        data=2 * result.data,
        prepared=replace(result.prepared, history=history),
        settings=result.settings.updated(keep_bias=True),
    )
    assert plain.uncertainty.max() > 0
    np.testing.assert_allclose(lit.uncertainty, 2 * plain.uncertainty, rtol=1e-4)
    files = plain.save(tmp_path, report=False, uncertainty=True)
    (bar,) = (file for file in files if "desc-harmonizedSD" in file.name)
    written = nib.load(bar).get_fdata(dtype=np.float32).reshape(plain.uncertainty.shape)
    np.testing.assert_array_equal(written, plain.uncertainty)
    assert json.loads(files[-1].read_text())["Results"][bar.name] == file_sha256(bar)


def test_the_report_calls_usual_what_the_verdict_calls_usual(result):
    evidence = scan_evidence(result)
    drawn = gauges(evidence, [check.name for check in result.verdict.checks])
    limited = [check for check in result.verdict.checks if check.judged and check.limit]
    assert [(g.low, g.high, g.within) for g in drawn] == [(*c.limit, c.severity == 0) for c in limited]


def test_the_curve_of_another_target_is_refused(stripped_volume, tiny_target):
    at = np.linspace(0, 2, 9)
    other = ScannerModel(CurveMap.through(at, at**2), 4, "another", 0.0)
    with pytest.raises(ScannerError, match=r"fitted for another target \(another"):
        harmonize(stripped_volume, tiny_target, scanner=other)
    with pytest.raises(ScannerError, match="fitted for another target"):
        summarize_scan(stripped_volume, tiny_target, scanner=other)


def test_trouble_with_a_mask_is_the_masks(scan_file, stripped_head, tiny_target):
    with pytest.raises(InputError, match="the mask cannot be used: every voxel of the mask is 0"):
        harmonize(scan_file, tiny_target, mask=np.zeros(stripped_head.data.shape))


def test_how_far_a_curve_goes_is_weighed_for_the_scan_as_it_came_and_not_for_what_is_left(scan_file, tiny_target):
    curves = tiny_target.mean_curve * np.array([1.2, 0.9, 0.9])[:, None]
    people = PersonModel(np.linspace(0, 1, 48) + np.arange(3)[:, None], curves, np.arange(3))
    recipe = tiny_target.info.recipe.model_copy(update={"n4": True, "bias": "entropy"})
    info = tiny_target.info.model_copy(update={"recipe": recipe})
    knows = replace(tiny_target, info=info, person=people)

    def harmonized(evidence, **bias_again):
        words = {"curve": {"evidence": evidence}, "bias_again": bias_again}
        return harmonize(scan_file, knows, on_harm="result", refine=False, **words)

    # Nothing counts as evidence: the scan stays as it was prepared.
    never = harmonized(100)
    inside = never.prepared.scan.inside()
    assert not never.prepared.in_contrast
    np.testing.assert_allclose(never.estimate.image[inside], never.prepared.scan.data[inside], rtol=1e-5)
    assert np.abs(harmonized(0).estimate.image - never.estimate.image)[inside].max() > 0.01
    # An earlier curve has put it into the target's contrast: what is left is taken whole.
    whole, left = (harmonized(e, entropy_rounds=1, sure=0) for e in (0, 100))
    assert whole.prepared.in_contrast
    np.testing.assert_array_equal(whole.estimate.image, left.estimate.image)


@pytest.mark.parametrize("extension", [".nii.gz", ".mgz"])
def test_the_image_in_memory_lies_where_the_file_does(extension, stripped_head, tiny_target, tmp_path):
    kind = nib.MGHImage if extension == ".mgz" else nib.Nifti1Image
    nib.save(kind(stripped_head.data, stripped_head.affine), tmp_path / f"a{extension}")
    result = harmonize(tmp_path / f"a{extension}", tiny_target, method="match")
    file = nib.load(result.save(tmp_path / "out", name="a.nii.gz", report=False)[0])
    np.testing.assert_array_equal(result.image.dataobj, file.dataobj)
    np.testing.assert_allclose(result.image.affine, file.affine, atol=1e-5)
    for name in ("qform_code", "sform_code", "xyzt_units"):
        assert result.image.header[name] == file.header[name]
    np.testing.assert_allclose(result.image.header["srow_x"], file.header["srow_x"], atol=1e-5)


def test_voxels_in_memory_are_not_those_of_the_file_they_were_saved_to(stripped_head, tiny_target, tmp_path):
    image = nib.Nifti1Image(stripped_head.data.copy(), stripped_head.affine)
    nib.save(image, tmp_path / "saved.nii.gz")
    image.dataobj[:] *= 2
    (tmp_path / "saved.nii.gz").unlink()
    result = harmonize(image, tiny_target, method="match")
    result.save(tmp_path / "out", report=False)
    assert result.source_sha256 is None
    loaded = nib.Nifti1Image(stripped_head.data, stripped_head.affine)
    nib.save(loaded, tmp_path / "b.nii.gz")
    made = harmonize(nib.load(tmp_path / "b.nii.gz"), tiny_target, method="match")
    assert made.source_sha256 == file_sha256(tmp_path / "b.nii.gz")


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(stripped_volume, tiny_target, tmp_path):
    (tmp_path / "file").write_text("")
    plain = harmonize(stripped_volume, tiny_target, method="match")
    for cache in (tmp_path / "file" / "below", str(tmp_path / "new")):
        assert np.array_equal(harmonize(stripped_volume, tiny_target, method="match", cache=cache).data, plain.data)
    assert list((tmp_path / "new").iterdir())
