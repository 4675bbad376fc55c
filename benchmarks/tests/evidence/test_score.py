"""The ablation of the flow's score asks what it says: a derivative, and four kinds of features that count alike."""

from pathlib import Path

import numpy as np
import pytest
import torch

from blindharmony.flows.bijection import Condition
from blindharmony.flows.pyramid import Pyramid, PyramidSpec
from blindharmony.flows.transforms import haar_split
from blindharmony.models.person import PersonModel
from blindharmony.settings import PersonSettings

KNOTS = np.linspace(0.2, 1.2, 12)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return pytest.importorskip("score")


def nats(flow, k, x, mask):
    part = haar_split(x, mask)
    z, logdet = flow.levels[k].to_latent(part.detail, Condition(flow.context(k, part), part.detail_mask))
    return float(logdet.detach().sum() - 0.5 * z.detach().square().where(part.detail_mask, 0.0).sum())


def test_the_score_is_what_a_small_change_of_intensities_does_to_the_density(script):
    torch.manual_seed(0)
    flow = Pyramid(PyramidSpec(shape=(16, 16, 16), widths=(6, 6), dropout=0.0), torch.rand(16, 16, 16)).eval().double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    rng = np.random.default_rng(1)
    region = rng.random((32, 32, 32)) > 0.1
    image = np.where(region, 0.1 + rng.random(region.shape), 0)
    told = script.score(flow, image, region, KNOTS).reshape(2, 12)
    split = haar_split(torch.from_numpy(image)[None, None], torch.from_numpy(region)[None, None])
    for k in (0, 1):
        x, mask = split.coarse, split.coarse_mask
        for j in (2, 5, 9):
            hat = torch.from_numpy(np.interp(x.numpy(), KNOTS, np.eye(12)[j])).where(mask, 0.0)
            up, down = (nats(flow, k, x + sign * 1e-5 * hat, mask) for sign in (1, -1))
            assert told[k, j] == pytest.approx((up - down) / 2e-5 / int(mask.sum()), rel=1e-3, abs=1e-6)
        split = haar_split(x, mask)


def test_ranks_and_scores_count_alike(script):
    """The regression in two packed blocks is the one with four, and a length scale for four."""
    rng = np.random.default_rng(2)
    heads = np.repeat(np.arange(6), 2)
    curves = np.sort(rng.random((6, 9)))[heads]
    kinds = rng.normal(size=(12, 4, 12)) * np.array([1.0, 5.0, 0.1, 30.0])[:, None]
    rows = [{"ranks": np.concatenate(r[:2]), 0: np.concatenate(r[2:]), 1: np.concatenate(r[2:])} for r in kinds]
    asked = script.Asked(rows, [0, 1, 0, 1, 0, 1], curves, heads, rng.random((12, 2)))
    usual = PersonSettings()
    length, strength = usual.contrast_length * np.sqrt(2), usual.contrast_strength
    own = kinds.copy()
    for fold in (0, 1):
        own[heads % 2 == fold, 2:] -= kinds[::2][np.arange(6) % 2 == fold, 2:].mean(0)
    spread = np.sqrt(2 * ((own[::2] - own[::2].mean(0)) ** 2).sum(2).mean(0))
    scaled = own / spread[:, None]
    distance = ((scaled[:, None] - scaled) ** 2).sum((2, 3))
    kernel = strength * length**2 * np.exp(-distance / (2 * length**2))
    noise = 0.5 * (heads[:, None] == heads) + 0.5 * np.eye(12)
    residual = asked.model.wanted - asked.model.mean
    new = {"ranks": np.concatenate(kinds[3, :2]), 0: np.concatenate(kinds[3, 2:]), 1: np.concatenate(kinds[3, 2:])}
    # Asked by both folds, the mean of what is usual of each is taken off.
    both = np.concatenate(kinds[3, 2:]) - np.mean(asked.usual, 0)
    at = np.stack([*kinds[3, :2], *np.split(both, 2)]) / spread[:, None]
    k = strength * length**2 * np.exp(-((at - scaled) ** 2).sum((1, 2)) / (2 * length**2))
    wanted = asked.model.mean + k @ np.linalg.solve(kernel + noise, residual)
    assert isinstance(asked.model, PersonModel)
    open_share = max(float(asked.model.open_share(asked.model.surprise(asked._packed(new["ranks"], both)))), 1)
    np.testing.assert_allclose(asked.curve(new), asked.model.mean + (wanted - asked.model.mean) / open_share, atol=1e-8)
