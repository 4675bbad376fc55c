"""The restorer of a target, and how much it changes scans that need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.refine import refine
from blindharmony.target import Target
from blindharmony.target.restorer import RestorerSpec
from blindharmony.training.head import Head
from blindharmony.training.progress import Report
from blindharmony.training.restorer_fit import fit_restorer
from blindharmony.training.restorer_pool import make_cubes

# A head takes 50 MB of disk; more heads than this teach a network of this size little.
_MOST_HEADS = 40


def with_restorer(
    target: Target,
    heads: Sequence[Head],
    held_out: Sequence[Head],
    *,
    minutes: float,
    steps: int | None,
    seed: int,
    plan: dict[str, Any],
    folder: Path,
    resume: bool,
    device: str,
    spec: RestorerSpec | None = None,
    report: Report,
) -> Target:
    """The target with a restorer trained on the same heads.

    Args:
        target: With its person model, whose rows are ``heads`` and then ``held_out``.
        heads: Training heads.
        held_out: Heads that only tell how much a scan of the target itself is changed.
        minutes: Time to spend, if ``steps`` is None.
        steps: Steps to take.
        seed: Of weights and draws.
        plan: To recognise an interrupted run.
        folder: For heads and the checkpoint.
        resume: Go on from the checkpoint.
        device: Where to train.
        spec: Its shape.
        report: Called with stage, share done and numbers.
    """
    spec = spec or RestorerSpec()
    cubes = make_cubes(heads[:_MOST_HEADS], target, folder, on_head=lambda i, n: report("cutting heads", i / n, {}))
    net = fit_restorer(
        cubes,
        spec,
        minutes=minutes,
        steps=steps,
        seed=seed,
        plan=plan,
        checkpoint=folder / "restorer.safetensors",
        resume=resume,
        device=device,
        on_step=lambda i, n, loss: report("restorer", i / n, {"step": float(i), "train": loss}),
    )
    taught = replace(target, restorer=net)
    held = target.info.held_out.model_copy(
        update={"restorer_change": tuple(_own_change(taught, h, len(heads) + i) for i, h in enumerate(held_out))}
    )
    return replace(taught, info=target.info.model_copy(update={"restorer": spec, "held_out": held}))


def _own_change(target: Target, head: Head, row: int) -> float:
    """The change made to a head of the target whose curve was told as well as the person model tells it."""
    if target.person is None:
        raise ValueError("the target has no person model")
    image, mask = (part.numpy() for part in head.image())
    curve = CurveMap.through(target.quantiles[row], np.maximum.accumulate(target.person.left_out()[row]))
    return refine(np.where(mask, curve(image), 0).astype(np.float32), mask, target, strength=1.0).change
