"""The method as an object: what it lists runs, what is added is recorded and undone on the way back."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import given
from scipy import ndimage

from blindharmony.api import Method, harmonize
from blindharmony.errors import UsageError
from blindharmony.harmonization.intensity import CurveMap, Estimate
from blindharmony.harmonization.methods import register_method, unregister_method
from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.brain import ExtractBrain
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.preprocessing.steps import CorrectBias, Gain, NormalizeGain, Scan, Step
from blindharmony.settings import HarmonizeSettings
from heads import scans


@dataclass(frozen=True)
class Box:
    """What is left of the first axis."""

    start: int
    stop: int


class Crop(Step[Box]):
    """Cut off what is empty along the first axis, and one voxel more, so that something is lost."""

    name, result = "crop", Box

    def estimate(self, scan):
        filled = np.flatnonzero((scan.data > 0).any((1, 2)))
        return Box(int(filled[0]) + 1, int(filled[-1])) if filled.size > 3 else Box(0, len(scan.data))

    def apply(self, scan, result):
        affine = scan.affine.copy()
        affine[:3, 3] += affine[:3, 0] * result.start
        part = slice(result.start, result.stop)
        return Scan(scan.data[part].copy(), affine, None if scan.mask is None else scan.mask[part])

    def undo(self, changed, result, before):
        data = before.data.copy()
        data[result.start : result.stop] = changed.data
        return replace(before, data=data)


@dataclass(frozen=True)
class Noise:
    """Of what was taken out, in the scan's units."""

    sd: float


class Denoise(Step[Noise]):
    """A median filter whose noise comes back."""

    name, key, result = "median filter", "median", Noise

    def estimate(self, scan):
        return Noise(float((scan.data - ndimage.median_filter(scan.data, 3)).std()))

    def apply(self, scan, result):
        return replace(scan, data=ndimage.median_filter(scan.data, 3))

    def undo(self, changed, result, before):
        return replace(before, data=changed.data + (before.data - self.apply(before, result).data))


@dataclass(frozen=True)
class Limit:
    """In the scan's units."""

    value: float


class Clip(Step[Limit]):
    """Cut off what is brighter than nine tenths of the brain; what was cut off stands in the scan alone."""

    name, result = "clip", Limit

    def estimate(self, scan):
        return Limit(float(np.quantile(scan.data[scan.inside()], 0.9)))

    def apply(self, scan, result):
        return replace(scan, data=np.minimum(scan.data, np.float32(result.value)))

    def undo(self, changed, result, before):
        return replace(before, data=changed.data + (before.data - self.apply(before, result).data))


@pytest.mark.parametrize("step", [Crop(), Denoise(), Clip()])
@given(scan=scans())
def test_steps_of_these_tests_keep_the_law(step, scan):
    result = step.estimate(scan)
    back = step.undo(step.apply(scan, result), result, scan)
    np.testing.assert_allclose(back.data, scan.data, rtol=1e-5, atol=1e-4 * np.abs(scan.data).max())


@pytest.fixture(scope="module")
def target(tiny_target):
    return replace(tiny_target, digest="0" * 12)


@pytest.fixture(scope="module")
def plain(stripped_volume, target):
    return harmonize(stripped_volume, target)


class TestAddedSteps:
    def test_a_grid_that_was_changed_comes_back(self, stripped_volume, target, plain):
        result = harmonize(
            stripped_volume, target, method=Method.default(target).with_step(Crop(), before="brain mask")
        )
        cut = result.prepared.result(Box)
        assert result.data.shape == result.mask.shape == stripped_volume.data.shape
        assert result.sidecar["Preparation"]["crop"] == {"start": cut.start, "stop": cut.stop}
        assert list(result.sidecar["Preparation"]) == ["orient", "crop", "brain-mask", "gain", "place"]
        assert any(words.startswith("crop: Crop") for words in result.sidecar["Parameters"]["Steps"])
        assert result.mask.sum() < plain.mask.sum()
        # What was cut off has gone through the curve with the rest: the result is that of the whole scan, nearly.
        brain = plain.mask
        assert np.corrcoef(result.data[brain], plain.data[brain])[0, 1] > 0.999
        assert np.abs(result.data - plain.data)[brain].mean() < 0.02 * plain.data[brain].mean()

    def test_what_was_taken_out_comes_back_in_the_targets_units(self, stripped_volume, target, plain):
        result = harmonize(stripped_volume, target, method=Method.default(target).with_step(Denoise(), before="gain"))
        assert result.sidecar["Preparation"]["median"]["sd"] > 0
        brain = ndimage.binary_erosion(plain.mask, iterations=2)
        smooth = ndimage.median_filter(plain.data, 3)
        assert np.abs(result.data - plain.data)[brain].mean() < 0.25 * np.abs(smooth - plain.data)[brain].mean()

    def test_a_limit_in_the_scans_units_is_never_taken_for_one_of_the_targets(self, stripped_volume, target, plain):
        result = harmonize(stripped_volume, target, method=Method.default(target).with_step(Clip(), before="gain"))
        limit = result.prepared.result(Limit).value
        dark = plain.mask & (stripped_volume.data < 0.98 * limit)
        bright = plain.mask & (stripped_volume.data > 1.02 * limit)
        assert bright.sum() > 100
        # Below the limit nothing was taken; above it more than the limit is there again.
        assert abs(result.data[dark].mean() / plain.data[dark].mean() - 1) < 0.02
        assert result.data[bright].mean() > result.data[dark].max()
        assert abs(result.data[bright].mean() / plain.data[bright].mean() - 1) < 0.25

    def test_a_step_whose_code_changed_is_run_again_whatever_the_cache_holds(self, stripped_volume, target, tmp_path):
        def bright(share):
            class Bright(NormalizeGain):
                def estimate(self, scan):
                    return Gain(share * super().estimate(scan).gain)

            return Bright()

        gains = [
            prepare(stripped_volume, PrepRecipe(n4=False).with_step(bright(s), instead_of="gain"), cache=tmp_path).gain
            for s in (1, 2)
        ]
        assert gains[1] == pytest.approx(2 * gains[0])

    def test_a_mask_of_ones_own_is_a_step_like_the_recipes(self):
        mask = np.ones((4, 4, 4), bool)
        assert PrepRecipe().with_step(ExtractBrain(given=mask), instead_of="brain mask").as_trained

    def test_the_default_says_nothing_of_steps(self, plain):
        assert "Steps" not in plain.sidecar["Parameters"]

    def test_a_step_is_replaced(self, stripped_volume):
        class Double(NormalizeGain):
            def estimate(self, scan):
                return Gain(2 * super().estimate(scan).gain)

        recipe = PrepRecipe(n4=False)
        once, twice = (prepare(stripped_volume, r) for r in (recipe, recipe.with_step(Double(), instead_of="gain")))
        assert twice.gain == pytest.approx(2 * once.gain)
        np.testing.assert_allclose(2 * twice.native.data, once.native.data, rtol=1e-6)

    def test_other_steps_are_another_preparation(self):
        recipe = PrepRecipe()
        assert recipe.preparation.as_trained
        added = recipe.with_step(Crop(), after="orientation")
        assert not added.as_trained
        assert [step.name for step in added.steps][:3] == ["orientation", "crop", "brain mask"]

    @pytest.mark.parametrize(
        ("step", "where", "words"),
        [
            (Crop(), {}, "no place"),
            (Crop(), {"before": "gain", "after": "gain"}, "no place"),
            (Crop(), {"before": "denoise"}, "one of orientation, brain mask, bias field, gain, registration"),
            (Crop(), {"after": "registration"}, "registration to the template is the last step"),
            (Crop(), {"instead_of": "registration"}, "last step"),
            (CorrectBias(), {"before": "gain"}, "'n4' already"),
        ],
    )
    def test_a_place_that_makes_no_sense_is_refused(self, step, where, words):
        with pytest.raises(UsageError, match=words):
            PrepRecipe().with_step(step, **where)


class TestMethod:
    def test_it_lists_what_runs(self, target):
        names = [name for name, _ in Method.default(target).steps]
        preparation = ["orientation", "brain mask", "gain", "registration"]
        assert names == ["read", *preparation, "curve", "refinement", "checks", "do no harm", "native space"]
        method = Method.default("ds002748")
        names = [name for name, _ in method.steps]
        assert names[6:] == ["curve", "refinement", "checks", "do no harm", "native space"]
        once = method.updated(bias_again={"rounds": 0}, refine=False)
        assert [name for name, _ in once.steps][6:] == ["curve", "checks", "do no harm", "native space"]
        assert "undone but bias field, gain" in str(method)
        assert "bias field, gain" not in str(method.updated(keep_bias=True))
        assert "other than the defaults" not in str(method)
        assert "other than the defaults: curve.degree=1" in str(method.updated(curve={"degree": 1}))

    def test_settings_stand_in_the_method_alone(self, stripped_volume, target, plain):
        method = Method.default(target, "match", curve={"degree": 1}).updated(seed=5)
        assert method.settings.differences() == {"method": "match", "curve": {"degree": 1}, "seed": 5}
        assert Method.default(target, settings=method.settings) == method
        assert not {"refine", "keep_bias", "bias_rounds"} & {field.name for field in fields(method)}
        result = harmonize(stripped_volume, target, method=method, keep_bias=True)
        assert result.settings == method.settings.updated(keep_bias=True, refine=False)
        assert result.sidecar["Parameters"]["Settings"] == {"Curve": {"Degree": 1}}
        same = harmonize(stripped_volume, target, method=Method.default(target))
        assert (same.settings, same.sidecar) == (plain.settings, plain.sidecar)
        np.testing.assert_array_equal(same.data, plain.data)

    def test_two_places_for_settings_are_refused(self, stripped_volume, target):
        with pytest.raises(UsageError, match="settings of its own"):
            harmonize(stripped_volume, target, HarmonizeSettings(seed=1), method=Method.default(target))

    @pytest.mark.parametrize("options", [{"name": "tenth"}, {"method": "tenth"}, {"refined": False}])
    def test_a_method_or_setting_that_is_none_is_refused(self, target, options):
        with pytest.raises(UsageError, match=r"no method 'tenth'|refined is unknown; did you mean refine"):
            Method.default(target, **options)

    def test_one_that_was_made_for_another_target_is_refused(self, stripped_volume, target):
        with pytest.raises(UsageError, match="otherwise than the target 'tiny' wants"):
            harmonize(stripped_volume, target, method=Method.default("ds002748"))

    def test_a_method_is_added_by_name(self, stripped_volume, target):
        @register_method("tenth", about="Intensities became a tenth.")
        def tenth(image, mask, target, options):
            assert options.settings.seed == 7
            return Estimate(image / 10, intensity_map=CurveMap(np.array([0.0, 1.0]), np.array([0.0, 0.1])))

        try:
            result = harmonize(stripped_volume, target, method="tenth", seed=7)
            assert (result.method, result.sidecar["Method"]) == ("tenth", "tenth")
            assert "tenth" in dict(Method.default(target, "tenth").steps)
            inside = result.prepared.native.inside()
            back = result.prepared.to_file_grid(np.where(inside, result.prepared.native.data, 0))
            np.testing.assert_allclose(result.data[result.mask], 100 * back[result.mask], rtol=1e-4)
            with pytest.raises(UsageError, match="'tenth' already"):
                register_method("tenth", about="Again.")
        finally:
            unregister_method("tenth")
        with pytest.raises(UsageError, match="no method 'tenth'"):
            harmonize(read_volume(stripped_volume), target, method="tenth")
