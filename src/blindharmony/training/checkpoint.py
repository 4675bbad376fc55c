"""Where a training run stands, in one file that is replaced in one piece."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.image import write_bytes
from blindharmony.training.fit import FitState

_PARTS = ("best", "moments")


@dataclass
class Checkpoint:
    """A run between two steps.

    Attributes:
        level: Position in the order in which levels are trained.
        fit: State of that level's fit.
        plan: What the run was asked to do; a resumed run must have been asked the same.
    """

    level: int
    fit: FitState
    plan: dict[str, Any]


def save_checkpoint(path: Path, flow: nn.Module, checkpoint: Checkpoint) -> None:
    """Write flow, optimiser and plan."""
    tensors: dict[str, Tensor] = {f"flow.{k}": v for k, v in flow.state_dict().items()}
    for part, values in zip(_PARTS, (checkpoint.fit.best_weights, checkpoint.fit.moments), strict=True):
        tensors |= {f"{part}.{k}": v for k, v in values.items()}
    meta = {
        "level": checkpoint.level,
        "step": checkpoint.fit.step,
        "best": checkpoint.fit.best,
        "plan": checkpoint.plan,
    }
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"run": json.dumps(meta)})
    write_bytes(path, content, overwrite=True)


def load_checkpoint(path: Path, flow: nn.Module, plan: dict[str, Any]) -> Checkpoint:
    """Read a checkpoint into ``flow``.

    Raises:
        UsageError: If it is damaged, or belongs to a run with other data or settings.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["run"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise UsageError("this checkpoint is damaged", remedy="start again without --resume", path=path) from None
    differing = [k for k, v in json.loads(json.dumps(plan)).items() if k != "steps" and meta["plan"].get(k) != v]
    if differing:
        raise UsageError(
            f"the interrupted run had another {', '.join(differing)}",
            remedy="resume with the same inputs and options, or start again without --resume",
            path=path,
        )
    groups: dict[str, dict[str, Tensor]] = {"flow": {}, **{p: {} for p in _PARTS}}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        groups[part][name] = value
    flow.load_state_dict(groups["flow"])
    fit = FitState(meta["step"], meta["best"], groups["best"], groups["moments"])
    return Checkpoint(meta["level"], fit, meta["plan"])
