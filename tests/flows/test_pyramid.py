"""The whole-volume flow: Haar levels lose nothing, its density adds up, its samples repeat; its laws: test_laws.py."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_laws import randomise
from torch.autograd.functional import jacobian

from blindharmony.flows.bijection import Condition
from blindharmony.flows.networks import Convolution
from blindharmony.flows.pyramid import LevelFlow, Pyramid, PyramidSpec
from blindharmony.flows.transforms import haar_merge, haar_split


@pytest.fixture(autouse=True)
def _one_thread():
    """For tensors this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


EXACT = {torch.float32: 1e-4, torch.float64: 1e-10}


def random_mask(shape, share=0.7, seed=0):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    mask[..., 0, 0, 0] = True
    return mask


def small_pyramid(shape=(8, 4, 4), widths=(4, 5), seed=0, **options):
    atlas = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return randomise(Pyramid(PyramidSpec(shape=shape, widths=widths, blocks=1, **options), atlas), 0.4).eval()


def head(shape=(8, 4, 4), batch=2, seed=0):
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def masked(draw):
    shape = (draw(st.integers(1, 2)), 1, *(2 * draw(st.integers(1, 4)) for _ in range(3)))
    seed = draw(st.integers(0, 999))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < draw(st.floats(0, 1))


class TestHaar:
    @given(masked())
    def test_merging_undoes_splitting(self, image):
        x, mask = image
        torch.testing.assert_close(haar_merge(haar_split(x, mask), mask), x * mask)

    @given(masked())
    def test_every_voxel_becomes_one_number(self, image):
        x, mask = image
        level = haar_split(x, mask)
        assert level.detail.shape[1] == 7
        for b in range(len(x)):
            assert level.coarse_mask[b].sum() + level.detail_mask[b].sum() == mask[b].sum()

    @given(masked())
    def test_splitting_undoes_merging(self, image):
        x, mask = image
        level = haar_split(x, mask)
        noise = torch.randn(level.detail.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
        level = level._replace(detail=noise.where(level.detail_mask, 0.0))
        again = haar_split(haar_merge(level, mask), mask)
        torch.testing.assert_close(again.coarse, level.coarse)
        torch.testing.assert_close(again.detail, level.detail)

    @given(masked())
    def test_what_lies_outside_the_mask_does_not_matter(self, image):
        x, mask = image
        a, b = haar_split(x, mask), haar_split(x.where(mask, math.nan), mask)
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))

    @pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
    def test_volume_is_kept(self, share):
        mask = random_mask((1, 1, 4, 2, 4), share)

        def coefficients(voxels):
            x = torch.zeros(mask.shape, dtype=voxels.dtype).masked_scatter(mask, voxels)
            level = haar_split(x, mask)
            return torch.cat([level.coarse[level.coarse_mask], level.detail[level.detail_mask]])

        matrix = jacobian(coefficients, torch.zeros(int(mask.sum()), dtype=torch.float64))
        assert abs(torch.linalg.slogdet(matrix).logabsdet) < 1e-9

    def test_a_constant_has_no_details(self):
        mask = random_mask((1, 1, 6, 4, 8))
        level = haar_split(torch.full(mask.shape, 3.0), mask)
        assert (level.coarse[level.coarse_mask] == 3).all()
        assert not level.detail.any()


@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 4, 4), (1, 3, 3), (20, 20, 20), (6, 40, 40)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_is_the_same_in_slabs(shape, kernel):
    layer = Convolution(16, 3, kernel)
    x = torch.randn(1, 16, *shape, requires_grad=True)
    plain = torch.nn.functional.conv3d(x, layer.weight, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), plain, rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad(y.square().sum(), (x, *layer.parameters())) for y in (layer(x), plain)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


class TestDensity:
    def test_levels_add_up_to_the_density_of_the_whole(self):
        flow, x, mask = small_pyramid(), head(), random_mask((2, 1, 8, 4, 4))
        torch.testing.assert_close(flow.density(x, mask).nats.sum(1), flow.log_prob(x, Condition(mask=mask)))

    def test_counts_every_voxel_once(self):
        mask = random_mask((2, 1, 8, 4, 4))
        numbers = small_pyramid().density(head(), mask).numbers
        assert numbers.shape == (2, 3)
        assert torch.equal(numbers.sum(1), mask.flatten(1).sum(1))

    def test_without_fine_levels_is_the_rest_of_the_sum(self):
        flow = small_pyramid()
        x, mask = head(), random_mask((2, 1, 8, 4, 4))
        whole = flow.density(x, mask)
        coarse = haar_split(x, mask)
        rest = flow.density(coarse.coarse, coarse.coarse_mask, first=1)
        torch.testing.assert_close(rest.nats, whole.nats[:, 1:])
        assert torch.equal(rest.numbers, whole.numbers[:, 1:])
        torch.testing.assert_close(rest.bits_per_dim(), whole.bits_per_dim(first=1))

    def test_bits_per_dim_of_an_untrained_flow_are_those_of_a_gaussian(self):
        flow = Pyramid(PyramidSpec(shape=(8, 4, 4), widths=(4, 5)), torch.zeros(8, 4, 4)).eval()
        mask = random_mask((1, 1, 8, 4, 4))
        found = flow.density(torch.zeros(1, 1, 8, 4, 4), mask).bits_per_dim()
        torch.testing.assert_close(found, torch.tensor([0.5 * math.log2(2 * math.pi) + 8]))

    @pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
    def test_impossible_values_are_refused(self, value):
        x, mask = head(), torch.ones(2, 1, 8, 4, 4, dtype=torch.bool)
        x[0, 0, 1, 1, 1] = value
        with pytest.raises(ValueError, match="must be finite"):
            small_pyramid().density(x, mask)


class TestSample:
    def rng(self, seed=5):
        return torch.Generator().manual_seed(seed)

    def test_fills_the_mask_and_nothing_else(self):
        mask = random_mask((2, 1, 8, 4, 4))
        x = small_pyramid().sample(mask, generator=self.rng())
        assert x.shape == mask.shape
        assert x[mask].all()
        assert not x[~mask].any()

    def test_repeats_itself(self):
        flow, mask = small_pyramid(), random_mask((2, 1, 8, 4, 4))
        first, again, other = (flow.sample(mask, generator=self.rng(seed)) for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("dtype", EXACT, ids=str)
    def test_has_the_latents_that_were_drawn(self, dtype):
        flow, mask = small_pyramid().to(dtype), random_mask((2, 1, 8, 4, 4))
        x = flow.sample(mask, temperature=0.5, generator=self.rng())
        assert x.dtype == dtype
        rng = self.rng()
        for z, _, where in reversed(flow.latents(flow.split(x, mask))):
            drawn = 0.5 * torch.randn(z.shape, generator=rng).to(dtype)
            torch.testing.assert_close(z[where], drawn[where], rtol=1e-3, atol=1e-3)

    def test_at_temperature_zero_has_zero_latents(self):
        flow, mask = small_pyramid(), random_mask((1, 1, 8, 4, 4))
        x = flow.sample(mask, temperature=0.0)
        assert all((z.abs() < 1e-4).all() for z, _, _ in flow.latents(flow.split(x, mask)))


def test_a_gain_taken_up_is_a_change_of_variables():
    level = randomise(LevelFlow(7, context=3, width=6, blocks=1, rounds=1)).eval().double()
    rng = torch.Generator().manual_seed(2)
    x, context = (torch.randn(1, n, 3, 4, 3, generator=rng, dtype=torch.float64) for n in (7, 3))
    mask = random_mask(x.shape)
    brighter = torch.cat([1.2 * context[:, :1], context[:, 1:]], 1)
    with torch.no_grad():
        z, logdet = level.to_latent(1.2 * x.where(mask, 0.0), Condition(brighter, mask))
        level.absorb_gain(math.log(1.2))
        again, after = level.to_latent(x.where(mask, 0.0), Condition(context, mask))
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(after, logdet + mask.sum() * math.log(1.2))


def test_what_a_place_usually_has_moves_with_the_flow_and_is_not_stored():
    flow = small_pyramid()
    places = dict(flow.named_buffers())
    assert not [name for name in flow.state_dict() if name.startswith("place")]
    assert flow.double().get_buffer("place_0").dtype == torch.float64
    assert places["place_0"].shape == (1, 11, 4, 2, 2)


def test_a_level_without_its_context_says_what_it_needs():
    level = LevelFlow(7, context=3, width=6, blocks=1, rounds=1)
    with pytest.raises(ValueError, match="context of 3 channels, got none"):
        level.to_latent(torch.zeros(1, 7, 2, 2, 2))
    with pytest.raises(ValueError, match="6 features"):
        level.couplings[0].to_latent(torch.zeros(1, 7, 2, 2, 2))


class TestCosts:
    """The density as a map."""

    @given(st.integers(0, 99))
    def test_places_add_up_to_the_density(self, seed):
        flow, x = small_pyramid(), head(seed=seed)
        mask = random_mask(x.shape, seed=seed)
        density = flow.density(x * mask, mask)
        for level, (nats, numbers) in enumerate(flow.costs(x * mask, mask)):
            torch.testing.assert_close(nats.flatten(1).sum(1), -density.nats[:, level], atol=1e-3, rtol=1e-4)
            assert torch.equal(numbers.flatten(1).sum(1), density.numbers[:, level])
            assert (nats[numbers == 0] == 0).all()

    def test_what_changes_at_one_end_of_the_head_costs_there(self):
        flow = small_pyramid(shape=(32, 4, 4), widths=(4,))
        x = head(shape=(32, 4, 4), batch=1)
        mask = torch.ones_like(x, dtype=torch.bool)
        spoiled = x.clone()
        spoiled[..., 0, :, :] += 3
        (before, _), (after, _) = (flow.costs(image, mask)[0] for image in (x, spoiled))
        change = (after - before).abs().sum((0, 2, 3))
        assert change[0] > 1
        assert change[8:].max() < 1e-3
