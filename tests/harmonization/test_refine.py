"""Refinement: it leaves the target's own scans alone, stays inside the mask, and obeys the published distance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from blindharmony.errors import DiskFullError, OutputError
from blindharmony.harmonization.intensity import ErrorBar, Estimate
from blindharmony.harmonization.refine import on_own_grid, refine, refined
from blindharmony.models.restorer import Restorer, RestorerSpec
from blindharmony.models.target import RefinedError


class Denoiser(Restorer):
    """Stands for a trained network: a blur, or whatever ``how`` does."""

    def __init__(self, how):
        super().__init__(RestorerSpec(width=2, deep_width=2, blocks=1))
        self.how = how

    def forward(self, x, mask, own_grid=0.0):
        return torch.where(mask > 0, self.how(x), x)


def smooth(x):
    kernel = torch.full((1, 1, 3, 3, 3), 1 / 27)
    weight = torch.nn.functional.conv3d((x > 0).float(), kernel, padding=1)
    return torch.nn.functional.conv3d(x, kernel, padding=1) / weight.clamp_min(0.01)


@pytest.fixture(scope="module")
def head():
    rng = np.random.default_rng(0)
    mask = ndimage.binary_erosion(np.ones((37, 42, 39), bool), iterations=4)
    image = 0.3 + np.where(mask, ndimage.gaussian_filter(rng.normal(size=mask.shape), 3) * 8 + 0.7, 0)
    return np.where(mask, image, 0).astype(np.float32), mask


def with_restorer(target, how, own=0.0):
    held = target.info.held_out.model_copy(update={"restorer_change": (own / 2, own)})
    return replace(target, restorer=Denoiser(how), info=target.info.model_copy(update={"held_out": held}))


def test_noise_is_taken_out_and_nothing_changes_outside(head, tiny_target):
    image, mask = head
    noisy = np.where(mask, image + np.random.default_rng(1).normal(0, 0.05, image.shape), image).astype(np.float32)
    noisy[~mask] = 5.0
    found = refine(noisy, mask, with_restorer(tiny_target, smooth))
    assert found.strength > 0.9
    inner = ndimage.binary_erosion(mask, iterations=2)
    assert np.abs(found.image - image)[inner].mean() < 0.5 * np.abs(noisy - image)[inner].mean()
    assert (found.image[~mask] == 5.0).all()


def test_the_more_the_restorer_wants_to_change_the_less_sure_is_a_voxel(head, tiny_target):
    image, mask = head
    target = with_restorer(tiny_target, smooth)
    error = RefinedError(intercept=0.0, slope=1.0, changes=(1e-3, 1.0), profile=(1.0,))
    held = target.info.held_out.model_copy(update={"refined_error": error})
    target = replace(target, info=target.info.model_copy(update={"held_out": held}))
    curve = ErrorBar(target.mean_curve, np.full(target.levels.size, 0.003), np.full(target.levels.size, 0.5))
    noise = np.random.default_rng(1).normal(size=image.shape)
    for spread in (0.02, 0.08):
        noisy = np.where(mask, np.maximum(image + spread * noise, 0), 0).astype(np.float32)
        found = refined(Estimate(noisy, error=curve), mask, target)
        wanted = refine(noisy, mask, target, strength=1.0).wanted
        assert 0.8 * spread < wanted < 1.5 * spread
        np.testing.assert_allclose(found.error(image), np.hypot(0.003, wanted), rtol=1e-5)
    assert refined(Estimate(noisy), mask, target).error is None


def test_a_scan_that_needs_no_more_than_the_targets_own_is_left_as_it_is(head, tiny_target):
    image, mask = head
    change = refine(image, mask, with_restorer(tiny_target, smooth), strength=1.0).change
    found = refine(image, mask, with_restorer(tiny_target, smooth, own=1.01 * change))
    np.testing.assert_array_equal(found.image, image)
    assert found.strength == 0


def test_shrinkage_follows_its_formula(head, tiny_target):
    image, mask = head
    change = refine(image, mask, with_restorer(tiny_target, smooth), strength=1.0).change
    found = refine(image, mask, with_restorer(tiny_target, smooth, own=change / 2))
    assert found.strength == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize("how", [lambda x: x + torch.rand_like(x), lambda x: x.flip(2), lambda x: x.roll(4, 3)])
def test_what_does_not_show_the_same_head_is_not_believed(head, tiny_target, how):
    image, mask = head
    torch.manual_seed(0)
    found = refine(image, mask, with_restorer(tiny_target, how))
    assert found.strength <= 0.25


def test_the_estimate_says_how_much_was_changed(head, tiny_target):
    image, mask = head
    change = refine(image, mask, with_restorer(tiny_target, smooth), strength=1.0).change
    out = refined(Estimate(image), mask, with_restorer(tiny_target, smooth, own=change / 7))
    assert out.figures["refinement strength"] == round(out.refinement, 3) != round(out.refinement, 4)
    assert refine(image, mask, tiny_target).strength == 0


def test_a_kept_image_is_the_same_and_a_damaged_one_is_made_anew(head, tiny_target, tmp_path):
    image, mask = head
    asked = []

    def counted(x):
        asked.append(1)
        return smooth(x)

    image = np.where(mask, image, 5).astype(np.float32)
    target = replace(with_restorer(tiny_target, counted), digest="of a file")
    plain, first, second = (refined(Estimate(image), mask, target, cache=cache) for cache in (None, tmp_path, tmp_path))
    assert len(asked) == 2
    for kept in (first, second):
        np.testing.assert_array_equal(kept.image, plain.image)
        assert (kept.refinement, kept.figures) == (plain.refinement, plain.figures)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    again = refined(Estimate(image), mask, target, cache=tmp_path)
    np.testing.assert_array_equal(again.image, plain.image)
    assert len(asked) == 3
    refined(Estimate(image + 0.01), mask, target, cache=tmp_path)
    assert len(asked) == 4
    for _ in range(2):  # a target without a name could be any other
        refined(Estimate(image), mask, replace(target, digest=""), cache=tmp_path)
    assert len(asked) == 6


def test_a_cache_that_takes_nothing_is_no_reason_to_fail(head, tiny_target, tmp_path, monkeypatch):
    image, mask = head
    target = replace(with_restorer(tiny_target, smooth), digest="of a file")

    def refuse(*_):
        raise kind("no")

    monkeypatch.setattr("blindharmony.preprocessing.recipe.write_tensors", refuse)
    kind = OutputError
    kept = refined(Estimate(image), mask, target, cache=tmp_path)
    np.testing.assert_array_equal(kept.image, refined(Estimate(image), mask, target).image)
    kind = DiskFullError
    with pytest.raises(DiskFullError):
        refined(Estimate(image), mask, target, cache=tmp_path)


def test_only_voxels_of_about_a_millimetre_are_worked_on():
    assert on_own_grid((1.0, 1.0, 1.0))
    assert not on_own_grid((2.0, 2.0, 2.0))
    assert not on_own_grid((0.5, 0.5, 1.0))
