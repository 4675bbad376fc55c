"""A target scanner is learnt from its scans, from files to one written model.

The order of a training:

1. Every fifth person is held out; all scans are prepared (:mod:`~blindharmony.training.data`).
2. The flow of whole heads learns level by level, and is calibrated on held-out scans
   (:mod:`~blindharmony.training.pyramid`).
3. The flow is judged: what held-out scans cost, and which gain, gamma or bias it would like them to have.
4. The person model learns from all scans (:mod:`~blindharmony.training.person`).
5. What is usual at each place of its scans is noted (:mod:`~blindharmony.quality.places`), if there are enough.
6. The restorer learns from random scanners (:mod:`~blindharmony.training.restorer`), if it is wanted.
7. The flow of slices learns for the published method (:mod:`~blindharmony.training.slices`), if it is wanted.
8. The model and the log of its training are written.

All networks are trained by one loop (:mod:`~blindharmony.training.loop`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blindharmony.device import exact_convolutions
from blindharmony.errors import OutputError, UsageError
from blindharmony.files import write_text
from blindharmony.flows.pyramid import Pyramid, PyramidSpec, most_probable
from blindharmony.io.bids import find_masks, find_scans
from blindharmony.models.file import load_target, save_target
from blindharmony.models.target import HeldOut, Target, TargetInfo, atlas_tensor
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.quality.places import FEWEST, place_costs, place_darkness, usual_places
from blindharmony.settings import TrainSettings
from blindharmony.training.data import (
    Head,
    ImagePool,
    Report,
    TrainingData,
    hold_out,
    mean_image,
    named_scans,
    training_data,
    work_folder,
)
from blindharmony.training.loop import Budget, Checkpoint, Compute
from blindharmony.training.person import with_people
from blindharmony.training.pyramid import Calibration, fit_pyramid
from blindharmony.training.restorer import with_restorer
from blindharmony.training.slices import with_slice_flow
from blindharmony.version import VERSION

_FAMILIES = ("gain", "gamma", "bias left-right", "bias back-front", "bias down-up")


@exact_convolutions()
def train(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    settings: TrainSettings | None = None,
    *,
    participant_labels: Sequence[str] | None = None,
    held_out: Sequence[str | PathLike[str]] = (),
    restorer_from: str | PathLike[str] | Target | None = None,
    mask_dir: str | PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    compute: Compute | None = None,
    spec: PyramidSpec | None = None,
    recipe: PrepRecipe | None = None,
    notes: Mapping[str, str] | None = None,
    report: Report | None = None,
    **choices: Any,
) -> Target:
    """Train a target model from files, folders or a BIDS study, and write it.

    Args:
        inputs: Where the target's scans are.
        out: File of the model, with its training log beside it; intermediate files live in a folder there until it is
            done.
        settings: What decides the model.
        participant_labels: Subjects of a BIDS study; all if None.
        held_out: Subjects or files that no network learns from; every fifth person (four at most) if empty.
        restorer_from: Model whose restorer this one's begins with; it then learns on. Not only the target's own scans
            have taught it in that case.
        mask_dir: Folder of derivatives with a brain mask of every scan.
        resume: Go on where an interrupted run stopped.
        overwrite: Replace an existing model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        compute: Device, precision and the processes that share the work; made from ``device`` and the settings if
            None. The first process alone does what follows the flow.
        spec: Shape of the flow.
        recipe: Preparation; the included one with the settings' bias field by default.
        notes: Anything else for the model card.
        report: Called with stage, share done and numbers.
        choices: Fields of :class:`~blindharmony.settings.TrainSettings` in place of those of ``settings``, such as
            ``minutes=10`` or ``restorer=False``.

    Raises:
        UsageError: If there are fewer than five scans, four that are not held out, or three people, a setting is
            unknown or makes no sense, or ``resume`` does not fit the interrupted run.
        OutputError: If the model exists already, or another run is making it.
        BlindHarmonyError: If a scan cannot be prepared; one line names the file, what is wrong and what to do.

    Example:
        >>> train("study/", "mysite.safetensors", minutes=10)                     # doctest: +SKIP
        <Target mysite (1f516e1cbd28), 16 scans>
    """
    settings, out = (settings or TrainSettings()).updated(**choices), Path(out)
    if out.exists() and not overwrite:
        raise OutputError("exists already", remedy="pass --overwrite or choose another name", path=out)
    items = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    scans = find_scans([Path(p) for p in items], participant_labels=participant_labels, suffix=settings.suffix)
    training, unseen = hold_out(scans, named_scans(scans, held_out))
    masks = find_masks(training + unseen, Path(mask_dir) if mask_dir else None, command=settings.mask_command)
    begin = _beginning(restorer_from, settings)
    compute = compute or Compute.of(settings, device)
    recipe, spec = recipe or PrepRecipe(bias=settings.bias), spec or PyramidSpec()
    report = report or _silent
    with work_folder(out, resume=resume, first=compute.group.first) as work:
        compute.group.wait()
        data = training_data(training, unseen, work, settings, recipe, masks=masks, group=compute.group, report=report)
        plan = _plan(data, settings, recipe, spec, compute)
        average, coverage = mean_image(data.images)
        judged = replace(data.held_out_images, region=(coverage > 0.5)[None, None])
        flow, calibrations = _flow(data, judged, settings, spec, plan, work, compute, report)
        if not compute.group.first:
            compute.group.wait()
            return load_target(out)
        report("calibrating", 1.0, {})
        ranks = settings.flow_fit.ranks
        target = Target(
            info=TargetInfo(
                name=settings.name or out.stem,
                suffix=settings.suffix,
                scans=len(training),
                learnt_from=data.learnt_from,
                recipe=recipe,
                # The middle scan's gain: the harmonized image then looks like a scan of this scanner in numbers too.
                unit=float(np.median([head.gain for head in data.heads])),
                pyramid=spec,
                training=settings,
                data=settings.data,
                licence=settings.licence,
                made_with=VERSION,
                seed=settings.seed,
                notes={
                    **(notes or {}),
                    **({"restorer begun with": f"{begin.info.name} ({begin.digest})"} if begin else {}),
                },
            ),
            levels=(np.arange(ranks) + 0.5) / ranks,
            quantiles=np.zeros((0, ranks)),
            coverage=coverage.numpy(),
            mean_image=average.numpy(),
            pyramid=flow.eval().requires_grad_(False),
        )
        target = _judged(target, judged, calibrations, settings, report)
        target = with_people(target, data, settings.person_fit, report=report)
        target = with_places(target, [*data.heads, *data.held_out], data.people, report=report)
        target = _with_more_networks(target, data, settings, plan, work, compute, begin, report)
        model = save_target(target, out, overwrite=overwrite)
        write_text(log_name(out), (work / "log.jsonl").read_text(), overwrite=True)
        compute.group.wait()
        return model


def _beginning(model: str | PathLike[str] | Target | None, settings: TrainSettings) -> Target | None:
    """The model that gives the restorer its first weights."""
    if model is None:
        return None
    if not settings.restorer:
        raise UsageError("--restorer-from and --no-restorer exclude each other", remedy="use one of them")
    target = load_target(model)
    if target.restorer is None:
        raise UsageError(f"{target.info.name} has no restorer to begin with", remedy="name a model that has one")
    return target


def _silent(stage: str, done: float, numbers: dict[str, float]) -> None:
    """Tell nobody."""


def _plan(
    data: TrainingData, settings: TrainSettings, recipe: PrepRecipe, spec: PyramidSpec, compute: Compute
) -> dict[str, Any]:
    """What the flow is learnt from and how; an interrupted run goes on only with the same."""
    groups = settings.model_dump(mode="json", include={"flow_fit", "deformation"})
    return {
        "version": VERSION,
        "seed": settings.seed,
        "scans": [head.key for head in data.heads],
        "held-out scans": [head.key for head in data.held_out],
        "preparation": recipe.digest(),
        "deformed copies": settings.copies,
        "flow": spec.model_dump(mode="json"),
        "batch": compute.batch,
        "mixed precision": compute.mixed,
        **groups,
    }


def _flow(
    data: TrainingData,
    judged: ImagePool,
    settings: TrainSettings,
    spec: PyramidSpec,
    plan: Mapping[str, Any],
    work: Path,
    compute: Compute,
    report: Report,
) -> tuple[Pyramid, tuple[Calibration, ...]]:
    """The flow of whole heads, trained and calibrated, and what its latents were like before."""
    torch.manual_seed(settings.seed)
    flow = Pyramid(spec, atlas_tensor())
    calibrations = fit_pyramid(
        flow,
        data.images,
        data.held_out_images,
        work,
        judged=judged,
        plan=plan,
        minutes=_flow_minutes(settings),
        steps=settings.steps,
        seed=settings.seed,
        settings=settings.flow_fit,
        compute=compute,
        report=report,
    )
    return flow, calibrations


def _flow_minutes(settings: TrainSettings) -> float:
    """The flow's part of the time, all of it if there is no restorer."""
    return settings.minutes * (settings.flow_fit.time_share if settings.restorer else 1)


def _with_more_networks(
    target: Target,
    data: TrainingData,
    settings: TrainSettings,
    plan: Mapping[str, Any],
    work: Path,
    compute: Compute,
    begin: Target | None,
    report: Report,
) -> Target:
    """The target with a restorer and a flow of slices, as far as they are wanted."""
    if settings.restorer:
        groups = settings.model_dump(mode="json", include={"person_fit", "restorer_fit", "random_scanner"})
        target = with_restorer(
            target,
            data.heads,
            data.held_out,
            budget=Budget(settings.restorer_steps, settings.minutes - _flow_minutes(settings)),
            seed=settings.seed,
            settings=settings.restorer_fit,
            scanner=settings.random_scanner,
            checkpoint=Checkpoint(
                work / "checkpoint-restorer.safetensors",
                {**plan, **groups, "restorer from": begin and begin.digest},
            ),
            # The first process alone is here.
            compute=Compute(compute.device, mixed=compute.mixed),
            start=begin.restorer if begin else None,
            log=work / "log.jsonl",
            report=report,
        )
    if settings.slice_minutes > 0 or settings.slice_steps:
        groups = settings.model_dump(mode="json", include={"slice_fit"})
        target = with_slice_flow(
            target,
            data.heads,
            data.held_out,
            budget=Budget(settings.slice_steps, settings.slice_minutes),
            seed=settings.seed,
            settings=settings.slice_fit,
            checkpoint=Checkpoint(work / "checkpoint-slices.safetensors", {**plan, **groups}),
            device=compute.device,
            report=report,
        )
    return target


def _judged(
    target: Target, images: ImagePool, calibrations: Sequence[Calibration], settings: TrainSettings, report: Report
) -> Target:
    """The target with what its flow says about held-out scans."""
    flow = target.pyramid
    assert flow is not None  # it has just been trained
    largest, count = settings.flow_fit.honesty_change, settings.flow_fit.honesty_changes
    changes = np.linspace(-largest, largest, count)
    densities, likes = [], []
    for index in range(len(images.files)):
        image, mask = images.load(index, 0)
        with torch.inference_mode():
            densities.append(flow.density(image, mask))
        likes.append(most_probable(flow, image, mask, changes, _FAMILIES))
        report("judging held-out scans", (index + 1) / len(images.files), {})
    levels = range(len(flow.levels))
    held_out = HeldOut(
        scans=len(images.files),
        bits_per_dim=tuple(float(d.bits_per_dim()[0]) for d in densities),
        level_bits=tuple(tuple(d.level_bits()[0].tolist()) for d in densities),
        latent_sd=tuple(c.spread for c in calibrations),
        latent_channels=tuple(c.spreads for c in calibrations),
        honesty={f: tuple(tuple(round(scan[k][f], 5) for scan in likes) for k in levels) for f in _FAMILIES},
    )
    return replace(target, info=target.info.model_copy(update={"held_out": held_out}))


def with_places(target: Target, heads: Sequence[Head], people: Sequence[Hashable], *, report: Report) -> Target:
    """The target with what is usual at every place of its scans, if it has enough; held-out ones serve too.

    Args:
        target: With its flow.
        heads: All its scans.
        people: Whose scan it is.
        report: Called with stage, share done and numbers.
    """
    if len(heads) < FEWEST:
        return target
    costs, darkness = [], []
    for index, head in enumerate(heads):
        image, mask = (x.numpy() for x in head.image())
        costs.append(place_costs(image, mask, target))
        darkness.append(place_darkness(image, mask, target))
        report("looking at every place", (index + 1) / len(heads), {})
    maps = [cost for cost in costs if cost is not None]
    return replace(target, places=usual_places(maps, people), dark_places=usual_places(darkness, people))


def log_name(model: Path) -> Path:
    """Where the log of a model's training is kept: one JSON object a line.

    Example:
        >>> log_name(Path("mysite.safetensors")).name
        'mysite.log.jsonl'
    """
    return model.with_name(f"{model.stem}.log.jsonl")
