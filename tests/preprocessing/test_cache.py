"""Preparation kept in a folder is the same preparation."""

import numpy as np
import pytest

from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.recipe import PrepRecipe, cache_key, cache_results, cached_results, prepare
from blindharmony.preprocessing.steps import BiasField, CorrectBias, Gain, NormalizeGain


def test_a_kept_preparation_is_taken_instead_of_made_again(stripped_volume, tmp_path, monkeypatch):
    recipe = PrepRecipe(n4_shrink_mm=12)
    first = prepare(stripped_volume, recipe, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("blindharmony.preprocessing.registration.register_affine", None)
    monkeypatch.setattr("blindharmony.preprocessing.steps.log_bias", None)
    again = prepare(stripped_volume, recipe, cache=tmp_path)
    np.testing.assert_array_equal(again.scan.data, first.scan.data)
    np.testing.assert_array_equal(again.scan.inside(), first.scan.inside())
    assert again.summary() == first.summary()


def test_other_inputs_have_other_names(stripped_volume):
    data, affine = stripped_volume.data, stripped_volume.affine
    other = data.copy()
    other[10, 10, 10] += 1
    names = {
        cache_key(data, affine, "recipe", None, None),
        cache_key(other, affine, "recipe", None, None),
        cache_key(data, affine + 1, "recipe", None, None),
        cache_key(data, affine, "another", None, None),
        cache_key(data, affine, "recipe", data > 0, None),
        cache_key(data, affine, "recipe", None, "hd-bet"),
    }
    assert len(names) == 6
    assert cache_key(data.copy(), affine, "recipe", None, None) in names


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00" * 100])
def test_damage_means_not_kept(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    steps = (CorrectBias(), NormalizeGain())
    assert cached_results(path, steps) is None
    cache_results(path, [BiasField(np.arange(3.0), 1.5), Gain(7.0)])
    bias, gain = cached_results(path, steps)
    assert bias.log_bias_sd == 1.5
    assert bias.log_bias.tolist() == [0, 1, 2]
    assert gain == Gain(7.0)
    assert cached_results(path, steps[::-1]) is None, "of other steps"
    assert cached_results(path, steps[:1]) is None
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert cached_results(path, steps) is None
    path.write_bytes(damage + whole[len(damage) : -8])
    assert cached_results(path, steps) is None
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))  # one bit of a number
    assert cached_results(path, steps) is None


def test_a_damaged_folder_is_mended(stripped_volume, tmp_path):
    recipe = PrepRecipe(n4=False)
    prepare(stripped_volume, recipe, cache=tmp_path)
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    prepare(read_volume(stripped_volume), recipe, cache=tmp_path)
    assert file.read_bytes() == whole
