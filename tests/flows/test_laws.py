"""One table of bijections, one set of laws: layers and whole flows alike. A new one is one more line in ``CASES``."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from blindharmony.flows.bijection import Bijection, Chain, Condition
from blindharmony.flows.couplings import Affine, Coupling, SparseCoupling, Spline
from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec
from blindharmony.flows.latent import GaussianGiven, Split
from blindharmony.flows.networks import Bottleneck, ConvResNet
from blindharmony.flows.pyramid import LevelFlow, Pyramid, PyramidSpec
from blindharmony.flows.transforms import ActNorm, Mixing, Squeeze

CONTEXT = 2


@dataclass(frozen=True)
class Case:
    """A bijection and what may be asked of it.

    Attributes:
        make: (number of axes, context channels) → bijection.
        channels: Of the image.
        context: Whether it is also made with a context; "always" if it needs one.
        dims: Numbers of spatial axes.
        space: Sizes of the image, by number of axes.
        squeezes: Whether z is folded.
        blanks: Whether what lies outside the mask is lost.
        by_channel: Whether the mask may differ between channels.
        half: How exact there and back is when a network answers in half precision.
        block: Side of the block that exists for sure; a flow needs one that reaches its coarsest level.
        steepness: Of random weights; deep flows with steep layers lose digits.
        far: How many times beyond the training range there and back still holds in single precision.
    """

    make: Callable[[int, int], Bijection]
    channels: int
    context: bool | str = False
    dims: tuple[int, ...] = (2, 3)
    space: dict[int, tuple[int, ...]] = field(default_factory=lambda: {2: (4, 6), 3: (4, 2, 4)})
    squeezes: bool = False
    blanks: bool = False
    by_channel: bool = False
    half: float = 2e-4
    block: int = 2
    steepness: float = 1.0
    far: float = 1e3


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


def sparse(make, channels):
    """A coupling of the pyramid: the context is what its hidden features would be."""
    return Case(lambda n, c: make(c), channels, context="always", dims=(3,), by_channel=True)


def level(channels, **options):
    def make(ndim, context):
        return LevelFlow(channels, context=context, width=6, blocks=1, bins=4, **options)

    return Case(
        make,
        channels,
        context="always",
        dims=(3,),
        space={3: (3, 2, 4)},
        by_channel=True,
        steepness=0.4,
        far=5,
        half=2e-2,
    )


def pyramid(shape, **options):
    def make(ndim, context):
        return Pyramid(PyramidSpec(shape=shape, blocks=1, bins=4, **options), torch.rand(shape))

    return Case(make, 1, dims=(3,), space={3: shape}, blanks=True, steepness=0.4, far=5, half=2e-2)


def multiscale(**options):
    def make(ndim, context):
        return MultiScaleFlow(MultiScaleSpec(ndim=ndim, context_channels=context, **options))

    return Case(make, 1, context=True, space={2: (4, 8), 3: (4, 4, 8)}, block=4, steepness=0.2, far=10, half=2e-2)


CASES = {
    "actnorm": Case(lambda n, c: ActNorm(3), 3),
    "mixing": Case(lambda n, c: Mixing(4), 4),
    "mixing without bias": Case(lambda n, c: Mixing(3, bias=False), 3),
    "squeeze": Case(lambda n, c: Squeeze(n), 1, squeezes=True),
    "affine, first half": Case(lambda n, c: Coupling(3, Affine(), residual(n, c), "first"), 3, context=True),
    "affine, batch norm": Case(lambda n, c: Coupling(4, Affine(), residual(n, c, norm="batch")), 4, context=True),
    "spline, second half": Case(lambda n, c: Coupling(3, Spline(), bottleneck(n, c)), 3, context=True),
    "spline, odd channels": Case(lambda n, c: Coupling(5, Spline(4), bottleneck(n, c)), 5, context=True),
    "split": Case(lambda n, c: Split(3), 3),
    "split of two": Case(lambda n, c: Split(2), 2),
    "split with prior": Case(lambda n, c: Split(6, GaussianGiven(bottleneck(n, c)(3, 6))), 6, context=True),
    "chain": Case(lambda n, c: Chain([*spline_step(3, n, c, "first"), *spline_step(3, n, c)]), 3, context=True),
    "chain with squeeze": Case(
        lambda n, c: Chain([Squeeze(n), *spline_step(2**n, n, c)]), 1, context=True, squeezes=True
    ),
    "sparse, some channels": sparse(lambda c: SparseCoupling(7, (0, 2, 4, 6), Affine(), c), 7),
    "sparse, one colour": sparse(lambda c: SparseCoupling(7, tuple(range(7)), Affine(), c, colour=1), 7),
    "sparse spline": sparse(lambda c: SparseCoupling(7, (1, 3, 5), Spline(4, bound=4.0), c), 7),
    "sparse, context alone": sparse(lambda c: SparseCoupling(1, (0,), Affine(), c), 1),
    "level, affine": level(7, rounds=0),
    "level, splines": level(7, rounds=1),
    "level, affine couplings": level(7, rounds=0, affine_rounds=2),
    "level, checkerboards": level(7, rounds=0, checkerboards=2),
    "level, all": level(7, rounds=1, affine_rounds=1, checkerboards=1),
    "level, coarsest": level(1, rounds=0),
    "level, bent coarsest": level(1, rounds=1),
    "pyramid": pyramid((4, 2, 4), widths=(4,)),
    "pyramid of two levels": pyramid((8, 4, 4), widths=(3, 4), rounds=1),
    "multi-scale, spline": multiscale(levels=2, steps=2, width=6, blocks=1, split_prior=True, centre=0.5),
    "multi-scale, affine": multiscale(
        levels=2, steps=1, coupling="affine", conditioner="bottleneck", width=6, closing_mixing=True
    ),
    "multi-scale, no mixing": multiscale(levels=2, steps=1, width=6, split_prior=True, mixing=False),
}


def randomise(module: nn.Module, steepness: float = 1.0) -> nn.Module:
    """Move every parameter well away from its start."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(steepness * torch.randn_like(p) * (0.25 if p.ndim < 2 else 0.8 / p[0].numel() ** 0.5))
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "latent_mean", "latent_log_sd")):
                buffer.normal_(0, 0.3)
            if name.endswith("input_sd"):
                buffer.normal_(0, 0.3).exp_()
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

    def one(self, i):
        """The i-th image of the batch and its condition."""
        return self.x[i : i + 1], Condition(*(None if part is None else part[i : i + 1] for part in self.cond))

    def outside(self, z):
        """Where z does not exist, tensor by tensor."""
        masks = self.f.latent_masks(self.cond)
        return [
            torch.zeros_like(part, dtype=torch.bool) if mask is None else (mask == 0).expand_as(part)
            for part, mask in zip(tensors(z), masks, strict=True)
        ]


def tensors(z):
    """The tensors of a latent: one, or one for each resolution."""
    return [z] if isinstance(z, torch.Tensor) else list(z)


def flat(z):
    return torch.cat([part.flatten(1) for part in tensors(z)], 1)


def mapped(function, z):
    return function(z) if isinstance(z, torch.Tensor) else [function(part) for part in z]


@pytest.fixture
def setup(request, device):
    name, ndim, dtype, masked, context = request.param
    case = CASES[name]
    space = case.space[ndim]
    f = randomise(case.make(ndim, CONTEXT if context else 0), case.steepness).to(device, dtype).eval()
    x = torch.randn(2, case.channels, *space, dtype=dtype)
    mask = (torch.rand(2, case.channels if case.by_channel else 1, *space) > 0.3).to(dtype)
    mask[(..., *[slice(case.block)] * min(ndim, 3))] = 1  # at least one block is complete
    given = torch.randn(2, CONTEXT, *space, dtype=dtype)
    cond = Condition(given.to(device) if context else None, mask.to(device) if masked else None)
    return Setup(f, x.to(device), cond, case, 2e-4 if dtype == torch.float32 else 1e-9)


def over(dtypes=(torch.float32, torch.float64), masks=(False, True)):
    """Parametrise a law over the table."""
    settings = [
        pytest.param((name, ndim, dtype, mask, context), id=f"{name}-{ndim}d-{dtype}-mask{mask:d}-context{context:d}")
        for name, case in CASES.items()
        for ndim, dtype, mask, context in product(case.dims, dtypes, masks, (False, True))
        if (case.context or not context) and (case.context != "always" or context)
    ]
    return pytest.mark.parametrize("setup", settings, indirect=True)


everywhere = over()
masked = over(masks=(True,))
exactly = over(dtypes=(torch.float64,))
single = over(dtypes=(torch.float32,))


@everywhere
def test_there_and_back(setup):
    z, forth = setup.f.to_latent(setup.x, setup.cond)
    x, back = setup.f.to_image(z, setup.cond)
    lost = setup.case.blanks and setup.cond.mask is not None
    setup.close(x, setup.x.where(setup.cond.mask != 0, 0.0) if lost else setup.x)
    setup.close(back, -forth)
    assert forth.shape == back.shape == (2,)


@everywhere
def test_back_and_there(setup):
    z = mapped(torch.randn_like, setup.f.to_latent(setup.x, setup.cond)[0])
    x, back = setup.f.to_image(z, setup.cond)
    again, forth = setup.f.to_latent(x, setup.cond)
    for part, expected, outside in zip(tensors(again), tensors(z), setup.outside(z), strict=True):
        checked = ~outside if setup.case.blanks else torch.ones_like(outside)
        setup.close(part[checked], expected[checked])
    setup.close(back, -forth)


def log_volume(f, x):
    jacobian = torch.func.jacrev(f)(x)
    assert jacobian.shape[0] == jacobian.shape[1]
    return torch.linalg.slogdet(jacobian)[1]


@exactly
def test_log_determinant_is_that_of_the_jacobian(setup):
    x, cond = setup.one(0)
    z, forth = setup.f.to_latent(x, cond)
    inside = torch.ones_like(x, dtype=torch.bool)
    counted = torch.ones_like(flat(z), dtype=torch.bool)
    if setup.case.blanks and cond.mask is not None:  # every voxel of the mask is one number, and no other is there
        inside = cond.mask != 0
        counted = torch.cat([(mask != 0).flatten(1) for mask in setup.f.latent_masks(cond)], 1)
    shapes = [part.shape for part in tensors(z)]

    def forwards(values):
        return flat(setup.f.to_latent(torch.zeros_like(x).masked_scatter(inside, values), cond)[0])[counted]

    def backwards(values):
        whole = torch.zeros_like(flat(z)).masked_scatter(counted, values)
        pieces = torch.split(whole, [shape.numel() for shape in shapes], 1)
        parts = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return setup.f.to_image(parts[0] if isinstance(z, torch.Tensor) else parts, cond)[0][inside]

    setup.close(forth[0], log_volume(forwards, x[inside]))
    setup.close(setup.f.to_image(z, cond)[1][0], log_volume(backwards, flat(z)[counted]))


@everywhere
def test_density_is_a_change_of_variables(setup):
    z, logdet = setup.f.to_latent(setup.x, setup.cond)
    exists = ~torch.cat([outside.flatten(1) for outside in setup.outside(z)], 1)
    normal = -0.5 * (flat(z).square() + math.log(2 * math.pi))
    setup.close(setup.f.log_prob(setup.x, setup.cond), logdet + normal.where(exists, 0.0).sum(1))


@single
def test_log_determinant_in_single_precision(setup):
    logdet = setup.f.to_latent(setup.x, setup.cond)[1]
    wide = Condition(*(None if part is None else part.double() for part in setup.cond))
    setup.close(logdet.double(), setup.f.double().to_latent(setup.x.double(), wide)[1], 1e-3)


@everywhere
def test_gradients_reach_everything(setup):
    x = setup.x.clone().requires_grad_()
    z, logdet = setup.f.to_latent(x, setup.cond)
    (sum((part * torch.randn_like(part)).sum() for part in tensors(z)) + logdet.sum()).backward()
    assert torch.isfinite(x.grad).all()
    lost = setup.case.blanks and setup.cond.mask is not None
    kept = (setup.cond.mask != 0) if lost else torch.ones_like(x, dtype=torch.bool)
    assert (x.grad[kept] != 0).float().mean() > 0.95
    assert not x.grad[~kept].any()
    for name, p in setup.f.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


@everywhere
@pytest.mark.parametrize("far", [True, False], ids=["large", "small"])
def test_far_outside_the_training_range(setup, far):
    scale = setup.case.far if far else 1e-3
    x = (setup.x * scale).requires_grad_()
    z, logdet = setup.f.to_latent(x, setup.cond)
    assert torch.isfinite(flat(z)).all()
    assert torch.isfinite(logdet).all()
    (flat(z).sum() + logdet.sum()).backward()
    assert torch.isfinite(x.grad).all()
    size = max(scale, 1.0)
    again = setup.f.to_image(z, setup.cond)[0]
    kept = (setup.cond.mask != 0) if setup.case.blanks and setup.cond.mask is not None else torch.ones_like(x) != 0
    setup.close(again[kept] / size, x[kept] / size, 10 * setup.exact)


@masked
def test_places_that_do_not_exist_are_left_alone(setup):
    mask = setup.cond.mask != 0
    z, logdet = setup.f.to_latent(setup.x, setup.cond)
    outside = setup.outside(z)
    # What is there cannot matter, not even if it is no number.
    z_other, logdet_other = setup.f.to_latent(torch.where(mask, setup.x, torch.nan), setup.cond)
    for part, other, missing in zip(tensors(z), tensors(z_other), outside, strict=True):
        setup.close(other[~missing], part[~missing])
        if setup.case.blanks:
            assert not other[missing].any()
    setup.close(logdet_other, logdet)
    x_other, back = setup.f.to_image(z_other, setup.cond)
    inside = mask.expand_as(x_other)
    setup.close(x_other[inside], setup.x[inside])
    setup.close(back, -logdet)
    if isinstance(z, torch.Tensor):
        untouched = Squeeze(setup.x.ndim - 2).fold(setup.x) if setup.case.squeezes else setup.x
        assert torch.equal(z[outside[0]], untouched[outside[0]])


@masked
def test_where_nothing_exists_nothing_happens(setup):
    if any(isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d) for part in setup.f.modules()):
        pytest.skip("batch norm needs values")
    nothing = setup.cond._replace(mask=torch.zeros_like(setup.cond.mask))
    assert not setup.f.to_latent(setup.x, nothing)[1].any()
    assert not setup.f.log_prob(setup.x, nothing).any()


@everywhere
def test_a_batch_is_a_loop(setup):
    z, logdet = setup.f.to_latent(setup.x, setup.cond)
    for i in range(len(setup.x)):
        one, change = setup.f.to_latent(*setup.one(i))
        setup.close(flat(one)[0], flat(z)[i], 1e-5)
        setup.close(change[0], logdet[i], 1e-5)


@single
def test_autocast_keeps_the_log_determinant_exact(setup):
    with torch.autocast(setup.x.device.type, torch.bfloat16):
        z, forth = setup.f.to_latent(setup.x, setup.cond)
        x, back = setup.f.to_image(z, setup.cond)
    assert {forth.dtype, back.dtype, *(part.dtype for part in tensors(z))} == {torch.float32}
    kept = (setup.cond.mask != 0) if setup.case.blanks and setup.cond.mask is not None else torch.ones_like(x) != 0
    setup.close(x[kept], setup.x[kept], setup.case.half)
    setup.close(back, -forth, setup.case.half)
