"""Scans of one scanner: what each adds, and the model they share, in up to three rounds.

The first curve is fitted to the scans as prepared in their own contrast. With it their bias fields are found again in
the target's contrast, what is left of the curve is fitted to that, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from blindharmony.device import exact_convolutions, resolved_device
from blindharmony.errors import UsageError
from blindharmony.harmonization.correction import AGAIN, lifted
from blindharmony.harmonization.scanner import ScannerModel, fit_scanner
from blindharmony.harmonization.summary import ScanSummary, summarize
from blindharmony.image import read_volume
from blindharmony.image.volume import Source
from blindharmony.intake import naming, prepared_for
from blindharmony.target import Target, load_target


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
        mask: As for :func:`~blindharmony.pipeline.harmonize`, like the rest.
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
    """The model of the scanner that made all these scans, to be given to :func:`~blindharmony.pipeline.harmonize`.

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
