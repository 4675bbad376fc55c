"""A training in its folder: safetensors and JSON, replaced in one piece.

``checkpoint.safetensors`` while it runs, ``network.safetensors`` when it is done, ``curve.jsonl`` a line for each look
at the held-out scans, ``training.json`` what was learnt, how long it took and how many numbers it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from blindharmony.image import write_bytes, write_text

NETWORK, CHECKPOINT, CURVE, SUMMARY = "network.safetensors", "checkpoint.safetensors", "curve.jsonl", "training.json"
Row = dict[str, float]


@dataclass
class Progress:
    """A training between two steps.

    Attributes:
        step: Steps done.
        seconds: Spent on them, all sittings together.
        best: Lowest held-out score so far.
        rows: Of the learning curve.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    rows: list[Row] = field(default_factory=list)


Parts = Mapping[str, Mapping[str, Tensor]]


def write_checkpoint(folder: Path, progress: Progress, parts: Parts, plan: Mapping[str, Any]) -> None:
    """Keep where a training stands.

    Args:
        folder: Its folder.
        progress: Counters.
        parts: Named groups of tensors.
        plan: What is being learnt from what; a training with another plan is another one.
    """
    _write(folder / CHECKPOINT, parts, {"plan": plan, "progress": vars(progress)})
    write_curve(folder, progress.rows)


def read_checkpoint(folder: Path, plan: Mapping[str, Any]) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
    """Where a training of this plan stood, or None if there is none."""
    found = _read(folder / CHECKPOINT, plan)
    return None if found is None else (Progress(**found[0]["progress"]), found[1])


def write_network(
    folder: Path, weights: Mapping[str, Tensor], plan: Mapping[str, Any], progress: Progress, numbers: int
) -> None:
    """Keep what was learnt; the checkpoint is no longer needed."""
    _write(folder / NETWORK, {"network": weights}, {"plan": plan})
    write_curve(folder, progress.rows)
    best = progress.best if progress.best < float("inf") else None
    summary = {"plan": plan, "steps": progress.step, "seconds": round(progress.seconds, 1), "held_out": best}
    write_text(folder / SUMMARY, json.dumps({**summary, "parameters": numbers}, indent=1) + "\n", overwrite=True)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def read_network(folder: Path, plan: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Weights learnt by this plan, or None."""
    found = _read(folder / NETWORK, plan)
    return None if found is None else found[1]["network"]


def write_curve(folder: Path, rows: list[Row]) -> None:
    """The learning curve, one JSON object a line."""
    write_text(folder / CURVE, "".join(json.dumps(r) + "\n" for r in rows), overwrite=True)


def moments(optimisers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """What optimisers remember, by name."""
    found: dict[str, Tensor] = {}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            found |= {f"{name}|{index}|{key}": value for key, value in state.items()}
    return found


def put_moments(optimisers: Mapping[str, Optimizer], kept: Mapping[str, Tensor]) -> None:
    """Remind optimisers of it."""
    for name, optimiser in optimisers.items():
        content = optimiser.state_dict()
        for key, value in kept.items():
            owner, index, what = key.split("|")
            if owner == name:
                content["state"].setdefault(int(index), {})[what] = value
        optimiser.load_state_dict(content)


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Its weights, as they are now."""
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _write(path: Path, parts: Parts, meta: Mapping[str, Any]) -> None:
    flat = {f"{p}/{k}": v.detach().cpu().contiguous() for p, own in parts.items() for k, v in own.items()}
    write_bytes(path, save(flat, {"about": json.dumps(meta, sort_keys=True)}), overwrite=True)


def _read(path: Path, plan: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            flat = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    # A file that is missing or damaged means learning again.
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    if about.get("plan") != json.loads(json.dumps(plan)):
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        part, name = key.split("/", 1)
        groups.setdefault(part, {})[name] = value
    return about, groups
