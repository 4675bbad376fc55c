"""Laws of the changes that honesty is measured with, and a judge that is known to be wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import jacobian

from blindharmony.flows.pyramid import FAMILIES, Pyramid, PyramidSpec, most_probable, optimum


def image(seed=0, shape=(1, 1, 2, 3, 4), low=0.2):
    rng = torch.Generator().manual_seed(seed)
    return low + torch.rand(shape, generator=rng, dtype=torch.float64), torch.rand(shape, generator=rng) < 0.8


@pytest.mark.parametrize("name", FAMILIES)
@given(t=st.floats(-0.4, 0.4), seed=st.integers(0, 99), low=st.sampled_from([0.01, 0.2]))
def test_log_det_is_the_one_calculus_gives(name, t, seed, low):
    x, mask = image(seed, low=low)
    if not mask.any() or mask.sum() < 2:
        return
    _, claimed = FAMILIES[name](x, mask, t)
    inside = x[mask]

    def changed(values):
        full = x.clone()
        full[mask] = values
        return FAMILIES[name](full, mask, t)[0][mask]

    true = torch.linalg.slogdet(jacobian(changed, inside))[1]
    assert math.isclose(float(claimed), float(true), abs_tol=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_changes_at_zero(name):
    x, mask = image()
    changed, log_det = FAMILIES[name](x, mask, 0.0)
    torch.testing.assert_close(changed, x)
    assert abs(float(log_det)) < 1e-12


@given(st.floats(-0.8, 0.8), st.floats(0.1, 10))
def test_a_parabola_has_its_vertex_found(vertex, curvature):
    grid = np.linspace(-1, 1, 9)
    assert abs(optimum(grid, [-curvature * (t - vertex) ** 2 for t in grid]) - vertex) < 1e-6


def test_a_density_of_brighter_images_asks_for_brighter_ones():
    """Level by level Gaussian about 1 with a known spread: the most probable gain solves a quadratic equation."""
    spec = PyramidSpec(shape=(8, 8, 8), widths=(4, 4), rounds=0, blocks=0)
    flow = Pyramid(spec, torch.zeros(8, 8, 8)).eval()
    x, mask = torch.full((1, 1, 8, 8, 8), 0.5), torch.ones(1, 1, 8, 8, 8, dtype=torch.bool)
    flow.base.input_sd.fill_(1.0)
    # A standard normal of a constant image has log p(gx) + n log g: n(log g - g^2 x^2 / 2) for the 8 coarsest places,
    # and log g for each of the details, which are all zero: 512 log g - 8 g^2 / 8 has no optimum within the grid.
    grid = np.linspace(-0.2, 0.2, 5)
    (found, *_) = most_probable(flow, x, mask, grid, ["gain"])
    assert found["gain"] >= 0.2
    # With details of spread 1 as the flow believes, nothing is to be changed.
    y = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    levels = flow.split(y, mask)
    for level, part in zip(flow.levels, levels, strict=True):
        level.input_sd.copy_(part.detail.square().mean((0, 2, 3, 4)).sqrt())
    flow.base.input_sd.copy_(levels[-1].coarse.square().mean().sqrt())
    (found, *_) = most_probable(flow, y, mask, grid, ["gain"])
    assert abs(found["gain"]) < 0.01
