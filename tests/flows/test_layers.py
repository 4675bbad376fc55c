import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_laws import randomise

from blindharmony.flows.bijection import Condition, StandardNormal
from blindharmony.flows.couplings import Coupling, Spline
from blindharmony.flows.glow import MultiScaleSpec
from blindharmony.flows.latent import GaussianGiven
from blindharmony.flows.networks import Bottleneck, ConvResNet
from blindharmony.flows.transforms import ActNorm, Mixing


@settings(max_examples=20, deadline=None)
@given(channels=st.integers(2, 5), space=st.lists(st.integers(1, 7), min_size=2, max_size=3))
def test_couplings_take_odd_shapes(channels, space):
    ndim = len(space)
    layer = Coupling(channels, Spline(3), lambda a, b: Bottleneck(a, b, ndim=ndim, width=4))
    randomise(layer).double()
    x = torch.randn(2, channels, *space, dtype=torch.float64)
    torch.testing.assert_close(layer.to_image(layer.to_latent(x)[0])[0], x)


def test_first_training_batch_starts_the_norm_inside_the_mask():
    norm, x = ActNorm(2), 3 + 2 * torch.randn(4, 2, 8, 8)
    mask = (torch.rand(4, 1, 8, 8) > 0.5).float()
    z, _ = norm(torch.where(mask != 0, x, torch.nan), Condition(mask=mask))
    inside = z.movedim(1, 0)[:, mask[:, 0] != 0]
    torch.testing.assert_close(inside.mean(1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(inside.std(1, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="mask is empty"):
        norm.initialise(x, Condition(mask=torch.zeros(4, 1, 8, 8)))


def test_mixing_matrix_and_its_volume():
    layer = randomise(Mixing(5)).double()
    logdet = layer.to_latent(torch.zeros(1, 5, 2, 2, dtype=torch.float64))[1]
    torch.testing.assert_close(logdet[0], 4 * torch.linalg.slogdet(layer.matrix())[1])


def test_gaussian_given():
    prior = randomise(GaussianGiven(Bottleneck(2, 2, width=4)))
    given, mask = torch.randn(3, 2, 4, 4), torch.ones(3, 1, 4, 4)
    mask[:, :, 0] = 0
    x = prior.sample(given, Condition(mask=mask), generator=torch.Generator().manual_seed(0))
    assert (x[:, :, 0] == 0).all()
    cond = Condition(mask=mask)
    mean = prior.from_standard(torch.zeros(3, 1, 4, 4), given, cond)[0]
    spread = prior.from_standard(torch.ones(3, 1, 4, 4), given, cond)[0] - mean
    expected = torch.distributions.Normal(mean, spread).log_prob(x)[:, :, 1:].flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(x, given, cond), expected, rtol=1e-4, atol=1e-4)
    assert StandardNormal().sample((2, 3)).shape == (2, 3)


@pytest.mark.parametrize(("norm", "norms"), [("batch", 4), ("none", 0)])
def test_batch_norms_are_there_when_asked_for(norm, norms):
    net = ConvResNet(2, 2, ndim=2, width=4, blocks=2, norm=norm)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) == norms


@pytest.mark.parametrize(("name", "kind"), [("bottleneck", Bottleneck), ("residual", ConvResNet)])
def test_a_spec_gets_the_conditioner_that_it_names(name, kind):
    assert isinstance(MultiScaleSpec(conditioner=name, width=4).network(2, 2), kind)
