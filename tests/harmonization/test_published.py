"""The published method, on synthetic heads and tiny flows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from blindharmony.errors import InputError, UsageError
from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec
from blindharmony.harmonization.fidelity import ncc
from blindharmony.harmonization.published import SliceWindow, fill_ends, harmonize_latent
from blindharmony.models.target import Target, TargetInfo
from blindharmony.settings import PublishedSettings

SHAPE = (32, 40, 12)
SPEC = MultiScaleSpec(levels=2, steps=1, width=4, bins=4, blocks=1, centre=0.5, grey_levels=4096)


def ball() -> np.ndarray:
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return sum(a**2 for a in axes) < 0.8


@pytest.fixture(scope="module")
def scene():
    """A truth of three tissues, its source with another contrast, the mask, and a target."""
    rng, mask = np.random.default_rng(0), ball()
    blurred = sum(np.roll(rng.normal(size=SHAPE), (i, j), (0, 1)) for i in range(3) for j in range(3))
    truth = np.where(mask, np.select([blurred < -1, blurred < 1], [0.3, 0.9], 1.25), 0).astype(np.float32)
    source = np.where(mask, 1.3 * truth**1.5, 0).astype(np.float32)
    coarse = truth.reshape(16, 2, 20, 2, 6, 2).mean((1, 3, 5)).astype(np.float32)
    torch.manual_seed(0)
    flow = MultiScaleFlow(SPEC)
    flow.initialise(SliceWindow.around(mask, 4).cut(truth) / 2 + 1e-3 * torch.rand(1))
    target = Target(
        info=TargetInfo(name="toy", scans=1, slices=SPEC),
        levels=np.array([0.5]),
        quantiles=np.array([[1.0]]),
        coverage=np.ones((16, 20, 6), np.float32),
        mean_image=coarse,
        slices=flow.eval().requires_grad_(False),
    )
    return truth, source, mask, target


@pytest.mark.parametrize("settings", [PublishedSettings(), PublishedSettings.published()], ids=["default", "published"])
def test_result_is_like_the_source_inside_and_zero_outside(scene, settings):
    _, source, mask, target = scene
    seen = []
    estimate = harmonize_latent(source, mask, target, settings, progress=lambda *turns: seen.append(turns))
    assert estimate.image.shape == SHAPE
    assert estimate.image.dtype == np.float32
    assert np.isfinite(estimate.image).all()
    assert not estimate.image[~mask].any()
    assert not estimate.warnings
    assert len(estimate.trace) == settings.iterations
    assert seen[-1] == (settings.iterations, settings.iterations)
    assert set(estimate.trace[0]) == {"objective", "ncc", "non_edge", "z2", "change", "flow_share"}
    assert estimate.trace[-1]["ncc"] > estimate.trace[0]["ncc"]
    assert estimate.trace[-1]["objective"] < estimate.trace[0]["objective"]


def test_same_seed_same_image_and_another_seed_another(scene):
    _, source, mask, target = scene
    first, again, other = (harmonize_latent(source, mask, target, seed=s).image for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_gain_of_the_source_does_not_matter(scene):
    _, source, mask, target = scene
    one, two = (harmonize_latent(g * source, mask, target).image for g in (np.float32(1), np.float32(4)))
    assert np.abs(one - two).mean() < 1e-3


def test_without_a_distance_all_that_changes_is_the_flows_doing(scene):
    _, source, mask, target = scene
    settings = PublishedSettings(iterations=2, beta1=0.0, beta2=0.0)
    trace = harmonize_latent(source, mask, target, settings).trace
    assert [row["flow_share"] for row in trace] == [1.0, 1.0]


def test_ablation_goes_without_the_flow(scene):
    _, source, mask, target = scene
    broken = replace(target, slices=MultiScaleFlow(SPEC))
    torch.nn.init.constant_(next(broken.slices.parameters()), torch.nan)
    settings = PublishedSettings(flow_identity=True, alpha=0.0, beta2=0.0)
    estimate = harmonize_latent(source, mask, broken, settings)
    assert not estimate.warnings
    # Without flow and prior what is left is descent on the correlation.
    window = SliceWindow.around(mask, SPEC.factor)
    parts = [window.cut(v) for v in (estimate.image, source, mask)]
    assert ncc(*parts).min() > 0.99
    shrunk = harmonize_latent(source, mask, target, settings.model_copy(update={"alpha": 0.1}))
    assert shrunk.image.mean() < 0.7 * estimate.image.mean()


def test_published_ablation_hardly_differs(scene):
    # What is known of the published numbers: ten times 0.999 leaves the latent nearly where it was.
    _, source, mask, target = scene
    whole, without = (
        harmonize_latent(source, mask, target, PublishedSettings.published(flow_identity=f)).image
        for f in (False, True)
    )
    assert np.abs(whole - without)[mask].mean() < 0.02


def test_slices_that_fail_keep_their_unflowed_image(scene):
    _, source, mask, target = scene
    broken = MultiScaleFlow(SPEC)
    broken.load_state_dict(target.slices.state_dict())
    torch.nn.init.constant_(next(broken.parameters()), torch.nan)
    settings = PublishedSettings(iterations=2)
    estimate = harmonize_latent(source, mask, replace(target, slices=broken), settings)
    assert np.isfinite(estimate.image).all()
    assert estimate.figures["failed"] == 2 * estimate.figures["slices"]
    assert "failed" in estimate.warnings[0]


def test_one_wild_slice_does_not_stop_the_others(scene):
    _, source, mask, target = scene

    class Wild(MultiScaleFlow):
        def to_image(self, *words, **options):
            image, *rest = super().to_image(*words, **options)
            image[0] = 1e6
            return image, *rest

    flow = Wild(SPEC)
    flow.load_state_dict(target.slices.state_dict())
    settings = PublishedSettings(iterations=2, batch=5)
    estimate = harmonize_latent(source, mask, replace(target, slices=flow), settings)
    batches = -(-int(estimate.figures["slices"]) // 5)
    assert estimate.figures["failed"] == 2 * batches
    assert np.isfinite(estimate.image).all()
    assert estimate.image.max() < 10


def test_nothing_is_brighter_than_the_ceiling(scene, monkeypatch):
    _, source, mask, target = scene
    assert harmonize_latent(source, mask, target).image.max() > 0.8
    monkeypatch.setattr("blindharmony.harmonization.published.CEILING", 0.8)
    assert harmonize_latent(source, mask, target).image.max() <= 0.8


def test_what_cannot_work_is_said(scene):
    _, source, mask, target = scene
    with pytest.raises(UsageError, match="no slice flow"):
        harmonize_latent(source, mask, replace(target, slices=None))
    with pytest.raises(InputError, match="no slice"):
        harmonize_latent(source, np.zeros_like(mask), target)
    with pytest.raises(InputError, match="finite"):
        harmonize_latent(np.where(mask, np.nan, source).astype(np.float32), mask, target)


def test_a_volume_with_odd_sides_is_padded_and_put_back():
    mask = np.zeros((13, 11, 3), bool)
    mask[1:, 2:, 1] = True
    window = SliceWindow.around(mask, 8)
    volume = np.random.default_rng(0).random(mask.shape).astype(np.float32)
    assert window.cut(volume).shape == (1, 1, 16, 16)
    back = window.paste(window.cut(volume))
    assert np.array_equal(back[:, :, 1], volume[:, :, 1])
    assert not back[:, :, [0, 2]].any()


def test_flat_neighbours_fill_ends_with_their_brightness():
    mask = np.ones((2, 2, 3), bool)
    source, result = np.ones(mask.shape, np.float32), np.full(mask.shape, 0.7, np.float32)
    assert fill_ends(result, source, mask, (1,)) == pytest.approx(0.7)
