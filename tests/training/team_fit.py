"""Train one small level; started by torchrun, or alone. Arguments: file of the weights, patches a step."""

import sys

import numpy as np
import torch
from safetensors.torch import save_file

from blindharmony.flows.pyramid import LevelFlow
from blindharmony.settings import FlowFitSettings
from blindharmony.training.loop import Budget, Compute, ProcessGroup, fit
from blindharmony.training.pyramid import LevelData, LevelTask


def data(rng):
    noise = torch.Generator().manual_seed(int(rng.integers(2**31)))
    context = torch.randn(1, 2, 8, 8, 8, generator=noise)
    values = 0.5 * torch.randn(1, 7, 8, 8, 8, generator=noise) + context[:, :1]
    return LevelData(values, context, torch.ones(1, 7, 8, 8, 8, dtype=torch.bool))


def train(place, batch):
    group = ProcessGroup.from_environment()
    # Another start in each process would show if they did not agree on the weights they keep.
    torch.manual_seed(0)
    flow = LevelFlow(7, context=2, width=4, blocks=1, rounds=1, bins=4, dropout=0.1)
    lines = []
    compute = Compute(batch=batch, group=group)
    task = LevelTask(flow, data, [data(np.random.default_rng(99))], seed=(0, 1), patch=4, compute=compute)
    progress = fit(
        task, FlowFitSettings(), Budget(8), compute=compute, on_step=lambda share, numbers: lines.append(numbers)
    )
    own = {k: v.contiguous() for k, v in flow.state_dict().items()}
    save_file(own, f"{place}.{group.rank}", {"best": str(progress.best), "train": str([row["train"] for row in lines])})
    group.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], int(sys.argv[2]))
