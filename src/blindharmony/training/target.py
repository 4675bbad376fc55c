"""From scans to a target model.

From a folder of scans of one scanner to its target model.

Learn a target scanner from its scans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blindharmony.device import exact_convolutions
from blindharmony.errors import OutputError, UsageError
from blindharmony.files import file_sha256, write_text
from blindharmony.flows.pyramid import Pyramid, PyramidSpec, most_probable
from blindharmony.io.bids import find_masks, find_scans
from blindharmony.models.file import load_target, save_target
from blindharmony.models.target import HeldOut, Target, TargetInfo, atlas_tensor
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.quality.typicality import level_bits
from blindharmony.training.data import (
    COPIES,
    Pool,
    Report,
    hold_out,
    make_pool,
    mean_image,
    person_of,
    prepare_heads,
    work_folder,
)
from blindharmony.training.distributed import Compute
from blindharmony.training.person import with_people
from blindharmony.training.pyramid import fit_pyramid
from blindharmony.training.restorer import with_restorer
from blindharmony.training.slices import with_slice_flow
from blindharmony.version import VERSION

_RANKS = 512
_FLOW_SHARE = 2 / 3
_CHANGES = np.linspace(-0.1, 0.1, 5)
_FAMILIES = ("gain", "gamma", "bias left-right", "bias back-front", "bias down-up")


@exact_convolutions()
def train_target(
    scans: Sequence[Path],
    out: Path,
    *,
    held_out: Sequence[Path] = (),
    minutes: float = 30.0,
    steps: int | None = None,
    slice_minutes: float = 0.0,
    slice_steps: int | None = None,
    restorer: bool = True,
    restorer_steps: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    compute: Compute | None = None,
    spec: PyramidSpec | None = None,
    copies: int = COPIES,
    recipe: PrepRecipe | None = None,
    mask_dir: Path | None = None,
    mask_command: str | None = None,
    name: str | None = None,
    suffix: str = "T1w",
    data: str = "",
    licence: str = "",
    notes: dict[str, str] | None = None,
    report: Report | None = None,
) -> Target:
    """Prepare the scans, train the flow, calibrate it on held-out scans, and write the model.

    Args:
        scans: Training scans.
        out: Where the model goes, with its training log beside it; intermediate files live in a folder there until
            it is done.
        held_out: Scans that never train; if empty, every fifth person is held out (at most four).
        minutes: Time for flow (two thirds) and restorer, preparation not counted.
        steps: Steps of every level of the flow instead of a time.
        slice_minutes: Time for the slice flow of the published method; none is trained at 0.
        slice_steps: Its steps instead of a time.
        restorer: Whether a restorer is trained too.
        restorer_steps: Its steps instead of a time.
        resume: Go on where an interrupted run stopped.
        overwrite: Replace an existing model.
        seed: Of everything random.
        compute: Where and how the flow trains, and which processes share the work; the first one does the rest.
        spec: Shape of the flow.
        copies: Deformed copies of each training head.
        recipe: Preparation.
        mask_dir: Folder of derivatives with a brain mask of every scan.
        mask_command: External brain extractor with ``{input}`` and ``{output}``, for whole heads without a mask.
        name: Of the model; the file's name by default.
        suffix: BIDS suffix of the contrast.
        data: Where the scans come from, for the model card.
        licence: Of the model, for the model card.
        notes: Anything else for the model card.
        report: Called with stage, share done and numbers.

    Raises:
        UsageError: If there are fewer than five scans, four that are not held out, or three people, a number of steps
            or minutes makes no sense, or ``resume`` does not fit the interrupted run.
        OutputError: If the model exists already, or another run is making it.
        BlindHarmonyError: If a scan cannot be prepared; the message names it.

    Example:
        >>> scans = sorted(Path("study").glob("*.nii.gz"))
        >>> train_target(scans, Path("mysite.safetensors"), minutes=30)           # doctest: +SKIP
        <Target mysite (1f516e1cbd28), 16 scans>
    """
    if out.exists() and not overwrite:
        raise OutputError("exists already", remedy="pass --overwrite or choose another name", path=out)
    for what, value in (("steps", steps), ("slice_steps", slice_steps), ("restorer_steps", restorer_steps)):
        if value is not None and value < 1:
            raise UsageError(f"{what} is {value}", remedy="give a number of steps, or None to go by the time")
    for what, time in (("minutes", minutes), ("slice_minutes", slice_minutes)):
        if not 0 <= time < math.inf:
            raise UsageError(f"{what} is {time}", remedy="give a time in minutes")
    compute = compute or Compute()
    team = compute.team
    training, unseen = hold_out(list(scans), list(held_out))
    everybody = training + unseen
    masks = find_masks(everybody, mask_dir, command=mask_command)
    prepared = partial(prepare_heads, masks=masks, mask_command=mask_command)
    recipe, spec = recipe or PrepRecipe(), spec or PyramidSpec()
    say: Report = report or (lambda stage, done, numbers: None)
    with work_folder(out, resume=resume, first=team.first) as work:
        team.wait()
        if team.size > 1:
            prepared([everybody[i] for i in team.share(len(everybody))], recipe, work, say)
            team.wait()
        heads = prepared(everybody, recipe, work, say)
        # Now, not hours later: what has been prepared is not read again.
        known = tuple(sorted(file_sha256(p)[:16] for p in everybody))
        training_heads, unseen_heads = heads[: len(training)], heads[len(training) :]

        def on_head(done: int, total: int) -> None:
            say("deforming heads", done / total, {})

        pool = team.after_first(lambda: make_pool(training_heads, work, seed=seed, copies=copies, on_head=on_head))
        unseen_pool = team.after_first(lambda: make_pool(unseen_heads, work, seed=seed, copies=0))
        average, coverage = mean_image(pool)
        judged = replace(unseen_pool, region=(coverage > 0.5)[None, None])
        torch.manual_seed(seed)
        flow = Pyramid(spec, atlas_tensor())
        plan: dict[str, Any] = {
            "version": VERSION,
            "seed": seed,
            "scans": [h.key for h in training_heads],
            "held-out scans": [h.key for h in unseen_heads],
            "preparation": recipe.digest(),
            "deformed copies": copies,
            "flow": spec.model_dump(mode="json"),
            "batch": compute.batch,
            "mixed precision": compute.mixed,
        }
        flow_minutes = minutes * (_FLOW_SHARE if restorer else 1)
        calibrated = fit_pyramid(
            flow,
            pool,
            unseen_pool,
            work,
            judged=judged,
            plan=plan,
            minutes=flow_minutes,
            steps=steps,
            resume=resume,
            compute=compute,
            report=say,
        )
        if not team.first:
            team.wait()
            return load_target(out)
        spreads = tuple(c.spread for c in calibrated)
        say("calibrating", 1.0, {})
        info = TargetInfo(
            name=name or out.stem,
            suffix=suffix,
            scans=len(training),
            learnt_from=known,
            recipe=recipe,
            # The middle scan's gain: the harmonized image then looks like a scan of this scanner in numbers too.
            unit=float(np.median([h.gain for h in training_heads])),
            pyramid=spec,
            data=data,
            licence=licence,
            made_with=VERSION,
            seed=seed,
            notes=dict(notes or {}),
        )
        target = _judged(_assemble(info, flow, average, coverage), judged, spreads, say)
        target = with_people(target, heads, (pool, unseen_pool), [person_of(p) for p in everybody], report=say)
        if restorer:
            target = with_restorer(
                target,
                training_heads,
                unseen_heads,
                minutes=minutes - flow_minutes,
                steps=restorer_steps,
                seed=seed,
                plan=plan,
                folder=work,
                resume=resume,
                device=compute.device,
                report=say,
            )
        if slice_minutes > 0 or slice_steps:
            target = with_slice_flow(
                target,
                training_heads,
                unseen_heads,
                minutes=slice_minutes,
                steps=slice_steps,
                seed=seed,
                device=compute.device,
                checkpoint=work / "slices.safetensors",
                report=say,
            )
        channels = {"latent_channels": tuple(c.spreads for c in calibrated)}
        info = target.info.model_copy(update={"held_out": target.info.held_out.model_copy(update=channels)})
        saved = save_target(replace(target, info=info), out, overwrite=overwrite)
        write_text(log_name(out), (work / "log.jsonl").read_text(), overwrite=True)
        team.wait()
        return saved


def log_name(model: Path) -> Path:
    """Where the log of a model's training is kept: one JSON object a line.

    Example:
        >>> log_name(Path("mysite.safetensors")).name
        'mysite.log.jsonl'
    """
    return model.with_name(f"{model.stem}.log.jsonl")


def _assemble(info: TargetInfo, flow: Pyramid, average: Tensor, coverage: Tensor) -> Target:
    return Target(
        info=info,
        levels=(np.arange(_RANKS) + 0.5) / _RANKS,
        quantiles=np.zeros((0, _RANKS)),
        coverage=coverage.numpy(),
        mean_image=average.numpy(),
        pyramid=flow.eval().requires_grad_(False),
    )


def _judged(target: Target, pool: Pool, spreads: tuple[float, ...], report: Report) -> Target:
    """The target with what its flow says about held-out scans."""
    flow = target.pyramid
    assert flow is not None  # it has just been trained
    densities, likes = [], []
    for index in range(len(pool.files)):
        image, mask = pool.load(index, 0)
        with torch.inference_mode():
            densities.append(flow.density(image, mask))
        likes.append(most_probable(flow, image, mask, _CHANGES, _FAMILIES))
        report("judging held-out scans", (index + 1) / len(pool.files), {})
    levels = range(len(flow.levels))
    honesty = {f: tuple(tuple(round(scan[k][f], 5) for scan in likes) for k in levels) for f in _FAMILIES}
    held_out = HeldOut(
        scans=len(pool.files),
        bits_per_dim=tuple(float(d.bits_per_dim()[0]) for d in densities),
        level_bits=tuple(level_bits(d) for d in densities),
        latent_sd=spreads,
        honesty=honesty,
    )
    return replace(target, info=target.info.model_copy(update={"held_out": held_out}))


def train(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    suffix: str = "T1w",
    device: str = "cpu",
    **options: Any,
) -> Target:
    """Train a target model from files, folders or a BIDS study.

    Args:
        inputs: Where the target's scans are.
        out: File of the model.
        suffix: Which scans of a BIDS study are meant.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        options: See :func:`~blindharmony.training.target.train_target`.

    Raises:
        BlindHarmonyError: As there; one line that names the file, what is wrong and what to do.

    Example:
        >>> train("study/", "mysite.safetensors", minutes=10)                     # doctest: +SKIP
    """
    from blindharmony.device import resolved_device
    from blindharmony.training.distributed import Compute

    given = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    scans = find_scans([Path(p) for p in given], suffix=suffix)
    options.setdefault("compute", Compute(device=resolved_device(device)))
    return train_target(scans, Path(out), suffix=suffix, **options)
