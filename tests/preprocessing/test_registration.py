"""To the template and back: registration finds the truth, changes arrive where they belong."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from blindharmony.errors import PreprocessingError
from blindharmony.preprocessing.grid import mask_box, sample, sample_inside, shifted, sitk, voxel_map
from blindharmony.preprocessing.registration import Register, Registration, load_template, register_affine
from heads import affines, head_grid, synthetic_brain, template_distance


def register(head):
    return register_affine(head.data, head.affine, head.brain, load_template())


@contextmanager
def threads(count):
    """ITK as it is on a machine with so many cores."""
    process = sitk.ProcessObject
    before = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(before)


class TestRegistration:
    @pytest.mark.parametrize("seed", [1, 2])
    def test_recovers_a_known_affine(self, seed):
        head = synthetic_brain(*head_grid(seed, mm=3.0), seed=seed)
        found = register(head)
        assert found.overlap > 0.97
        assert template_distance(found.matrix, head.to_scan).max() < 2.0

    @pytest.mark.long
    def test_repeats_itself_on_any_machine(self):
        head = synthetic_brain(*head_grid(5, mm=4.0), seed=5)
        with threads(3):
            once = register(head)
        with threads(1):
            again = register(head)
        assert once.matrix.tobytes() == again.matrix.tobytes()

    def test_something_else_than_a_brain_is_refused(self):
        data = np.zeros((60, 60, 60), np.float32)
        data[5:55, 28:32, 28:32] = np.random.default_rng(0).uniform(1, 2, (50, 4, 4))
        with pytest.raises(PreprocessingError, match=r"registration to the template failed.*; check"):
            register_affine(data, np.diag([3.0, 3, 3, 1]), data > 0, load_template())

    @pytest.mark.parametrize("voxels", [0, 1])
    def test_hardly_any_mask_is_refused(self, voxels):
        mask = np.zeros((20, 20, 20), bool)
        mask[10, 10, 10 : 10 + voxels] = True
        with pytest.raises(PreprocessingError, match="check"):
            register_affine(mask.astype(np.float32), np.eye(4), mask, load_template())


@pytest.fixture(scope="module")
def scan():
    return synthetic_brain(*head_grid(6, mm=3.0), seed=6)


@pytest.fixture(scope="module")
def params(scan):
    return Registration(scan.to_scan, 1.0)


@pytest.fixture(scope="module")
def placed(scan, params):
    return Register().apply(scan.masked, params)


class TestPlace:
    def test_lies_on_the_template(self, placed):
        template = load_template()
        assert placed.data.shape == template.data.shape
        np.testing.assert_array_equal(placed.affine, template.affine)
        both = (placed.mask & (template.data > 0)).sum()
        assert 2 * both / (placed.mask.sum() + (template.data > 0).sum()) > 0.97
        assert not placed.data[~placed.mask].any()

    def test_looks_like_the_template(self, placed):
        blurred = ndimage.gaussian_filter(load_template().data, 1.0)
        assert np.corrcoef(placed.data[placed.mask], blurred[placed.mask])[0, 1] > 0.7

    def test_no_change_is_exactly_no_change(self, scan, params, placed):
        back = Register().undo(placed, params, scan.masked)
        assert back.data.tobytes() == scan.data.tobytes()
        np.testing.assert_array_equal(back.affine, scan.affine)
        np.testing.assert_array_equal(back.mask, scan.brain)

    def test_a_constant_change_arrives_as_that_constant(self, scan, params, placed):
        changed = replace(placed, data=np.where(placed.mask, placed.data + 25, 0).astype(np.float32))
        change = Register().undo(changed, params, scan.masked).data - scan.data
        deep = ndimage.binary_erosion(scan.brain, iterations=2)
        np.testing.assert_allclose(change[deep], 25, atol=1e-3)
        assert not change[~scan.brain].any()
        assert change.min() > -1e-3
        assert change.max() < 25 + 1e-3

    def test_a_smooth_change_arrives_in_its_place(self, scan, params, placed):
        # The change is the template's left-right coordinate; in the scan it must be that of the same point.
        template = load_template()
        index = np.indices(template.data.shape, dtype=np.float32)
        ramp = np.where(placed.mask, index[0], 0)
        changed = replace(placed, data=placed.data + ramp)
        change = Register().undo(changed, params, scan.masked).data - scan.data
        to_template = voxel_map(scan.affine, np.linalg.inv(scan.to_scan), template.affine)
        deep = ndimage.binary_erosion(scan.brain, iterations=2)
        expected = np.argwhere(deep) @ to_template[0, :3] + to_template[0, 3]
        np.testing.assert_allclose(change[deep], expected, atol=0.01)


class TestGrid:
    @given(affines(), affines(), affines())
    def test_voxel_maps_chain(self, a, b, c):
        there = voxel_map(b, np.eye(4), c) @ voxel_map(a, np.eye(4), b)
        np.testing.assert_allclose(there, voxel_map(a, np.eye(4), c), atol=1e-6)

    @given(affines(), st.tuples(*[st.integers(0, 5)] * 3))
    def test_a_box_stays_where_it_is(self, affine, start):
        moved = shifted(affine, tuple(slice(s, s + 3) for s in start))
        np.testing.assert_allclose(moved[:3, 3], affine[:3, :3] @ start + affine[:3, 3], atol=1e-9)

    @given(st.tuples(*[st.integers(1, 8)] * 3), st.integers(0, 3), st.integers(0, 99))
    def test_box_and_what_is_left_make_the_whole(self, shape, margin, seed):
        mask = np.random.default_rng(seed).uniform(size=shape) > 0.8
        mask.flat[seed % mask.size] = True
        box, around = mask_box(mask, margin)
        assert mask[box].sum() == mask.sum()
        assert np.pad(mask[box], around).shape == mask.shape
        np.testing.assert_array_equal(np.pad(mask[box], around), mask)

    def test_sampling_on_the_same_grid_changes_nothing(self):
        data = np.random.default_rng(0).uniform(size=(5, 6, 7)).astype(np.float32)
        np.testing.assert_allclose(sample(data, np.eye(4), data.shape), data, atol=1e-6)

    @given(affines(), affines(), st.integers(0, 99))
    def test_sampling_is_linear_as_elsewhere_whatever_the_number_of_threads(self, one, other, seed):
        data = np.random.default_rng(seed).uniform(size=(6, 7, 5)).astype(np.float32)
        to_voxels, shape = voxel_map(one, np.eye(4), other), (9, 8, 7)
        to_voxels[:3, 3] += np.array(data.shape) / 2 - (to_voxels @ [4, 4, 3, 1])[:3]
        found = sample(data, to_voxels, shape)
        with threads(1):
            np.testing.assert_array_equal(sample(data, to_voxels, shape), found)
        elsewhere = ndimage.affine_transform(data, to_voxels[:3, :3], to_voxels[:3, 3], shape, order=1)
        at = np.moveaxis(np.indices(shape), 0, -1) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        inside = ((at > 1e-6) & (at < np.array(data.shape) - 1 - 1e-6)).all(-1)
        assert inside.any()
        np.testing.assert_allclose(found[inside], elsewhere[inside], atol=1e-5)

    @given(st.integers(0, 99), st.tuples(*[st.floats(-0.5, 0.5)] * 3))
    def test_a_constant_inside_a_mask_keeps_its_value_up_to_the_edge(self, seed, shift):
        mask = np.random.default_rng(seed).uniform(size=(8, 9, 10)) > 0.5
        to_voxels = np.eye(4)
        to_voxels[:3, 3] = shift
        value, inside = sample_inside(np.full(mask.shape, 7, np.float32), mask, to_voxels, mask.shape)
        np.testing.assert_allclose(value[inside], 7, rtol=1e-5)
        assert not value[~inside].any()
