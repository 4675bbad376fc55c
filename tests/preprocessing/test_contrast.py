"""The bias field found again in another contrast."""

import numpy as np
import pytest

from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.recipe import ChangeContrast, PrepRecipe, prepare, prepare_in_contrast
from blindharmony.preprocessing.steps import Scan


def root(values):
    return np.sqrt(np.maximum(values, 0)).astype(np.float32)


@pytest.fixture(scope="module")
def bent(stripped_head):
    """A head with a strong field, seen through a square."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in stripped_head.data.shape], indexing="ij")
    field = np.exp(0.25 * x - 0.2 * y * z)
    data = np.maximum(stripped_head.data, 0) * field
    plain = read_volume(data.astype(np.float32), affine=stripped_head.affine)
    squared = read_volume((data**2).astype(np.float32), affine=stripped_head.affine)
    return plain, squared


def test_lifting_is_undone(stripped_head):
    scan = Scan(np.maximum(stripped_head.data, 0), stripped_head.affine)
    step = ChangeContrast(root, gain=700.0)
    gain = step.estimate(scan)
    lifted = step.apply(scan, gain)
    np.testing.assert_allclose(lifted.data, np.sqrt(scan.data / 700), rtol=1e-5)
    np.testing.assert_array_equal(step.undo(lifted, gain, scan).data, scan.data)


def test_with_the_right_curve_the_scan_is_prepared_as_the_target_would_be(bent):
    recipe = PrepRecipe(n4_shrink_mm=12)
    wanted, seen = (prepare(v, recipe) for v in bent)
    again = prepare_in_contrast(seen, recipe, root)
    inside = wanted.native.inside() & again.native.inside()

    def off(values):
        found = values[inside] / np.sqrt((values[inside] ** 2).mean())
        return float(np.sqrt(((found - wanted.native.data[inside]) ** 2).mean()))

    assert off(again.native.data) < 0.01
    assert off(again.native.data) < 0.5 * off(root(seen.native.data))
    assert [d.step.key for d in again.history] == ["orient", "brain-mask", "lift", "n4", "gain", "place"]
    np.testing.assert_array_equal(again.to_file_grid(again.native.data).shape, bent[0].data.shape)


def test_it_is_kept(bent, tmp_path, monkeypatch):
    recipe = PrepRecipe(n4_shrink_mm=12)
    seen = prepare(bent[1], recipe)
    first = prepare_in_contrast(seen, recipe, root, cache=tmp_path)
    monkeypatch.setattr("blindharmony.preprocessing.steps.log_bias", None)
    np.testing.assert_array_equal(prepare_in_contrast(seen, recipe, root, cache=tmp_path).scan.data, first.scan.data)
    with pytest.raises(TypeError):
        prepare_in_contrast(seen, recipe, np.abs, cache=tmp_path)
