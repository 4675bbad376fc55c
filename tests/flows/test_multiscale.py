import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from test_laws import randomise

from blindharmony.flows.bijection import Condition
from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec, glow_3d, published_2d, small_2d
from blindharmony.flows.transforms import ActNorm, Squeeze

SPECS = {
    "spline 2d": MultiScaleSpec(levels=2, steps=2, width=6, blocks=1, split_prior=True, centre=0.5),
    "affine 3d": MultiScaleSpec(
        ndim=3, levels=2, steps=1, coupling="affine", conditioner="bottleneck", width=6, closing_mixing=True
    ),
    "context 2d": MultiScaleSpec(levels=2, steps=1, width=6, context_channels=2, split_prior=True, mixing=False),
}
SPACE = {2: (4, 8), 3: (4, 4, 4)}


@pytest.fixture(params=SPECS)
def flow(request, device):
    return randomise(MultiScaleFlow(SPECS[request.param])).to(device).double().eval()


@pytest.fixture
def cond(flow, device):
    space, channels = SPACE[flow.spec.ndim], flow.spec.context_channels
    mask = torch.ones(2, 1, *space, device=device)
    mask[0, :, 0, 0] = 0  # breaks a block of the first image
    context = torch.randn(2, channels, *space, device=device) if channels else None
    return Condition(None if context is None else context.double(), mask)


def images(flow, n=2):
    weight = next(flow.parameters())
    return torch.rand(n, 1, *SPACE[flow.spec.ndim], dtype=weight.dtype, device=weight.device)


def test_all_latents_as_one_matrix(flow, cond):
    x = images(flow)
    latents, _ = flow.to_latent(x, cond)
    assert [tuple(z.shape[1:]) for z in latents] == flow.latent_shapes(tuple(x.shape[2:]))
    flat = flow.latent_flat(latents)
    assert flat.shape == (2, x[0].numel())
    torch.testing.assert_close(flow.to_image(flow.unflatten(flat, tuple(x.shape[2:])), cond)[0], x)


def test_bits_are_counted_by_the_places_that_exist(flow, cond):
    x, places = images(flow), cond.mask.flatten(1).sum(1)
    torch.testing.assert_close(flow.bits_per_dim(x, cond), -flow.log_prob(x, cond) / places / math.log(2))


def test_samples(flow, cond):
    space = SPACE[flow.spec.ndim]
    seeded = [torch.Generator(cond.mask.device).manual_seed(1) for _ in range(2)]
    first, second = (flow.sample(2, space, temperature=0.7, generator=g, cond=cond) for g in seeded)
    assert first.shape == (2, 1, *space)
    assert torch.equal(first, second)
    assert (first[(cond.mask == 0).expand_as(first)] == 0).all()
    assert torch.isfinite(flow.log_prob(first, cond)).all()
    with pytest.raises(ValueError, match="temperature"):
        flow.sample(1, space, temperature=-1.0)


def test_weights_survive_storage(flow):
    x = images(flow)
    fresh = MultiScaleFlow(flow.spec).double()
    fresh.load_state_dict(load(save(flow.state_dict())))
    assert save(fresh.state_dict()) == save(flow.state_dict())
    context = torch.zeros(2, flow.spec.context_channels, *x.shape[2:], dtype=x.dtype)
    cond = Condition(context if flow.spec.context_channels else None)
    assert torch.equal(fresh.eval().log_prob(x.cpu(), cond), flow.cpu().log_prob(x.cpu(), cond))
    assert MultiScaleSpec.model_validate_json(flow.spec.model_dump_json()) == flow.spec


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e4, -2e4])
def test_raw_intensities_are_refused(value):
    flow = MultiScaleFlow(SPECS["spline 2d"])
    x = torch.zeros(1, 1, 4, 4)
    x[..., 1, 2] = value
    with pytest.raises(ValueError, match="finite and at most 10000"):
        flow.log_prob(x)


def test_whatever_passes_the_door_comes_back():
    flow = randomise(MultiScaleFlow(SPECS["spline 2d"])).double().eval()
    x = 1e4 * (2 * torch.rand(2, 1, 4, 8, dtype=torch.float64) - 1)
    latents, logdet = flow.to_latent(x)
    assert torch.isfinite(logdet).all()
    torch.testing.assert_close(flow.to_image(latents)[0] / 1e4, x / 1e4)
    with pytest.raises(ValueError, match="latent values must be finite"):
        flow.to_image([latents[0], torch.full_like(latents[1], math.nan)])


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 13), width=st.integers(1, 13), batch=st.integers(1, 3))
def test_any_size_works_or_is_refused(height, width, batch):
    torch.manual_seed(0)  # for each example: some random flows are too steep for rounding
    flow = randomise(MultiScaleFlow(SPECS["spline 2d"])).double().eval()
    x = torch.rand(batch, 1, height, width, dtype=torch.float64)
    if height % 4 or width % 4:
        with pytest.raises(ValueError, match="multiples of 4"):
            flow.to_latent(x)
    else:
        torch.testing.assert_close(flow.to_image(flow.to_latent(x)[0])[0], x)


def test_starting_from_data():
    flow, x = MultiScaleFlow(SPECS["affine 3d"]), 0.2 + 0.1 * torch.randn(8, 1, 4, 4, 4)
    flow.eval()
    flow.initialise(x)
    assert not flow.training
    norms = [m for m in flow.modules() if isinstance(m, ActNorm)]
    assert all(bool(norm.initialised) for norm in norms)
    assert flow.bits_per_dim(x).mean() < MultiScaleFlow(flow.spec).eval().bits_per_dim(x).mean()
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    loaded = MultiScaleFlow(flow.spec)
    loaded.load_state_dict(state)
    loaded.train().log_prob(5 * x)  # a loaded layer does not start again
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_training_lowers_the_bits():
    torch.manual_seed(3)
    flow = MultiScaleFlow(SPECS["spline 2d"]).train()
    x = torch.rand(32, 1, 4, 8).cumsum(-1) / 8
    optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
    flow.initialise(x)
    losses = []
    for _ in range(15):
        loss = flow.log_prob(x).mean().neg()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 5


def test_wrong_input_is_explained():
    flow = MultiScaleFlow(SPECS["context 2d"])
    with pytest.raises(ValueError, match="image channels"):
        flow.to_latent(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="context of 2 channels, got none"):
        flow.to_latent(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="2 latents"):
        flow.to_image([torch.zeros(1, 8, 2, 2)])
    with pytest.raises(ValueError, match="cannot unsqueeze"):
        Squeeze(2).to_image(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="kernel size must be odd"):
        MultiScaleSpec(kernel=2)


def count(spec):
    return sum(p.numel() for p in MultiScaleFlow(spec).parameters())


def test_sizes_of_the_presets():
    assert count(published_2d()) == 14_486_534
    assert count(small_2d()) < 600_000
    assert count(glow_3d()) < 600_000
