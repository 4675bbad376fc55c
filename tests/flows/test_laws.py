"""One table of bijections, one set of laws. A new bijection is one more line in ``CASES``."""

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from blindharmony.flows.bijection import Bijection, Chain, Condition
from blindharmony.flows.latent import GaussianGiven, Split
from blindharmony.flows.networks import Bottleneck, ConvResNet
from blindharmony.flows.transforms import ActNorm, Affine, Coupling, Mixing, Spline, Squeeze

CONTEXT = 2


class SplitAndJoin(Bijection):
    """A split, seen as a bijection: both halves side by side."""

    def __init__(self, split):
        super().__init__()
        self.split = split

    def to_latent(self, x, cond=Condition()):  # noqa: B008
        kept, z, logdet = self.split.to_latent(x, cond)
        return torch.cat([kept, z], 1), logdet

    def to_image(self, z, cond=Condition()):  # noqa: B008
        return self.split.to_image(z[:, : self.split.kept], z[:, self.split.kept :], cond)


@dataclass(frozen=True)
class Case:
    make: Any  # (ndim, context channels) -> bijection
    channels: int
    context: bool = False
    squeezes: bool = False


def bottleneck(ndim, context):
    return partial(Bottleneck, ndim=ndim, width=6, context=context)


def residual(ndim, context, **options):
    return partial(ConvResNet, ndim=ndim, width=6, blocks=1, context=context, **options)


def spline_step(channels, ndim, context, half="second"):
    return [
        ActNorm(channels),
        Mixing(channels),
        Coupling(channels, Spline(bins=4), bottleneck(ndim, context), half),
    ]


CASES = {
    "actnorm": Case(lambda n, c: ActNorm(3), 3),
    "mixing": Case(lambda n, c: Mixing(4), 4),
    "mixing without bias": Case(lambda n, c: Mixing(3, bias=False), 3),
    "squeeze": Case(lambda n, c: Squeeze(n), 1, squeezes=True),
    "affine, first half": Case(lambda n, c: Coupling(3, Affine(), residual(n, c), "first"), 3, context=True),
    "affine, batch norm": Case(lambda n, c: Coupling(4, Affine(), residual(n, c, norm="batch")), 4, context=True),
    "spline, second half": Case(lambda n, c: Coupling(3, Spline(), bottleneck(n, c)), 3, context=True),
    "spline, odd channels": Case(lambda n, c: Coupling(5, Spline(4), bottleneck(n, c)), 5, context=True),
    "split": Case(lambda n, c: SplitAndJoin(Split(3)), 3),
    "split of two": Case(lambda n, c: SplitAndJoin(Split(2)), 2),
    "split with prior": Case(
        lambda n, c: SplitAndJoin(Split(6, GaussianGiven(bottleneck(n, c)(3, 6)))), 6, context=True
    ),
    "chain": Case(lambda n, c: Chain([*spline_step(3, n, c, "first"), *spline_step(3, n, c)]), 3, context=True),
    "chain with squeeze": Case(
        lambda n, c: Chain([Squeeze(n), *spline_step(2**n, n, c)]), 1, context=True, squeezes=True
    ),
}
SPACE = {2: (4, 6), 3: (4, 2, 4)}


def randomise(module: nn.Module) -> nn.Module:
    """Move every parameter well away from its start."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * (0.25 if p.ndim < 2 else 0.8 / p[0].numel() ** 0.5))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
    return module


@dataclass
class Setup:
    f: Bijection
    x: torch.Tensor
    cond: Condition
    case: Case
    exact: float

    def close(self, a, b, tolerance=None):
        torch.testing.assert_close(a, b, rtol=tolerance or self.exact, atol=tolerance or self.exact)

    def untouched(self, x):
        return Squeeze(x.ndim - 2).fold(x) if self.case.squeezes else x


@pytest.fixture
def setup(request, device):
    name, ndim, dtype, masked, context = request.param
    case, space = CASES[name], SPACE[ndim]
    f = randomise(case.make(ndim, CONTEXT if context else 0)).to(device, dtype).eval()
    x = torch.randn(2, case.channels, *space, dtype=dtype)
    mask = (torch.rand(2, 1, *space) > 0.3).to(dtype)
    mask[..., :2, :2, :2] = 1  # at least one block is complete
    given = torch.randn(2, CONTEXT, *space, dtype=dtype)
    cond = Condition(given.to(device) if context else None, mask.to(device) if masked else None)
    return Setup(f, x.to(device), cond, case, 2e-4 if dtype == torch.float32 else 1e-9)


def over(dtypes=(torch.float32, torch.float64), masks=(False, True)):
    """Parametrise a law over the table."""
    settings = [
        pytest.param((name, ndim, dtype, mask, context), id=f"{name}-{ndim}d-{dtype}-mask{mask:d}-context{context:d}")
        for name, case in CASES.items()
        for ndim, dtype, mask, context in product((2, 3), dtypes, masks, (False, True))
        if case.context or not context
    ]
    return pytest.mark.parametrize("setup", settings, indirect=True)


everywhere = over()
masked = over(masks=(True,))
exactly = over(dtypes=(torch.float64,))
single = over(dtypes=(torch.float32,))


@everywhere
def test_there_and_back(setup):
    z, forth = setup.f(setup.x, setup.cond)
    x, back = setup.f.to_image(z, setup.cond)
    setup.close(x, setup.x)
    setup.close(back, -forth)
    assert forth.shape == back.shape == (2,)


@everywhere
def test_back_and_there(setup):
    z = torch.randn_like(setup.f.to_latent(setup.x, setup.cond)[0])
    x, back = setup.f.to_image(z, setup.cond)
    again, forth = setup.f.to_latent(x, setup.cond)
    setup.close(again, z)
    setup.close(back, -forth)


def log_volume(f, x):
    jacobian = torch.func.jacrev(lambda v: f(v.view_as(x)).flatten())(x.flatten())
    return torch.linalg.slogdet(jacobian)[1]


@exactly
def test_log_determinant_is_that_of_the_jacobian(setup):
    x, cond = setup.x[:1], Condition(*(None if part is None else part[:1] for part in setup.cond))
    z, forth = setup.f.to_latent(x, cond)
    setup.close(forth[0], log_volume(lambda v: setup.f.to_latent(v, cond)[0], x))
    back = setup.f.to_image(z, cond)[1]
    setup.close(back[0], log_volume(lambda v: setup.f.to_image(v, cond)[0], z))


@single
def test_log_determinant_in_single_precision(setup):
    logdet = setup.f.to_latent(setup.x, setup.cond)[1]
    wide = Condition(*(None if part is None else part.double() for part in setup.cond))
    setup.close(logdet.double(), setup.f.double().to_latent(setup.x.double(), wide)[1], 1e-3)


@everywhere
def test_gradients_reach_everything(setup):
    x = setup.x.clone().requires_grad_()
    z, logdet = setup.f.to_latent(x, setup.cond)
    ((z * torch.randn_like(z)).sum() + logdet.sum()).backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).float().mean() > 0.95
    for name, p in setup.f.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


@everywhere
@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_far_outside_the_training_range(setup, scale):
    x = (setup.x * scale).requires_grad_()
    z, logdet = setup.f.to_latent(x, setup.cond)
    assert torch.isfinite(z).all()
    assert torch.isfinite(logdet).all()
    (z.sum() + logdet.sum()).backward()
    assert torch.isfinite(x.grad).all()
    size = max(scale, 1.0)
    setup.close(setup.f.to_image(z, setup.cond)[0] / size, x / size, 10 * setup.exact)


@masked
def test_places_that_do_not_exist_are_left_alone(setup):
    mask, after = setup.cond.mask, setup.f.condition_after(setup.cond).mask
    z, logdet = setup.f.to_latent(setup.x, setup.cond)
    outside = (after == 0).expand_as(z)
    assert torch.equal(z[outside], setup.untouched(setup.x)[outside])
    # What is there cannot matter, not even if it is no number.
    other = torch.where(mask != 0, setup.x, torch.nan)
    z_other, logdet_other = setup.f.to_latent(other, setup.cond)
    setup.close(z_other[~outside], z[~outside])
    setup.close(logdet_other, logdet)
    x_other, back = setup.f.to_image(z_other, setup.cond)
    inside = (mask != 0).expand_as(x_other)
    setup.close(x_other[inside], setup.x[inside])
    setup.close(back, -logdet)


@everywhere
def test_a_batch_is_a_loop(setup):
    z, logdet = setup.f.to_latent(setup.x, setup.cond)
    for i in range(len(z)):
        cond = Condition(*(None if part is None else part[i : i + 1] for part in setup.cond))
        one, change = setup.f.to_latent(setup.x[i : i + 1], cond)
        setup.close(one[0], z[i], 1e-5)
        setup.close(change[0], logdet[i], 1e-5)


@single
def test_autocast_keeps_the_log_determinant_exact(setup):
    with torch.autocast(setup.x.device.type, torch.bfloat16):
        z, forth = setup.f.to_latent(setup.x, setup.cond)
        x, back = setup.f.to_image(z, setup.cond)
    assert forth.dtype == back.dtype == z.dtype == torch.float32
    setup.close(x, setup.x)
    setup.close(back, -forth)
