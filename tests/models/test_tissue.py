"""The tissue network: posteriors add up, ranks do not see curves, files come back, bad ones are refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from blindharmony.errors import OutputError, TargetError
from blindharmony.models.tissue import (
    TissueInfo,
    TissueNet,
    TissueSpec,
    anatomy,
    load_tissue,
    rank_knots,
    ranks_of,
    save_tissue,
    tissue_posterior,
)
from blindharmony.preprocessing.registration import load_template
from blindharmony.training.labels import template_atlas

SMALL = TissueSpec(widths=(4, 4, 4), blocks=1)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return TissueNet(SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def brain():
    """The template, scaled as preparation does it, and its mask."""
    data = load_template().data
    mask = data > 0
    return (data / np.sqrt(np.mean(data[mask] ** 2))).astype(np.float32), mask


@pytest.fixture(scope="module")
def posterior(brain, net):
    return tissue_posterior(*brain, net)


def test_shares_add_up_inside_and_are_zero_outside(brain, posterior):
    _, mask = brain
    assert posterior.shape == (3, *mask.shape)
    assert posterior.min() >= 0
    np.testing.assert_allclose(posterior.sum(0)[mask], 1, atol=1e-5)
    assert not posterior[:, ~mask].any()


def test_a_cut_around_the_brain_changes_nothing(brain, posterior, net):
    """In the middle, out of reach of the cut's edges, the network sees what it sees of the whole grid."""
    image, mask = brain
    whole = torch.from_numpy(np.where(mask, image, 0))[None, None]
    ranks = torch.from_numpy(ranks_of(image, rank_knots(image[mask])))[None, None]
    logits = net(whole, ranks, torch.from_numpy(mask)[None, None], anatomy()[None])
    middle = (slice(60, 100),) * 3
    gray = torch.softmax(logits, 1)[0, 1:3].sum(0).numpy()
    np.testing.assert_allclose(posterior[1][middle], gray[middle], atol=1e-4)


def test_an_increasing_curve_leaves_the_ranks(brain):
    image, mask = brain
    before = ranks_of(image, rank_knots(image[mask]))[mask]
    bent = image**1.7
    after = ranks_of(bent, rank_knots(bent[mask]))[mask]
    assert np.abs(before - after).max() < 0.005


@pytest.mark.parametrize("wrong", [(slice(0, 80),), (slice(None), slice(0, 8))])
def test_another_grid_is_refused(brain, net, wrong):
    image, mask = brain
    with pytest.raises(ValueError, match="not on the template's grid"):
        tissue_posterior(image[wrong], mask[wrong], net)


def test_an_empty_mask_is_refused(brain, net):
    with pytest.raises(ValueError, match="mask is empty"):
        tissue_posterior(brain[0], np.zeros_like(brain[1]), net)


def test_a_file_comes_back(net, brain, posterior, tmp_path):
    path = tmp_path / "t.safetensors"
    save_tissue(net, TissueInfo(steps=3), path)
    again = tissue_posterior(*brain, load_tissue(path))
    assert np.abs(again - posterior).max() < 0.01  # half precision
    with pytest.raises(OutputError, match="exists"):
        save_tissue(net, TissueInfo(steps=3), path)
    content = path.read_bytes()
    save_tissue(load_tissue(path), TissueInfo(steps=3), path, overwrite=True)
    assert path.read_bytes() == content


def test_damaged_and_foreign_files_are_refused(net, tmp_path):
    path = tmp_path / "t.safetensors"
    save_tissue(net, TissueInfo(steps=3), path)
    content = path.read_bytes()
    about = TissueInfo(steps=3, spec=SMALL).model_dump_json()
    tensors = load(content)
    first = next(iter(tensors))
    bad = {
        "cut": content[:-100],
        "foreign": save(tensors),
        "newer": save(tensors, {"blindharmony-tissue": about.replace('"format":1', '"format":2')}),
        "huge": save(tensors, {"blindharmony-tissue": about.replace("[4,4,4]", "[4096,4096,4096]")}),
        "holes": save({**tensors, first: tensors[first] * torch.nan}, {"blindharmony-tissue": about}),
    }
    for name, changed in bad.items():
        path.write_bytes(changed)
        with pytest.raises(TargetError, match=r"t\.safetensors") as error:
            load_tissue(path)
        assert error.value.remedy, name
    with pytest.raises(TargetError, match="cannot be read"):
        load_tissue(tmp_path / "none.safetensors")


@pytest.mark.parametrize("power", [0.6, 1.0, 1.6])
def test_the_included_network_knows_the_template_s_tissues_in_any_contrast(brain, power):
    image, mask = brain
    bent = image**power
    white = tissue_posterior(bent / np.sqrt(np.mean(bent[mask] ** 2)), mask)[2] > 0.5
    truth = template_atlas().shares[[3, 4]].sum(0) > 0.5
    assert 2 * (white & truth).sum() / (white.sum() + truth.sum()) > 0.85
