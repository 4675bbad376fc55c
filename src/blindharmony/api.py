"""The method from end to end: harmonize, assess, learn a scanner.

What a run is doing now, and how long each stage took.

A scan and its mask as a user gives them, brought to the target's flow space.

Scans of one scanner: what each adds, and the model they share, in up to three rounds.

The first curve is fitted to the scans as prepared in their own contrast. With it their bias fields are found again in
the target's contrast, what is left of the curve is fitted to that, and so on.

How far a scan is from the target scanner, and whether harmonization can bring it there.

The method from end to end: a scan in, the same scan as the target scanner would have made it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from blindharmony.device import exact_convolutions, resolved_device
from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.files import file_sha256
from blindharmony.harmonization.curve import AGAIN, corrected, lifted
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.native import to_scan
from blindharmony.harmonization.scanner import ScannerModel, fit_scanner
from blindharmony.harmonization.summary import ScanSummary, source_quantiles, summarize
from blindharmony.io.volume import Source, Volume, read_volume
from blindharmony.models.file import load_target
from blindharmony.models.target import Target
from blindharmony.preprocessing.brain import read_mask
from blindharmony.preprocessing.recipe import Prepared, prepare
from blindharmony.quality.checks import MaskFit, mask_fit, moved_away, order_problem, tissue_order
from blindharmony.quality.typicality import Standing, flow_standings, intensity_standing, typicality
from blindharmony.quality.verdict import brain_ml, judge
from blindharmony.result import HarmonizeResult

Progress = Callable[[str, float], None]


class Stages:
    """Announces stages and takes their time.

    Args:
        progress: Called with a stage and the share of it that is done.

    Example:
        >>> stages = Stages(lambda stage, share: print(stage, share))
        >>> with stages("judging") as say:
        ...     say(0.5)
        judging 0.0
        judging 0.5
        >>> list(stages.seconds)
        ['judging']
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or (lambda stage, share: None)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[Callable[[float], None]]:
        """Within it, ``stage`` runs; what it gives tells how much of it is done."""
        began = time.perf_counter()
        self._progress(stage, 0.0)
        yield lambda share: self._progress(stage, share)
        self.seconds[stage] = round(time.perf_counter() - began, 2)


def prepared_for(
    target: Target,
    source: Volume,
    *,
    mask: Source | None = None,
    mask_command: str | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Prepared:
    """A scan in the target's flow space."""
    given = None if mask is None else read_mask(mask, source.affine)
    recipe = target.info.recipe
    return prepare(source, recipe, mask=given, mask_command=mask_command, device=device, cache=cache, progress=progress)


@contextmanager
def naming(source: Volume) -> Iterator[None]:
    """Errors inside name the scan's file."""
    try:
        yield
    except BlindHarmonyError as error:
        if error.path is None and source.path is not None and not isinstance(error, UsageError):
            raise type(error)(error.what, remedy=error.remedy, path=source.path) from error
        raise


def named_mask(mask: Source | None) -> dict[str, str | None] | None:
    """What a sidecar says about a mask: name and hash of its file; None if none was given."""
    if mask is None:
        return None
    if isinstance(mask, str | PathLike):
        return {"Name": Path(mask).name, "SHA256": file_sha256(mask)}
    return {"Name": None, "SHA256": None}


@exact_convolutions()
def summarize_scan(
    scan: Source,
    target: str | PathLike[str] | Target = "ds002748",
    *,
    scanner: ScannerModel | None = None,
    mask: Source | None = None,
    mask_command: str | None = None,
    device: str = "cpu",
    cache: Path | None = None,
) -> ScanSummary:
    """What a scan adds to the model of its scanner: prepare it and take its quantiles and the person in them.

    Args:
        scan: A file, a nibabel image or an array.
        target: A model, its file, or the name of an included one.
        scanner: The model so far: the summary is then of the scan corrected in the contrast that it gives.
        mask: As for :func:`~blindharmony.api.harmonize`, like the rest.
        mask_command: External brain extractor.
        device: Where the included brain extractor runs.
        cache: Folder in which preparation is kept for the next time.
    """
    model, source = load_target(target), read_volume(scan)
    with naming(source):
        prepared = prepared_for(
            model, source, mask=mask, mask_command=mask_command, device=resolved_device(device), cache=cache
        )
        if scanner is not None:
            prepared = lifted(prepared, model, scanner.checked_for(model).rounds, cache=cache)
        return summarize(prepared.scan.data, prepared.scan.inside(), model)


def with_round(model: ScannerModel, again: Sequence[ScanSummary], target: Target) -> ScannerModel:
    """The model with one more round, fitted to what the scans are like after all before it."""
    return model.deeper(fit_scanner(again, target))


def needs_round(model: ScannerModel, target: Target) -> bool:
    """Whether bias fields are to be found again: N4 is used, and the first curve is surely no accident."""
    return target.info.recipe.n4 and bool(model.lift > 0) and len(model.rounds) <= AGAIN


def fitted_in_rounds(
    look: Callable[[ScannerModel | None], Sequence[ScanSummary]], target: Target, *, least: int = 1
) -> ScannerModel | None:
    """The model of a scanner, fitted in as many rounds as it needs.

    Args:
        look: Summaries of the scans, corrected by the model so far if there is one. Scans can be lost on the way (a
            full disk): what is known so far is then better than a curve of one scan.
        target: The target model.
        least: None is the answer if the first look finds fewer scans.
    """
    first = look(None)
    if len(first) < least:
        return None
    model = fit_scanner(first, target)
    while needs_round(model, target):
        again = look(model)
        if len(again) < min(2, len(first)):
            break
        model = with_round(model, again, target)
    return model


def learn_scanner(
    scans: Sequence[Source],
    target: str | PathLike[str] | Target = "ds002748",
    *,
    masks: Sequence[Source | None] | None = None,
    mask_command: str | None = None,
    device: str = "cpu",
    cache: Path | None = None,
) -> ScannerModel:
    """The model of the scanner that made all these scans, to be given to :func:`~blindharmony.api.harmonize`.

    Args:
        scans: Files, nibabel images or arrays; one that cannot be prepared is an error.
        target: A model, its file, or the name of an included one.
        masks: A brain mask, or None, for each scan.
        mask_command: As for ``harmonize``, like the rest.
        device: Where the included brain extractor runs.
        cache: Folder in which preparation is kept for the next time.

    Raises:
        UsageError: If there is no scan, or another number of masks.
        BlindHarmonyError: If a scan cannot be prepared.

    Example:
        >>> scanner = learn_scanner(["a.nii.gz", "b.nii.gz"])                     # doctest: +SKIP
        >>> harmonize("a.nii.gz", scanner=scanner).save("out")                    # doctest: +SKIP
    """
    model = load_target(target)

    given = [None] * len(scans) if masks is None else masks
    if len(given) != len(scans):
        raise UsageError(f"{len(given)} masks for {len(scans)} scans", remedy="give one for each, or None in its place")

    def look(so_far: ScannerModel | None) -> list[ScanSummary]:
        how: dict[str, Any] = {"scanner": so_far, "mask_command": mask_command, "device": device, "cache": cache}
        return [summarize_scan(scan, model, mask=mask, **how) for scan, mask in zip(scans, given, strict=True)]

    found = fitted_in_rounds(look, model)
    if found is None:
        raise UsageError("no scan was given", remedy="give the scans of one scanner")
    return found


Verdict = Literal["target-like", "foreign", "not explainable"]

_HEADLINES: dict[Verdict, str] = {
    "target-like": "hardly to be told from the target's own scans",
    "foreign": "not like the target's scans, but like them once harmonized",
    "not explainable": "not like the target's scans, and harmonizing does not mend it",
}


class Assessment(BaseModel):
    """What is known about one scan and the target scanner before anything is harmonized for good.

    Attributes:
        scan: File name.
        path: The file, None for an image in memory.
        target: Name of the target.
        verdict: ``target-like``: nothing about the scan is rare among target scans. ``foreign``: something is, and
            nothing after harmonization. ``not explainable``: something still is, or the mask or the order of tissues
            is wrong, which no intensity curve can mend.
        headline: The verdict in plain words.
        reasons: What led to it, one sentence each; empty for ``target-like``.
        warnings: What to look at, without weight in the verdict.
        before: The scan beside the target's scans: intensities, each level of the flow, all levels together.
        after: The same after harmonization.
        mask: The brain mask beside those of the target.
        brain_ml: Volume of the mask on the scan's own grid.
        order: Rank correlation with the target's mean head.
        overlap: Dice overlap of the mask with the template's brain after registration.
        method: Harmonization that was tried.
        seconds: Time it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scan: str
    path: str | None
    target: str
    verdict: Verdict
    headline: str
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    before: tuple[Standing, ...]
    after: tuple[Standing, ...]
    mask: MaskFit
    brain_ml: float
    order: float
    overlap: float
    method: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, words and lists."""
        return self.model_dump(mode="json")


@exact_convolutions()
def assess(
    scan: Source,
    target: str | PathLike[str] | Target = "ds002748",
    *,
    mask: Source | None = None,
    mask_command: str | None = None,
    method: str = "curve",
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Assessment:
    """Tell how far a scan is from the target scanner, and whether harmonization can bring it there.

    The scan is prepared as for :func:`~blindharmony.api.harmonize`; nothing is written.

    Args:
        scan: A file, a nibabel image or an array.
        target: A model, its file, or the name of an included one.
        mask: Brain mask on the scan's grid; found automatically if not given.
        mask_command: External brain extractor with ``{input}`` and ``{output}``.
        method: Harmonization to try.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: For methods that draw.
        progress: Called with a stage and the share of it that is done.

    Raises:
        BlindHarmonyError: With one line that names the file, what is wrong and what to do.

    Example:
        >>> assess("scan.nii.gz").verdict                                         # doctest: +SKIP
        'foreign'
    """
    began = time.perf_counter()
    model = load_target(target)
    device = resolved_device(device)
    say = progress or (lambda stage, share: None)
    source = read_volume(scan)
    with naming(source):
        say("preparing", 0.0)
        prepared = prepared_for(model, source, mask=mask, mask_command=mask_command, device=device)
        image, inside = prepared.scan.data, prepared.scan.inside()
        say("judging", 0.6)
        before = _standings(image, inside, model, device)
        again, _ = corrected(prepared, model, None) if method == "curve" else (prepared, None)
        found = estimate(method, again.scan.data, inside, model, device=device, seed=seed)
        say("judging", 0.9)
        after = _standings(found.image, inside, model, device)
    fit, order = mask_fit(inside, model), tissue_order(image, inside, model)
    verdict, reasons = judge_assessment(before, after, fit, order, contrast=model.info.suffix)
    return Assessment(
        scan=source.path.name if source.path else "scan",
        path=str(source.path) if source.path else None,
        target=model.info.name,
        verdict=verdict,
        headline=_HEADLINES[verdict],
        reasons=tuple(reasons),
        warnings=tuple(_warnings(prepared, fit, model, (*source.warnings, *found.warnings))),
        before=tuple(before),
        after=tuple(after),
        mask=fit,
        brain_ml=brain_ml(prepared.native.inside(), prepared.native.spacing),
        order=order,
        overlap=float(prepared.found("place").get("overlap", 1.0)),
        method=method,
        seconds=round(time.perf_counter() - began, 2),
    )


def judge_assessment(
    before: list[Standing], after: list[Standing], fit: MaskFit, order: float, *, contrast: str
) -> tuple[Verdict, list[str]]:
    """The verdict and its reasons.

    Args:
        before: The scan beside the target's scans.
        after: The same after harmonization, in the same order.
        fit: Its mask beside the target's.
        order: See :func:`~blindharmony.quality.checks.tissue_order`.
        contrast: Of the target, for the words.
    """
    reasons = fit.problems() if fit.grade > 1 else []
    swapped = order_problem(order, contrast)
    reasons += [swapped] if swapped else []
    still = rare(after)
    if reasons or still:
        return "not explainable", reasons + [f"After harmonization: {text}" for text in still]
    first = rare(before)
    return ("foreign", first) if first else ("target-like", [])


def rare(rows: list[Standing]) -> list[str]:
    """What hardly any target scan has, one sentence each."""
    found = []
    for index, row in enumerate(r for r in rows if r.name != "in all"):
        among = f"{row.excess:+.1f} spreads of {row.known} target scans"
        if row.high and row.name == "intensities":
            found.append(f"the intensities are not those of the target ({among}).")
        elif row.high:
            found.append(f"the {row.name} is improbable on the target scanner ({among}).")
        elif row.low and row.name.startswith("detail") and index <= 1:
            # Coarser levels that are more probable than usual are no fault; a finest level is: detail is missing.
            found.append(f"the {row.name} is smoother than the target's ({among}): what was not scanned is missing.")
    return found


def _standings(
    image: np.ndarray[Any, np.dtype[np.float32]],
    inside: np.ndarray[Any, np.dtype[np.bool_]],
    target: Target,
    device: str,
) -> list[Standing]:
    quantiles, _ = source_quantiles(image, inside, target)
    intensities = intensity_standing(quantiles, target)
    rows = flow_standings(typicality(image, inside, target, device=device), target)
    return [*([intensities] if intensities else []), *rows]


def _warnings(prepared: Prepared, fit: MaskFit, target: Target, seen: tuple[str, ...]) -> list[str]:
    found = list(seen)
    if fit.grade == 1:
        found += fit.problems()
    if target.pyramid is None:
        found.append("This target has no whole-volume flow: only intensities, mask and order of tissues are judged.")
    elif target.info.held_out.scans < 2:
        found.append("This target has too few held-out scans to say what is usual: 4 rough spreads are the limit.")
    return found


@exact_convolutions()
def harmonize(
    scan: Source,
    target: str | PathLike[str] | Target = "ds002748",
    *,
    mask: Source | None = None,
    mask_command: str | None = None,
    method: str = "curve",
    scanner: ScannerModel | str | PathLike[str] | None = None,
    refine: bool = True,
    keep_bias: bool = False,
    device: str = "cpu",
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> HarmonizeResult:
    """Harmonize one scan of any scanner to the target scanner.

    Args:
        scan: A file, a nibabel image or an array.
        target: A model, its file, or the name of an included one.
        mask: Brain mask on the scan's grid (an array is taken to lie there); found automatically if not given.
        mask_command: External brain extractor with ``{input}`` and ``{output}``.
        method: ``curve`` (default), ``match``, ``latent`` or ``latent-published``.
        scanner: Model of the scanner that made the scan, or its file: scans of one scanner share a curve.
        refine: Whether noise and blur are taken out after the curve.
        keep_bias: Put the scan's own bias field back at the end.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: Equal seeds give equal bytes on the same machine.
        cache: Folder in which preparation is kept for the next time.
        progress: Called with a stage and the share of it that is done.

    Raises:
        BlindHarmonyError: With one line that names the file, what is wrong and what to do.

    Example:
        >>> harmonize("scan.nii.gz").save("out")                                  # doctest: +SKIP
        (PosixPath('out/scan_desc-harmonized.nii.gz'), ...)
    """
    model = load_target(target)
    shared = ScannerModel.load(Path(scanner), model) if isinstance(scanner, str | PathLike) else scanner
    if shared is not None:
        shared.checked_for(model)
    if shared is not None and method != "curve":
        raise UsageError(f"the method '{method}' has no scanner model", remedy="use --method curve")
    device, stage, source = resolved_device(device), Stages(progress), read_volume(scan)
    with naming(source):
        with stage("preparing") as say:
            prepared = prepared_for(
                model, source, mask=mask, mask_command=mask_command, device=device, cache=cache, progress=say
            )
            image, inside = prepared.scan.data, prepared.scan.inside()
        with stage("correcting"):
            left = shared
            if method == "curve":
                prepared, left = corrected(prepared, model, shared, cache=cache)
        with stage("harmonizing") as say:
            found = estimate(
                *(method, prepared.scan.data, inside, model),
                device=device,
                seed=seed,
                scanner=left,
                refine=refine,
                progress=lambda i, n: say(i / n),
            )
        with stage("judging"):
            before, after = (typicality(x, inside, model, device=device) for x in (image, found.image))
            away = moved_away(image, found.image, inside, model)
            doubts = (*found.doubts, *([away] if away else []))
            said = (*source.warnings, *found.warnings)
            trust = judge(prepared, before, after, model, said, doubts, shared=shared is not None)
        with stage("returning"):
            data, brain = to_scan(prepared, found, model, keep_bias=keep_bias, device=device)
    return HarmonizeResult(
        source=source,
        data=data,
        mask=brain,
        target=model,
        method=method,
        seed=seed,
        device=device,
        prepared=prepared,
        source_image=image,
        estimate=found,
        before=before,
        after=after,
        trust=trust,
        seconds=stage.seconds,
        options={
            "KeepBias": keep_bias,
            "Mask": named_mask(mask),
            "MaskCommand": mask_command,
            "Refine": refine and method == "curve",
            "Scanner": shared.named if shared else None,
        },
        inputs=tuple(Path(given) for given in (source.path, mask) if isinstance(given, str | PathLike)),
    )
