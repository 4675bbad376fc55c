"""Training of the slice flow: it learns, repeats itself, and survives interruptions."""

from __future__ import annotations

import math
import os
import signal
import threading

import numpy as np
import pytest
import torch

from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.flows.glow import MultiScaleSpec
from blindharmony.settings import SliceFitSettings
from blindharmony.training.loop import Budget, Checkpoint, fit
from blindharmony.training.slices import SliceData, SliceTask

SPEC = MultiScaleSpec(levels=2, steps=1, width=4, coupling="affine", blocks=1, dropout=0.1, centre=0.5)
SHAPE = (16, 16, 6)


def scans(count: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng, mask = np.random.default_rng(seed), np.zeros(SHAPE, bool)
    mask[3:13, 4:12, 1:5] = True
    tissue = np.where(np.arange(16)[:, None, None] < 8, 0.9, 1.25)
    volumes = [np.where(mask, tissue + 0.05 * rng.normal(size=SHAPE), 7).astype(np.float32) for _ in range(count)]
    return volumes, [mask] * count


def train(*, steps=8, minutes=None, seed=0, checkpoint=None, progress=None):
    settings = SliceFitSettings(batch=3, look_every=3)
    task = SliceTask(SPEC, SliceData(*scans(3)), SliceData(*scans(1, seed=5)), settings=settings, seed=seed)
    kept = checkpoint and Checkpoint(checkpoint, {"seed": seed})
    curve = fit(
        task,
        settings,
        Budget(steps, minutes),
        checkpoint=kept,
        on_step=lambda share, numbers: progress and progress(share),
    ).rows
    return task.networks, [{k: v for k, v in row.items() if k != "seconds"} for row in curve]


def same(one, two) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_and_keeps_the_best():
    flow, curve = train(steps=60)
    assert curve[-1]["held_out"] < curve[0]["held_out"]
    assert [row["step"] for row in curve] == list(range(3, 61, 3))
    assert not flow.training
    assert flow.spec.grey_levels == 4096
    x = SliceData(*scans(1)).batch([0])
    assert torch.allclose(flow.to_image(flow.to_latent(x)[0])[0], x, atol=1e-4)


def test_same_seed_same_bytes_whatever_the_rest_of_the_process_drew():
    one = train()[0]
    torch.rand(5)
    before = torch.get_rng_state()
    assert same(one, train()[0])
    assert torch.equal(before, torch.get_rng_state())
    assert not same(one, train(seed=1)[0])


@pytest.mark.parametrize("stop", [2, 3, 7])
def test_an_interrupted_training_continues_as_if_nothing_had_happened(tmp_path, stop):
    checkpoint, steps, before = tmp_path / "run.safetensors", [], signal.getsignal(signal.SIGINT)

    def interrupt(_):
        steps.append(1)
        if len(steps) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=checkpoint, progress=interrupt)
    assert len(steps) == stop
    assert signal.getsignal(signal.SIGINT) is before
    rest = []
    flow, curve = train(checkpoint=checkpoint, progress=rest.append)
    assert len(rest) == 8 - len(steps)
    whole, whole_curve = train()
    assert same(flow, whole)
    assert curve == whole_curve
    again = train(checkpoint=checkpoint, progress=lambda _: pytest.fail("it was finished"))
    assert same(again[0], whole)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    checkpoint = tmp_path / "run.safetensors"
    train(checkpoint=checkpoint)
    with pytest.raises(UsageError, match="another seed"):
        train(checkpoint=checkpoint, seed=3)
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="damaged"):
        train(checkpoint=checkpoint)


def test_a_gradient_that_is_no_number_is_skipped_and_many_stop_the_training(monkeypatch):
    class Broken(SliceTask):
        wrong = frozenset({1})

        def step(self, number, update):
            if number in self.wrong:
                bits = self.networks.bits_per_dim(self._noisy(self._training, [0])).mean()
                return {"train": update.descend([bits * math.nan])}
            return super().step(number, update)

    task = Broken(SPEC, SliceData(*scans(3)))
    progress = fit(task, SliceFitSettings(), Budget(3))
    assert all(bool(v.isfinite().all()) for v in task.networks.state_dict().values())
    assert math.isfinite(progress.rows[-1]["train"])
    task.wrong = range(10**6)
    monkeypatch.setattr("blindharmony.training.loop._DIVERGED", 5)
    with pytest.raises(BlindHarmonyError, match="diverged"):
        fit(task, SliceFitSettings(), Budget(9))


def test_time_limits_and_other_threads_work():
    assert train(steps=None, minutes=1e-6)[1][-1]["step"] == 20
    results = []
    thread = threading.Thread(target=lambda: results.append(train()[0]))
    thread.start()
    thread.join()
    assert same(results[0], train()[0])
    for wrong in ({"steps": 0}, {"minutes": math.nan}, {"minutes": -1.0}, {}):
        with pytest.raises(UsageError, match=r"steps|minutes"):
            Budget(**wrong)


def test_slices_are_masked_scaled_and_chosen():
    volumes, masks = scans(2)
    data = SliceData(volumes, masks)
    assert len(data) == 8
    x = data.batch([0, 7])
    assert x.shape == (2, 1, 16, 16)
    assert not x[:, 0, ~torch.from_numpy(masks[0][:, :, 1])].any()
    assert x.max() < 0.75
    assert data.spread(3) == [0, 3, 7]
    assert data.spread(99) == list(range(8))
    with pytest.raises(ValueError, match="one mask"):
        SliceData(volumes, masks[:1])
    with pytest.raises(ValueError, match="brain"):
        SliceData(volumes, [np.zeros(SHAPE, bool)] * 2)
    with pytest.raises(ValueError, match="ceiling"):
        SliceData(volumes, masks, 0)
