"""The whole preparation: what it does with a scan, records, and refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes
from pydantic import ValidationError

from blindharmony.errors import InputError
from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.recipe import FirstGain, PrepRecipe, prepare
from blindharmony.preprocessing.steps import Scan
from heads import template_distance

QUICK = PrepRecipe(n4_shrink_mm=12)
NO_N4 = PrepRecipe(n4=False)


@pytest.fixture(scope="module")
def prepared(stripped_volume):
    return prepare(stripped_volume, QUICK)


class TestPrepare:
    def test_steps_come_in_order(self, prepared):
        assert [d.step.key for d in prepared.history] == ["orient", "brain-mask", "n4", "gain", "place"]

    def test_ends_on_the_template_where_the_head_is(self, prepared, stripped_head):
        assert prepared.scan.data.shape == (160, 192, 160)
        assert prepared.scan.data.dtype == np.float32
        assert np.isfinite(prepared.scan.data).all()
        assert template_distance(prepared.registration.matrix, stripped_head.to_scan).mean() < 1.5
        assert prepared.registration.overlap > 0.97

    def test_root_mean_square_is_one(self, prepared):
        values = prepared.native.data[prepared.native.mask]
        assert np.sqrt(np.square(values).mean()) == pytest.approx(1, abs=0.01)

    def test_native_is_the_scan_before_resampling(self, prepared, stripped_head):
        native = prepared.native
        assert aff2axcodes(native.affine) == ("R", "A", "S")
        assert sorted(native.data.shape) == sorted(stripped_head.data.shape)
        np.testing.assert_array_equal(prepared.to_file_grid(native.mask.astype(np.float32)) > 0, stripped_head.brain)

    def test_all_steps_undone_give_the_scan(self, prepared, stripped_head):
        scan = prepared.scan
        for done in reversed(prepared.history):
            scan = done.step.undo(scan, done.result, done.before)
        np.testing.assert_allclose(scan.data, stripped_head.data, rtol=1e-5)
        np.testing.assert_array_equal(scan.affine, stripped_head.affine)
        assert scan.mask is None

    def test_summary_fits_in_a_sidecar(self, prepared):
        summary = json.loads(json.dumps(prepared.summary()))
        assert summary["orient"]["axes"] == "PIR"
        assert summary["brain-mask"] == {"source": "stripped"}
        assert summary["n4"]["log_bias_sd"] > 0.05
        assert np.shape(summary["place"]["matrix"]) == (4, 4)

    def test_a_step_that_was_not_run_has_no_result(self, prepared):
        with pytest.raises(LookupError, match="no preparation step gave a FirstGain"):
            prepared.result(FirstGain)
        without = replace(prepared, history=prepared.history[:2])
        assert without.bias_field is None
        with pytest.raises(LookupError, match="Registration"):
            _ = without.registration
        with pytest.raises(LookupError, match="Gain"):
            _ = without.gain

    def test_scaling_the_scan_changes_only_the_gain(self, stripped_head, prepared):
        scaled = prepare(read_volume(4 * stripped_head.data, affine=stripped_head.affine), QUICK)
        assert scaled.gain == pytest.approx(4 * prepared.gain, rel=1e-3)
        np.testing.assert_allclose(scaled.scan.data, prepared.scan.data, atol=0.02)

    def test_repeats_itself(self, stripped_volume, prepared):
        again = prepare(stripped_volume, QUICK)
        assert again.scan.data.tobytes() == prepared.scan.data.tobytes()
        assert again.scan.mask.tobytes() == prepared.scan.mask.tobytes()


class TestGivenMask:
    def test_turns_with_the_scan(self, whole_head):
        volume = read_volume(whole_head.data, affine=whole_head.affine)
        prepared = prepare(volume, NO_N4, mask=whole_head.masked)
        assert prepared.brain_mask.source == "given"
        np.testing.assert_array_equal(
            prepared.to_file_grid(prepared.native.mask.astype(np.float32)) > 0, whole_head.brain
        )
        assert template_distance(prepared.registration.matrix, whole_head.to_scan).mean() < 1.5

    def test_elsewhere_is_refused(self, whole_head):
        volume = read_volume(whole_head.data, affine=whole_head.affine)
        mirrored = replace(whole_head.masked, affine=whole_head.affine @ np.diag([-1.0, 1, 1, 1]))
        with pytest.raises(InputError, match="the mask lies elsewhere than the scan"):
            prepare(volume, NO_N4, mask=mirrored)

    def test_of_another_size_is_refused(self, whole_head):
        volume = read_volume(whole_head.data, affine=whole_head.affine)
        small = Scan(whole_head.data[:-1], whole_head.affine, whole_head.brain[:-1])
        with pytest.raises(InputError, match="the mask has"):
            prepare(volume, NO_N4, mask=small)


class TestRecipe:
    def test_digest_tells_recipes_apart(self):
        recipes = [PrepRecipe(), PrepRecipe(n4=False), PrepRecipe(n4_shrink_mm=5)]
        assert len({r.digest() for r in recipes}) == len(recipes)
        assert PrepRecipe().digest() == PrepRecipe().digest()

    def test_survives_json(self):
        assert PrepRecipe.model_validate_json(QUICK.model_dump_json()) == QUICK

    @pytest.mark.parametrize("wrong", [{"gain": "median"}, {"n5": True}, {"n4_shrink_mm": "wide"}])
    def test_unknown_settings_are_refused(self, wrong):
        with pytest.raises(ValidationError):
            PrepRecipe(**wrong)
