"""Normalization by tissues: a gain is undone, what fluid tells is taken out, people are kept."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony_benchmark.systems.classical import target_values
from blindharmony_benchmark.systems.tissues import TissueMean, TissueMeans, tissue_means, without_common_factor


def tissues(gain, seed=0):
    """Intensities of three tissues with sharp peaks."""
    rng = np.random.default_rng(seed)
    return gain * np.concatenate([rng.normal(m, 0.04, n) for m, n in ((0.4, 2000), (0.8, 5000), (1.2, 6000))])


@given(gain=st.floats(0.2, 5))
@settings(max_examples=10)
def test_tissue_means_are_found_whatever_the_gain(gain):
    assert tissue_means(tissues(gain)) / gain == pytest.approx([0.4, 0.8, 1.2], abs=0.02)


@pytest.mark.parametrize("system", [TissueMean, TissueMeans])
@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_a_gain_is_undone_and_nothing_else_is_done(system, gain, small):
    head = small.training[0]
    one, two = system().harmonize([head, replace(head, image=gain * head.image)], small)
    assert np.allclose(one, two, atol=1e-4)
    ratio = one[head.mask] / head.image[head.mask]
    assert ratio.std() < 1e-4
    means = tissue_means(one[head.mask & small.target.fit_region])
    wanted = tissue_means(target_values(small.target))
    if system is TissueMean:
        assert means[-1] == pytest.approx(wanted[-1], rel=0.01)
    else:
        assert means @ (wanted - means) == pytest.approx(0, abs=0.02)


def test_what_goes_along_with_control_voxels_is_taken_out_of_all_and_the_rest_is_kept():
    rng = np.random.default_rng(0)
    people = rng.normal(1, 0.1, (12, 300))
    scanner = np.where(np.arange(12) < 6, rng.normal(1, 0.2, 12), rng.normal(0, 0.2, 12))
    effect, control = rng.uniform(0.5, 1, 300), np.arange(300) < 100
    people[:, control] = 1 + rng.normal(0, 0.01, (12, 100))
    voxels = (people + scanner[:, None] * effect).astype(np.float32)
    found = without_common_factor(voxels, control, 6)
    before, after = (
        np.abs((x[:6].mean(0) - x[6:].mean(0)) - (people[:6] - people[6:]).mean(0)) for x in (voxels, found)
    )
    assert after.mean() < 0.1 * before.mean()
    assert np.corrcoef(found[:, 200], people[:, 200])[0, 1] > np.corrcoef(voxels[:, 200], people[:, 200])[0, 1]
