"""The published distance obeys its laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony.harmonization.fidelity import cosine, distance, ncc, non_edge_l1, non_edge_mask, sobel


def head(ndim: int, seed: int = 0, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A textured ball on a zero background, and where it is."""
    size = 12 if ndim == 2 else 8
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size)] * ndim, indexing="ij")
    mask = (sum(a**2 for a in axes) < 0.7).expand(n, 1, *[size] * ndim)
    texture = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(mask, 0.3 + texture, 0.0), mask


@pytest.mark.parametrize("ndim", [2, 3])
@given(gain=st.floats(0.01, 50), offset=st.floats(-5, 5), sign=st.sampled_from([-1, 1]))
@settings(max_examples=15, deadline=None)
def test_ncc_knows_neither_gain_nor_offset(ndim, gain, offset, sign):
    x, mask = (t.double() if t.is_floating_point() else t for t in head(ndim))
    y = head(ndim, 1)[0].double()
    assert torch.allclose(ncc(sign * gain * x + offset, y, mask), sign * ncc(x, y, mask), atol=1e-6)
    assert torch.allclose(ncc(x, y, mask), ncc(y, x, mask))


def test_ncc_is_pearsons_correlation_inside_the_mask():
    (x, mask), y = head(2, n=1), head(2, 1, n=1)[0]
    expected = torch.corrcoef(torch.stack([x[mask], y[mask]]))[0, 1]
    assert torch.allclose(ncc(x, y, mask), expected, atol=1e-5)
    garbage = torch.where(mask, x, torch.full_like(x, 99.0))
    assert torch.allclose(ncc(garbage, y, mask), expected, atol=1e-5)


def test_cosine_knows_no_gain_but_an_offset():
    x, mask = head(2)
    y = head(2, 1)[0]
    assert torch.allclose(cosine(7 * x, y), cosine(x, y))
    assert not torch.allclose(cosine(x + mask, y), cosine(x, y), atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e3])
@pytest.mark.parametrize("correlation", [ncc, cosine])
def test_a_flat_image_gives_finite_numbers_and_gradients(value, correlation):
    source, mask = head(2)
    x = torch.full_like(source, value).requires_grad_()
    nothing = torch.zeros(2, 2, *source.shape[2:])
    d = distance(x, source, nothing, 1000, 0.01, mask=mask, correlation=correlation)
    (slope,) = torch.autograd.grad(d.sum(), x)
    assert d.isfinite().all()
    assert slope.isfinite().all()
    if correlation is ncc or value == 0:
        assert torch.equal(correlation(x, source, mask), torch.zeros(2))
        assert not slope.any()


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_source_itself_up_to_gain_and_offset_is_where_the_correlation_stops_pulling(ndim):
    source, mask = head(ndim)
    x = (3 * source + 0.2).requires_grad_()
    nothing = torch.zeros(2, ndim, *source.shape[2:], dtype=torch.bool)
    d = distance(x, source, nothing, 10.0, 1.0, mask=mask)
    (slope,) = torch.autograd.grad(d.sum(), x)
    assert d.abs().max() < 1e-4
    assert slope.abs().max() < 1e-4


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("correlation", [ncc, cosine])
def test_gradient_is_the_finite_difference(ndim, correlation):
    source, mask = head(ndim, n=1)
    x = (source + 0.3 * head(ndim, 5, n=1)[0]).double().requires_grad_()
    flat = non_edge_mask(source, 0.3, mask)
    beta1 = torch.tensor([50.0], dtype=torch.float64)

    def d(image):
        return distance(image, source.double(), flat, beta1, 0.1, mask=mask, correlation=correlation).sum()

    (slope,) = torch.autograd.grad(d(x), x)
    way = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (d(x + 1e-6 * way) - d(x - 1e-6 * way)) / 2e-6
    assert torch.allclose((slope * way).sum(), difference, rtol=1e-4)


@pytest.mark.parametrize(("ndim", "weight"), [(2, 8), (3, 32)])
def test_sobel_of_a_ramp_and_of_a_flat_image(ndim, weight):
    ramp = torch.arange(6.0).view(-1, *[1] * (ndim - 1)).expand(1, 1, *[6] * ndim)
    slope = sobel(ramp)
    assert torch.equal(slope[0, 0, 1:-1], torch.full_like(slope[0, 0, 1:-1], weight))
    assert not slope[0, 1:].any()
    assert not sobel(torch.full_like(ramp, 5.0)).any()


@pytest.mark.parametrize("ndim", [2, 3])
def test_mask_holds_the_asked_share_of_the_foreground_and_nothing_else(ndim):
    source, mask = head(ndim)
    flat = non_edge_mask(source, 0.3, mask)
    assert not (flat & ~mask).any()
    assert (flat.sum().item() / (ndim * mask.sum().item())) == pytest.approx(0.3, abs=0.05)
    assert torch.equal(flat, non_edge_mask(5 * source, 0.3, mask))


def test_published_mask_is_empty_on_skull_stripped_slices_only():
    source, mask = (torch.nn.functional.pad(t, [6] * 4) for t in head(2))
    assert not non_edge_mask(source, 0.3).any()
    inside = source[..., 8:16, 8:16]
    assert non_edge_mask(inside, 0.3).any()
    assert non_edge_mask(mask.float(), 0.3, mask).any()  # a piecewise flat head has flat places
    assert not non_edge_mask(source, 0.3, torch.zeros_like(mask)).any()
    with pytest.raises(ValueError, match="quantile"):
        non_edge_mask(source, 1.5)


def test_only_edges_where_the_source_has_none_count():
    source, mask = head(2)
    flat = non_edge_mask(source, 0.3, mask)
    other = head(2, 9)[0]
    assert (non_edge_l1(other, flat) > non_edge_l1(source, flat)).all()
    assert torch.equal(non_edge_l1(other, torch.zeros_like(flat)), torch.zeros(2))
    assert torch.equal(non_edge_l1(torch.full_like(source, 3.0), flat), torch.zeros(2))


def test_the_distance_is_the_weighted_sum_of_its_two_parts():
    (x, mask), source = head(2), head(2, 1)[0]
    flat = non_edge_mask(source, 0.3, mask)
    edges = non_edge_l1(x, flat)
    assert (edges > 0).all()
    expected = 7.0 * (1 - ncc(x, source, mask)) + 0.5 * edges
    assert torch.allclose(distance(x, source, flat, 7.0, 0.5, mask=mask), expected)
