import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blindharmony.flows.latent import bits_per_dim, dequantise, quantise


@settings(max_examples=50, deadline=None)
@given(
    levels=st.integers(1, 2**16),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_quantise_undoes_dequantise(levels, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, levels, (200,), generator=generator).to(dtype) / levels
    x = quantise(x.clamp(0, 1), levels)
    noisy = dequantise(x, levels, generator=generator)
    assert ((noisy >= 0) & (noisy < 1)).all()
    assert torch.equal(quantise(noisy, levels), x)
    assert torch.equal(quantise(x, levels), x)


def test_noise_fills_the_interval_and_follows_the_seed():
    x = torch.full((10_000,), 0.5)
    first, second = (dequantise(x, 4, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert 0.5 <= first.min() < 0.501
    assert 0.749 < first.max() < 0.75


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_values_outside_the_range_are_refused(value):
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\]"):
        dequantise(torch.tensor([0.5, value]))
    with pytest.raises(ValueError, match="must be positive"):
        quantise(torch.zeros(1), 0)


def test_uniform_noise_costs_all_its_bits():
    assert bits_per_dim(torch.zeros(2), torch.tensor([10.0, 20.0]), 256).tolist() == [8.0, 8.0]
