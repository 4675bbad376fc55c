import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony.flows.couplings import Spline


def plain(curve, params):
    """The knots of one curve, written out from the definition."""
    K, B = curve.bins, curve.bound
    widths, heights, raw = params.split([K, K, K - 1])
    knots = []
    for logits in (widths, heights):
        shares = curve.minimum + (1 - curve.minimum * K) * logits.softmax(0)
        knots.append(torch.cat([torch.tensor([-B]), -B + 2 * B * shares.cumsum(0)]))
    offset = torch.tensor(1 - curve.minimum).expm1().log()
    raw = curve.cap * torch.tanh(raw / curve.cap)
    slopes = curve.minimum + (1 + (raw + offset).exp()).log()
    return *knots, torch.cat([torch.ones(1), slopes, torch.ones(1)])


def test_same_as_zuko_with_the_same_knots():
    transforms = pytest.importorskip("zuko").transforms
    torch.set_default_dtype(torch.float64)
    try:
        curve, params, x = Spline(bins=6), torch.randn(17), torch.linspace(-4, 4, 161)
        oracle = transforms.MonotonicRQSTransform(torch.zeros(6), torch.zeros(6), torch.zeros(5), bound=3.0)
        oracle.horizontal, oracle.vertical, oracle.derivatives = plain(curve, params)
        y, log_slope = oracle.call_and_ladj(x)
        z, ours = curve.to_latent(x.view(1, 1, -1), params.view(1, 1, -1, 1).expand(1, 1, -1, len(x)))
        back, _ = curve.to_image(z, params.view(1, 1, -1, 1).expand(1, 1, -1, len(x)))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(z.flatten(), y)
    torch.testing.assert_close(ours.flatten(), log_slope)
    torch.testing.assert_close(back.flatten(), x)


def test_identity_at_zero():
    curve, x = Spline(), torch.linspace(-5, 5, 101).view(1, 1, -1)
    z, log_slope = curve.to_latent(x, torch.zeros(1, 1, curve.size, 101))
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(bins=st.integers(2, 12), bound=st.floats(0.5, 20), scale=st.floats(0, 3), seed=st.integers(0, 999))
def test_increasing_and_inverted(bins, bound, scale, seed):
    torch.manual_seed(seed)
    curve = Spline(bins=bins, bound=bound)
    x = torch.linspace(-1.2 * bound, 1.2 * bound, 201, dtype=torch.float64).view(1, 1, -1)
    params = scale * torch.randn(1, 1, curve.size, 1, dtype=torch.float64).expand(-1, -1, -1, 201)
    z, forth = curve.to_latent(x, params)
    assert (z.diff() > 0).all()
    back, change = curve.to_image(z, params)
    torch.testing.assert_close(back, x, atol=1e-6 * bound, rtol=0)
    torch.testing.assert_close(change, -forth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 2.9999998, 1e4, -1e30, 1e38])
@pytest.mark.parametrize("raw", [0.0, 50.0, -1e6])
def test_gradients_are_finite_everywhere(value, raw):
    curve = Spline()
    for direction in (curve.to_latent, curve.to_image):
        x = torch.full((1, 1, 1), value, requires_grad=True)
        params = (raw * torch.linspace(-1, 1, curve.size).view(1, 1, -1, 1)).requires_grad_()
        z, log_slope = direction(x, params)
        (z.sum() + log_slope.sum()).backward()
        for tensor in (z, log_slope, x.grad, params.grad):
            assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("options", [{"bins": 1}, {"bound": 0.0}, {"minimum": 0.0}, {"bins": 10, "minimum": 0.1}])
def test_impossible_curves_are_refused(options):
    with pytest.raises(ValueError, match="a spline needs"):
        Spline(**options)
