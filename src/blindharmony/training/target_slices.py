"""The slice flow of a target, which the published method needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blindharmony.flow import MultiScaleSpec, small_2d
from blindharmony.target import Target
from blindharmony.training.head import Head
from blindharmony.training.progress import Report
from blindharmony.training.slice_flow import train_slice_flow

# A whole 1 mm head takes 25 MB; forty of them hold more slices than a flow of this size can learn by heart.
_MOST_HEADS = 40


def with_slice_flow(
    target: Target,
    heads: Sequence[Head],
    held_out: Sequence[Head],
    *,
    minutes: float | None,
    steps: int | None,
    seed: int,
    device: str,
    checkpoint: Path | None = None,
    spec: MultiScaleSpec | None = None,
    report: Report,
) -> Target:
    """The target with a slice flow trained on the same heads.

    Args:
        target: Without, or with an older slice flow.
        heads: Training heads.
        held_out: Heads that choose the best weights and are reported.
        minutes: Time to spend, if ``steps`` is None.
        steps: Steps to take.
        seed: Of weights, slices and noise.
        device: Where to train.
        checkpoint: Where an interrupted training goes on.
        spec: Its shape; the small one, which suits two cores, if None.
        report: Called with stage, share done and numbers.
    """
    images = [h.image() for h in heads[:_MOST_HEADS]]
    unseen = [h.image() for h in held_out]
    flow, curve = train_slice_flow(
        [x.numpy() for x, _ in images],
        [m.numpy() for _, m in images],
        spec or small_2d(),
        minutes=None if steps else minutes,
        steps=steps,
        seed=seed,
        validation=([x.numpy() for x, _ in unseen], [m.numpy() for _, m in unseen]),
        checkpoint=checkpoint,
        device=device,
        progress=lambda share: report("slice flow", share, {}),
    )
    judged = [p.validation for p in curve if p.validation is not None]
    held = target.info.held_out.model_copy(update={"slice_bits": min(judged) if judged else None})
    info = target.info.model_copy(update={"slices": flow.spec, "held_out": held})
    return replace(target, info=info, slices=flow.to("cpu"))
