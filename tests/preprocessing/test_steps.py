"""Every step keeps its law: undoing what was applied gives the scan back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes

from blindharmony.errors import PreprocessingError
from blindharmony.preprocessing.bias import log_bias
from blindharmony.preprocessing.brain import ExtractBrain
from blindharmony.preprocessing.steps import BiasField, CorrectBias, NormalizeGain, Reorient, Scan
from heads import affines, head_grid, scans, smooth_field, synthetic_brain


def same(a: Scan, b: Scan, *, rtol: float = 0.0):
    np.testing.assert_allclose(a.data, b.data, rtol=rtol, atol=0)
    np.testing.assert_array_equal(a.affine, b.affine)
    np.testing.assert_array_equal(a.inside(), b.inside())
    assert a.data.dtype == np.float32
    assert (a.mask is None) == (b.mask is None)


def there_and_back(step, scan, result=None):
    result = result or step.estimate(scan)
    return step.undo(step.apply(scan, result), result, scan)


class TestLaw:
    @given(scans())
    def test_orient(self, scan):
        step = Reorient()
        same(there_and_back(step, scan), scan)

    @given(scans())
    def test_brain_mask(self, scan):
        step = ExtractBrain(given=scan.mask)
        bare = replace(scan, mask=None)
        same(there_and_back(step, bare), bare)

    @given(scans())
    def test_gain(self, scan):
        step = NormalizeGain()
        same(there_and_back(step, scan), scan, rtol=1e-6)

    @given(scans(), st.integers(0, 99), st.floats(0, 1))
    def test_bias(self, scan, seed, strength):
        field = strength * smooth_field(scan.data.shape, np.random.default_rng(seed))
        same(there_and_back(CorrectBias(), scan, BiasField(field.astype(np.float32), 0.1)), scan, rtol=1e-5)

    def test_bias_that_n4_found(self, stripped_head):
        scan, step = stripped_head.masked, CorrectBias(shrink_mm=12)
        same(there_and_back(step, scan), scan, rtol=1e-6)


class TestOrient:
    @given(scans())
    def test_axes_point_right_anterior_superior(self, scan):
        step = Reorient()
        assert aff2axcodes(step.apply(scan, step.estimate(scan)).affine) == ("R", "A", "S")

    @given(scans(), st.randoms())
    def test_every_voxel_stays_where_it_is_in_the_world(self, scan, random):
        # A scan whose intensities are its own world coordinates, one axis at a time.
        index = np.indices(scan.data.shape).reshape(3, -1)
        world = scan.affine[:3, :3] @ index + scan.affine[:3, 3:]
        step = Reorient()
        for axis in range(3):
            image = replace(scan, data=world[axis].reshape(scan.data.shape).astype(np.float32))
            turned = step.apply(image, step.estimate(image))
            at = [random.randrange(n) for n in turned.data.shape]
            expected = turned.affine[axis, :3] @ at + turned.affine[axis, 3]
            assert turned.data[tuple(at)] == pytest.approx(expected, abs=1e-3)

    @given(scans())
    def test_twice_is_once(self, scan):
        step = Reorient()
        once = step.apply(scan, step.estimate(scan))
        same(step.apply(once, step.estimate(once)), once)

    @given(affines())
    def test_params_name_the_axes(self, affine):
        scan = Scan(np.ones((2, 3, 4), np.float32), affine)
        assert Reorient().estimate(scan).axes == "".join(aff2axcodes(affine))


class TestGain:
    @given(scans(), st.floats(1e-3, 1e3))
    def test_scaling_the_scan_changes_only_the_gain(self, scan, factor):
        step = NormalizeGain()
        scaled = replace(scan, data=(scan.data * np.float32(factor)))
        before, after = step.estimate(scan), step.estimate(scaled)
        assert after.gain == pytest.approx(factor * before.gain, rel=1e-5)
        same(step.apply(scaled, after), step.apply(scan, before), rtol=1e-5)

    @given(scans(smallest=4))
    def test_only_the_mask_counts(self, scan):
        outside = replace(scan, data=np.where(scan.mask, scan.data, 1e6).astype(np.float32))
        assert NormalizeGain().estimate(outside) == NormalizeGain().estimate(scan)

    def test_rms_becomes_one(self):
        data = np.random.default_rng(0).uniform(100, 900, (20, 21, 22)).astype(np.float32)
        scan = Scan(data, np.eye(4))
        out = NormalizeGain().apply(scan, NormalizeGain().estimate(scan)).data
        assert np.sqrt(np.square(out).mean()) == pytest.approx(1, abs=1e-3)

    def test_a_few_bright_voxels_do_not_count(self):
        data = np.random.default_rng(0).uniform(100, 900, (20, 21, 22)).astype(np.float32)
        calm = NormalizeGain().estimate(Scan(data, np.eye(4))).gain
        data[0, 0, :4] = 1e6
        assert NormalizeGain().estimate(Scan(data, np.eye(4))).gain == pytest.approx(calm, rel=1e-2)

    def test_a_dark_brain_is_refused(self):
        with pytest.raises(PreprocessingError, match="no voxel of the brain is positive; check the mask"):
            NormalizeGain().estimate(Scan(np.full((3, 3, 3), -1, np.float32), np.eye(4)))


@pytest.fixture(scope="module")
def head():
    return synthetic_brain(*head_grid(1, mm=2.5), seed=1, bias=0.35)


@pytest.fixture(scope="module")
def found(head):
    return log_bias(head.data, head.scan.spacing, head.brain, method="n4-itk", cell_mm=8)


class TestN4:
    def test_finds_a_known_field(self, head, found):
        estimate, truth = found[head.brain], head.log_bias[head.brain]
        assert np.corrcoef(estimate, truth)[0, 1] > 0.9
        assert (truth - estimate).std() < 0.4 * truth.std()

    def test_covers_the_whole_scan_and_has_mean_zero_in_the_brain(self, head, found):
        assert found.shape == head.data.shape
        assert np.isfinite(found).all()
        assert abs(float(found[head.brain].mean())) < 1e-3

    def test_a_scalp_changes_little(self):
        """Not nothing: cells of the shrunk image at the brain's rim are partly scalp."""
        whole = synthetic_brain(*head_grid(1, mm=2.5), seed=1, bias=0.35, skull=True)
        brain = whole.brain
        alone = np.where(brain, whole.data, 0)
        a, b = (log_bias(x, (2.5,) * 3, brain, method="n4-itk", cell_mm=8)[brain] for x in (alone, whole.data))
        assert (a - b).std() < 0.1 * a.std()

    def test_a_dark_mask_is_refused(self, head):
        with pytest.raises(PreprocessingError, match="positive voxels"):
            log_bias(np.zeros_like(head.data), (2.5,) * 3, head.brain, method="n4-itk")


def test_a_brain_thinner_than_the_grid_of_the_field_is_an_error_in_words():
    data = np.ones((60, 60, 4), np.float32)
    with pytest.raises(PreprocessingError, match="fills only 0 cells of 4 mm; check the mask"):
        log_bias(data, (0.2, 0.2, 0.2), data > 0, method="n4-itk")
