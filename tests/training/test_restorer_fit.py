"""The restorer: starts as the identity, learns to undo, resumes with the same bytes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from blindharmony.errors import UsageError
from blindharmony.models.person import PersonModel
from blindharmony.models.restorer import RestorerSpec
from blindharmony.training.restorer import PATCH, _matched, fit_restorer, make_cubes

SMALL = RestorerSpec(width=4, deep_width=4, blocks=1)


@dataclass
class ToyHead:
    """Looks like a training head."""

    name: str
    data: torch.Tensor
    mask: torch.Tensor

    @property
    def key(self):
        return self.name

    def image(self):
        return self.data.float(), self.mask


@pytest.fixture(scope="module")
def heads():
    rng = np.random.default_rng(0)
    found = []
    for i in range(2):
        mask = ndimage.binary_erosion(np.ones((72, 66, 68), bool), iterations=2)
        x = ndimage.gaussian_filter(rng.normal(size=mask.shape), 2.0)
        x = np.where(mask, 0.4 + (x - x.min()) / (x.max() - x.min()), 0).astype(np.float32)
        found.append(ToyHead(f"h{i}.nii", torch.from_numpy(x).half(), torch.from_numpy(mask)))
    return found


@pytest.fixture(scope="module")
def cubes(heads, tiny_target, tmp_path_factory):
    curves = tiny_target.quantiles[:2]
    person = PersonModel(np.array([[0.0, 1.0], [1.0, 0.0]]), curves, np.arange(2))
    return make_cubes(heads, replace(tiny_target, quantiles=curves, person=person), tmp_path_factory.mktemp("p"))


def fitted(cubes, folder, *, steps=4, resume=False, on_step=None):
    return fit_restorer(
        cubes,
        SMALL,
        minutes=1.0,
        steps=steps,
        seed=0,
        plan={"scans": ["a"]},
        checkpoint=folder / "c.safetensors",
        resume=resume,
        on_step=on_step,
    )


def test_every_head_is_seen_on_two_grids_and_patches_fit_together(cubes):
    assert len(cubes.files) == 4
    seen, truth, mask, own = cubes.patch(np.random.default_rng(0))
    assert {cubes.patch(np.random.default_rng(i))[3].item() for i in range(9)} == {0, 1}
    assert own.shape == (1, 1, 1)
    assert seen.shape == truth.shape == mask.shape == (PATCH,) * 3
    assert (seen[~mask] == 0).all()
    again = cubes.patch(np.random.default_rng(0))
    np.testing.assert_array_equal(again[0], seen)


def test_what_was_seen_has_the_histogram_of_the_truth():
    rng = np.random.default_rng(0)
    truth = (1 + ndimage.gaussian_filter(rng.normal(size=(24, 24, 24)), 1)).astype(np.float32)
    mask = np.ones(truth.shape, bool)
    noisy = (truth + rng.normal(0, 0.1, truth.shape)).astype(np.float32)
    ranks = np.linspace(0.05, 0.95, 19)
    matched = _matched(noisy, truth, mask)
    np.testing.assert_allclose(np.quantile(matched, ranks), np.quantile(truth, ranks), atol=2e-3)
    assert (np.argsort(matched, axis=None) == np.argsort(noisy, axis=None)).mean() > 0.9
    assert _matched(truth, truth, mask) is truth


def test_it_learns(cubes, tmp_path, monkeypatch):
    monkeypatch.setattr("blindharmony.training.restorer._WARMUP", 1)
    monkeypatch.setattr("blindharmony.training.restorer._RATE", 5e-3)
    losses = []
    fitted(cubes, tmp_path, steps=60, on_step=lambda i, n, loss: losses.append(loss))
    assert np.mean(losses[-20:]) < 0.95 * np.mean(losses[:10])


def test_an_interrupted_fit_ends_with_the_same_weights(cubes, tmp_path, monkeypatch):
    monkeypatch.setattr("blindharmony.training.restorer._SAVE_EVERY", 2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = fitted(cubes, tmp_path / "a", steps=5)

    def interrupt(step, total, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(cubes, tmp_path / "b", steps=5, on_step=interrupt)
    steps = []
    again = fitted(cubes, tmp_path / "b", steps=5, resume=True, on_step=lambda i, n, loss: steps.append(i))
    assert steps == [3, 4, 5]
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_time_becomes_a_number_of_steps(cubes, tmp_path):
    seen = []

    def look(step, total, loss):
        seen.append(total)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_restorer(cubes, SMALL, minutes=0.2, steps=None, seed=0, plan={}, checkpoint=tmp_path / "c", on_step=look)
    assert seen[0] >= 20


def test_other_steps_are_another_run(cubes, tmp_path, monkeypatch):
    monkeypatch.setattr("blindharmony.training.restorer._SAVE_EVERY", 1)
    fitted(cubes, tmp_path, steps=2)
    with pytest.raises(UsageError, match="had 2 steps of the restorer, not 5"):
        fitted(cubes, tmp_path, steps=5, resume=True)
