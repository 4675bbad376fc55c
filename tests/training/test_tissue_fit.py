"""The tissue network's training: labels without hand, random scanners, the recipe from scans to a file."""

import itertools

import numpy as np
import pytest
import torch

from blindharmony.errors import OutputError, UsageError
from blindharmony.models.tissue import TissueNet, TissueSpec, load_tissue
from blindharmony.preprocessing.registration import load_template
from blindharmony.settings import TissueFitSettings
from blindharmony.training import tissue
from blindharmony.training.labels import FLUID, GRAY, STEM, WHITE, label_head, template_atlas
from blindharmony.training.loop import Compute, Update
from blindharmony.training.tissue import (
    LabelledHead,
    RandomContrast,
    RandomScans,
    TissueTask,
    export_unfinished,
    tissue_loss,
    train_tissue,
)

SMALL = TissueSpec(widths=(4, 4, 4), blocks=1)
QUICK = TissueFitSettings(side=24, look_every=2, warmup_steps=1)


@pytest.fixture(scope="module")
def brain():
    """The template with noise, scaled as preparation does it, and its mask."""
    data = load_template().data
    mask = data > 0
    noise = 0.02 * np.random.default_rng(0).standard_normal(data.shape)
    image = data / np.sqrt(np.mean(data[mask] ** 2)) + noise
    return np.where(mask, image, 0).astype(np.float32), mask


@pytest.fixture(scope="module")
def head(brain):
    """The middle of a head whose labels are the atlas."""
    crop = (slice(40, 120), slice(60, 140), slice(40, 120))
    image, mask = (np.ascontiguousarray(part[crop]) for part in brain)
    shares = template_atlas().shares[(slice(None), *crop)] * mask
    sulci = (shares[FLUID] > 0.5) & ~template_atlas().ventricles[crop]
    levels = np.array([np.average(image[mask], weights=s[mask] ** 2) for s in shares], np.float32)
    return LabelledHead(image, mask, np.rint(255 * np.concatenate([shares, sulci[None]])).astype(np.uint8), levels)


def test_labels_of_the_template_are_its_tissues(brain):
    shares, mixture = label_head(*brain)
    mask = brain[1]
    np.testing.assert_allclose(shares.sum(0)[mask], 1, atol=1e-4)
    assert not shares[:, ~mask].any()
    assert mixture.means[FLUID] < mixture.means[GRAY] < mixture.means[WHITE]
    truth = template_atlas().shares
    for one, other in ((GRAY, GRAY), (WHITE, STEM)):
        made, known = (s[one] + s[other] * (one != other) > 0.5 for s in (shares, truth))
        assert 2 * (made & known).sum() / (made.sum() + known.sum()) > 0.8


def test_deep_gray_is_where_anatomy_has_it():
    deep = template_atlas().shares[2] > 0.5
    millimeters = load_template().affine[:3, 3]
    assert 30_000 < deep.sum() < 60_000
    for place in ((11, -18, 8), (26, 2, 2), (19, -4, 0), (-11, -18, 8), (-26, 2, 2)):
        assert deep[tuple(int(p - m) for p, m in zip(place, millimeters, strict=True))], place
    assert not deep[tuple(int(p - m) for p, m in zip((0, -30, -35), millimeters, strict=True))]


def test_a_contrast_that_is_the_head_s_own_changes_nothing(head):
    image = head.image / head.levels[WHITE]
    levels = head.levels / head.levels[WHITE]
    shares = head.shares.astype(np.float32) / 255
    same = RandomContrast(levels, levels, 1.0)(image, shares)
    deep = shares.sum(0) - shares[5]
    assert np.abs(same - image)[deep > 0.99].max() < 0.02


def test_contrasts_are_in_order_and_a_curve_increases(head):
    rng = np.random.default_rng(0)
    values = np.linspace(0, 2 * head.levels[WHITE], 200, dtype=np.float32)
    nothing = np.zeros((6, 200), np.float32)
    curves = 0
    for _ in range(50):
        contrast = RandomContrast.draw(head.levels, rng, QUICK)
        assert 0 < contrast.after[FLUID] < contrast.after[GRAY] < contrast.after[WHITE] == 1
        if contrast.texture is None:
            curves += 1
            assert (np.diff(contrast(values, nothing)) > 0).all()
    assert 10 < curves < 35


def test_a_drawn_crop_has_its_truth_beside_it(head):
    scans = RandomScans([head], QUICK)
    kept = [scans.draw(np.random.default_rng(i)) for i in range(4)]
    for sample in kept:
        assert sample.image.shape == sample.mask.shape == sample.truth.shape[1:] == (24, 24, 24)
        np.testing.assert_allclose(sample.truth.sum(0)[sample.mask], 1, atol=0.02)
        assert not sample.image[~sample.mask].any()
        assert np.abs(sample.ranks).max() <= 0.5
        # Blurred and noisy as it is, white matter is brighter than fluid.
        white, fluid = ((sample.truth[k] > 0.9) & sample.mask for k in (3, 0))
        if white.sum() > 50 and fluid.sum() > 50:
            assert sample.image[white].mean() > sample.image[fluid].mean()
    again = scans.draw(np.random.default_rng(2))
    np.testing.assert_array_equal(again.image, kept[2].image)
    assert any(not np.array_equal(a.image, b.image) for a, b in itertools.pairwise(kept))


def test_the_loss_is_least_where_the_labels_are():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, (1, 12, 12, 12)))
    truth = torch.nn.functional.one_hot(labels, 4).permute(0, 4, 1, 2, 3).float()
    mask = torch.ones(1, 1, 12, 12, 12, dtype=torch.bool)
    right, vague, wrong = (tissue_loss(s * truth, truth, mask).item() for s in (20.0, 0.0, -20.0))
    assert right < 0.01 < 1 < vague < wrong
    # What lies outside the mask does not count.
    mask[..., 6:] = False
    changed = truth.clone()
    changed[..., 6:] = 0
    assert tissue_loss(20 * truth, changed, mask).item() == pytest.approx(right, abs=1e-3)


def test_a_few_steps_learn(head):
    torch.manual_seed(0)
    settings = QUICK.model_copy(update={"rate": 2e-2})
    task = TissueTask(TissueNet(SMALL), RandomScans([head], settings), RandomScans([head], settings), 0, looks=3)
    update = Update(task, settings, Compute())
    before = task.score()
    for number in range(40):
        task.step(number, update)
    assert task.score() < before - 0.1


@pytest.fixture
def study(head, tmp_path, monkeypatch):
    """Six scans whose preparation and labels are there at once."""
    monkeypatch.setattr(tissue, "labelled_head", lambda scan, folder: head)
    files = [tmp_path / f"sub-{i}_T1w.nii.gz" for i in range(6)]
    for file in files:
        file.write_bytes(b"")
    return files


def test_an_interrupted_recipe_goes_on_to_the_same_bytes(study, tmp_path):
    def train(out, **choices):
        return train_tissue(study, out, steps=6, settings=QUICK, spec=SMALL, **choices)

    straight, broken = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert train(straight, data="six scans").steps == 6

    def stop(stage, share, numbers):
        if numbers.get("step") == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(broken, report=stop)
    checkpoint = tmp_path / "b.safetensors.work" / tissue.CHECKPOINT
    early = tmp_path / "early.safetensors"
    assert export_unfinished(checkpoint, early).steps == 3
    load_tissue(early)
    with pytest.raises(UsageError, match="had 6 steps, not 8"):
        train_tissue(study, broken, steps=8, settings=QUICK, spec=SMALL, resume=True)
    train(broken, resume=True, data="six scans")
    assert broken.read_bytes() == straight.read_bytes()
    assert not checkpoint.exists()
    with pytest.raises(OutputError, match="exists already"):
        train(straight)


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "t.safetensors")
    for words, message in (
        ([str(tmp_path), "--export", "--out", out], "this is no checkpoint"),
        ([str(tmp_path / "none"), "--out", out], "none"),
    ):
        monkeypatch.setattr("sys.argv", ["tissue", *words])
        with pytest.raises(SystemExit) as end:
            tissue.main()
        assert message in str(end.value.code)
