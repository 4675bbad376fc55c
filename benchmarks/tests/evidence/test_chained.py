"""Matching with one more step: each step does what it is for, and nothing where there is nothing to do."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony.harmonization.summary import source_quantiles
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.preprocessing.registration import load_template
from blindharmony.preprocessing.steps import Scan
from blindharmony.quality.metrics import psnr
from blindharmony_benchmark.heads import inside_of, prepared_with
from blindharmony_benchmark.system import Picture
from blindharmony_benchmark.systems.chained import PooledPowerMatch, PowerMatch, exponent, to_the_power
from blindharmony_benchmark.systems.classical import CorrectedMatch
from heads import smooth_field


@settings(max_examples=10)
@given(power=st.floats(0.4, 2.5), gain=st.floats(0.1, 10))
def test_the_exponent_of_a_scanner_is_found(pictures, tiny_target, power, gain):
    quantiles = source_quantiles(pictures[0].image, pictures[0].mask, tiny_target)[0]
    before = exponent(quantiles, tiny_target)
    assert exponent(gain * quantiles**power, tiny_target) == pytest.approx(before / power, rel=1e-6)


def test_the_bias_field_is_found_again_in_the_contrast_of_the_power(pictures, material):
    head, recipe = pictures[0], PrepRecipe(n4_shrink_mm=16)
    field = smooth_field(head.image.shape, np.random.default_rng(5))
    coil = np.where(head.mask, head.image * np.exp(0.2 * field / field[head.mask].std()), 0).astype(np.float32)
    truth, seen = (
        prepared_with(Scan(x, load_template().affine, head.mask), recipe, np.eye(4)) for x in (coil, coil**1.5)
    )
    scan = Picture(head.subject, inside_of(seen.scan), seen.scan.inside(), inside_of(seen.scan), seen)
    target = replace(material.target, info=material.target.info.model_copy(update={"recipe": recipe}))
    found = to_the_power(scan, 1 / 1.5, target)
    assert psnr(inside_of(truth.scan), found, scan.mask) > 45
    once = to_the_power(replace(scan, prepared=None), 1 / 1.5, target)
    assert psnr(inside_of(truth.scan), once, scan.mask) < 35
    material = replace(material, target=target)
    alone, pool, match = (s().harmonize([scan], material)[0] for s in (PowerMatch, PooledPowerMatch, CorrectedMatch))
    assert np.allclose(alone, pool, atol=1e-5)
    assert np.abs(alone - match).max() > 0.01


def test_without_the_scan_as_it_came_a_power_changes_nothing(pictures, material):
    head = pictures[0]
    one, two = (s().harmonize([head], material)[0] for s in (PowerMatch, CorrectedMatch))
    assert np.abs(one - two)[head.mask].mean() < 1e-3
