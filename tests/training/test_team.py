"""Several processes train the flow that one would have trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import team_fit
import torch
from safetensors import safe_open

from blindharmony.errors import UsageError
from blindharmony.flows.pyramid import LevelFlow
from blindharmony.settings import FlowFitSettings
from blindharmony.training.loop import Budget, Compute, ProcessGroup, fit
from blindharmony.training.pyramid import LevelTask

SCRIPT = Path(__file__).with_name("team_fit.py")


def trained(place, batch, processes=1):
    """Weights and losses of every process; a single one is this one."""
    if processes == 1:
        team_fit.train(place, batch)
    else:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words = [sys.executable, *start, str(SCRIPT), str(place), str(batch)]
        threads = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, env=threads)
        assert done.returncode == 0, done.stderr[-2000:]
    found = []
    for rank in range(processes):
        with safe_open(f"{place}.{rank}", "pt") as file:
            weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
            found.append((weights, json.loads(file.metadata()["train"])))
    return found


@pytest.mark.long
def test_two_processes_do_what_one_does_with_the_same_batch(tmp_path):
    (alone,) = trained(tmp_path / "one", 2)
    both = trained(tmp_path / "two", 2, processes=2)
    (other_batch,) = trained(tmp_path / "single", 1)
    for weights, losses in both:
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(alone[1]), rtol=1e-5, atol=1e-5)
        for name, value in alone[0].items():
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
    for name, value in both[0][0].items():
        assert torch.equal(both[1][0][name], value), "the processes end with the same weights"
    assert any(not torch.allclose(other_batch[0][k], v, atol=1e-4) for k, v in alone[0].items())


def test_an_uneven_batch_is_refused():
    with pytest.raises(UsageError, match="multiple"):
        Compute(batch=3, group=ProcessGroup(0, 2))


def test_every_piece_of_work_is_shared_once():
    assert sorted(piece for rank in range(3) for piece in ProcessGroup(rank, 3).share(8)) == list(range(8))


def test_mixed_precision_learns_the_same_density():
    """bfloat16 convolutions change the loss in the third digit, not the outcome."""
    data = team_fit.data

    found = []
    for mixed in (False, True):
        torch.manual_seed(0)
        flow = LevelFlow(7, context=2, width=8, blocks=1, rounds=1, bins=4)
        before = flow.state_dict()["layers.0.head.weight"].clone()
        held = [data(np.random.default_rng(i)) for i in (90, 91)]
        compute = Compute(mixed=mixed)
        task = LevelTask(flow, data, held, seed=(0, 1), compute=compute)
        found.append(fit(task, FlowFitSettings(), Budget(60), compute=compute).best)
        assert flow.state_dict()["layers.0.head.weight"].dtype == torch.float32
        assert not torch.equal(flow.state_dict()["layers.0.head.weight"], before)
    assert found[0] != found[1]
    assert abs(found[0] - found[1]) < 0.03
