"""The restorer: starts as the identity, learns to undo, resumes with the same bytes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import ndimage

from blindharmony.errors import UsageError
from blindharmony.models.file import load_target
from blindharmony.models.person import PersonModel
from blindharmony.models.restorer import Restorer, RestorerSpec
from blindharmony.settings import RandomScannerSettings, RestorerFitSettings
from blindharmony.training.loop import Budget, Checkpoint, fit
from blindharmony.training.restorer import RestorerTask, _matched, make_cubes

SMALL = RestorerSpec(width=4, deep_width=4, blocks=1)


@dataclass
class ToyHead:
    """Looks like a training head."""

    name: str
    data: torch.Tensor
    mask: torch.Tensor
    to_scan = np.eye(4)

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


def fitted(cubes, folder, *, steps=4, on_step=None, settings=None, plan=None):
    """A small restorer after some steps, gone on with from the checkpoint that lies in the folder."""
    torch.manual_seed(0)
    net = Restorer(SMALL)
    checkpoint = Checkpoint(folder / "c.safetensors", plan or {"scans": ["a"]})
    progress = fit(
        RestorerTask(net, cubes, 0), settings or cubes.settings, Budget(steps), checkpoint=checkpoint, on_step=on_step
    )
    return net, progress


def test_every_head_is_seen_on_two_grids_and_patches_fit_together(cubes):
    assert len(cubes.files) == 4
    seen, truth, mask, own = cubes.draw(np.random.default_rng(0))
    assert {cubes.draw(np.random.default_rng(i))[3].item() for i in range(9)} == {0, 1}
    assert own.shape == (1, 1, 1)
    assert seen.shape == truth.shape == mask.shape == (cubes.settings.patch,) * 3
    assert (seen[~mask] == 0).all()
    again = cubes.draw(np.random.default_rng(0))
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


CLEAN = RandomScannerSettings(often=0.0, other_contrast=1.0, texture=(1.0, 1.0), bend_gray=0.0)


def four_tissues(image, mask):
    """Fluid, gray, deep and white by thresholds: a head whose tissues are its intensities."""
    parts = [image < 0.7, (image >= 0.7) & (image < 0.85), (image >= 0.85) & (image < 0.95), image >= 0.95]
    return np.stack([p & mask for p in parts]).astype(np.float32)


@pytest.fixture(scope="module")
def contrasted(heads, tmp_path_factory):
    """Cubes that are seen in other contrasts alone, by a person model that errs about nobody."""
    target = load_target("ds002748")
    known = replace(target.person, curves=np.broadcast_to(target.mean_curve, target.person.curves.shape).copy())
    exact = replace(target, person=known, quantiles=known.curves[known.themselves])
    return make_cubes(heads, exact, tmp_path_factory.mktemp("c"), scanner=CLEAN, tissue=four_tissues)


def test_another_contrast_moves_tissues_that_a_curve_of_the_head_cannot_put_back(contrasted):
    moved = [contrasted.draw(np.random.default_rng(i)) for i in range(12)]
    errors = [np.sqrt(np.mean((seen - truth)[mask] ** 2)) for seen, truth, mask, _ in moved]
    assert 0.005 < np.median(errors) < 0.2
    # No increasing curve of the truth: some brighter voxels became darker.
    seen, truth, mask, _ = moved[int(np.argmax(errors))]
    order = np.argsort(truth[mask])
    assert (np.diff(seen[mask][order]) < -1e-3).any()


def test_scanners_of_the_target_contrast_leave_the_cube_as_it_is(contrasted):
    usual = replace(contrasted, scanner=CLEAN.model_copy(update={"other_contrast": 0.0}))
    for number in range(6):
        seen, truth, mask, _ = usual.draw(np.random.default_rng(number))
        np.testing.assert_allclose(seen[mask], truth[mask], atol=1e-6)


def test_tissues_lie_on_the_same_places_on_both_grids(heads, tmp_path):
    class Shifted(ToyHead):
        """Its own grid begins three voxels before the template's."""

        to_scan = np.array([[1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

        @property
        def key(self):
            return "shifted"

        def image(self):
            move = (-3, 0, 0)
            return torch.roll(self.data.float(), move, (0, 1, 2)), torch.roll(self.mask, move, (0, 1, 2))

    head = Shifted("s.nii", heads[0].data, heads[0].mask)
    target = load_target("ds002748")
    made = make_cubes([head], target, tmp_path, tissue=four_tissues)
    for file in made.files:
        parts = load_file(file)
        image, mask = parts["image"].astype(np.float32), parts["mask"]
        inner = ndimage.binary_erosion(mask, iterations=5)
        np.testing.assert_array_equal((parts["tissues"][3] > 127)[inner], (image >= 0.95)[inner])


def test_held_out_cubes_judge_the_weights_and_are_the_same_each_time(cubes):
    few = replace(cubes, settings=cubes.settings.model_copy(update={"judged": 3}))
    net = Restorer(SMALL)
    task = RestorerTask(net, few, 0, held_out=few)
    first = task.score()
    assert first == task.score()
    assert 0.4 < first < 1  # it starts as the identity, and scans that are hardly spoiled count less
    with torch.no_grad():
        net.leave.bias.fill_(0.05)
    assert task.score() > first
    assert RestorerTask(net, few, 0).score() is None


@pytest.mark.long
def test_it_learns(cubes, tmp_path):
    losses = []
    settings = RestorerFitSettings(warmup_steps=1, rate=5e-3)
    fitted(cubes, tmp_path, steps=60, settings=settings, on_step=lambda share, row: losses.append(row["train"]))
    assert np.mean(losses[-20:]) < 0.95 * np.mean(losses[:10])


def test_an_interrupted_fit_ends_with_the_same_weights(cubes, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, curve = fitted(cubes, tmp_path / "a", steps=5)

    def interrupt(share, row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(cubes, tmp_path / "b", steps=5, on_step=interrupt)
    steps = []
    again, rest = fitted(cubes, tmp_path / "b", steps=5, on_step=lambda share, row: steps.append(row["step"]))
    assert steps == [4, 5]
    assert rest.rows[-1]["train"] == curve.rows[-1]["train"]
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_mean_of_the_weights_is_kept(cubes, tmp_path):
    mean, _ = fitted(cubes, tmp_path / "a.d", steps=3)
    last, _ = fitted(cubes, tmp_path / "b.d", steps=3, settings=RestorerFitSettings(average=0))
    assert any(not torch.equal(a, b) for a, b in zip(mean.parameters(), last.parameters(), strict=True))


def test_time_becomes_a_number_of_steps_that_a_resumed_fit_keeps(cubes, tmp_path):
    shares = []

    def look(share, row):
        shares.append(share)
        raise KeyboardInterrupt

    net, checkpoint = Restorer(SMALL), Checkpoint(tmp_path / "c.safetensors", {})
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        fit(RestorerTask(net, cubes, 0), cubes.settings, Budget(minutes=0.2), checkpoint=checkpoint, on_step=look)
    assert any(not torch.equal(v, before[k]) for k, v in net.state_dict().items())
    progress = checkpoint.read()[1]
    assert progress.steps >= 20
    assert shares == [1 / progress.steps]
    with pytest.raises(KeyboardInterrupt):
        fit(RestorerTask(net, cubes, 0), cubes.settings, Budget(minutes=9.0), checkpoint=checkpoint, on_step=look)
    assert shares[1] == 2 / progress.steps


def test_other_steps_or_settings_are_another_run(cubes, tmp_path):
    fitted(cubes, tmp_path, steps=2)
    with pytest.raises(UsageError, match="had 2 steps, not 5"):
        fitted(cubes, tmp_path, steps=5)
    with pytest.raises(UsageError, match="another scans"):
        fitted(cubes, tmp_path, steps=2, plan={"scans": ["b"]})
    (tmp_path / "c.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(UsageError, match="damaged"):
        fitted(cubes, tmp_path, steps=2)
