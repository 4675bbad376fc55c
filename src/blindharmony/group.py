"""Scans of one scanner: what each adds, and the model they share, in up to three rounds.

The first curve is fitted to the scans as prepared in their own contrast. With it their bias fields are found again in
the target's contrast, what is left of the curve is fitted to that, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from blindharmony.device import resolved_device
from blindharmony.harmonization.correction import AGAIN, lifted
from blindharmony.harmonization.scanner import ScannerModel, fit_scanner
from blindharmony.harmonization.summary import ScanSummary, summarize
from blindharmony.image import read_volume
from blindharmony.image.volume import Source
from blindharmony.intake import naming, prepared_for
from blindharmony.target import Target, load_target


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
    model, source = load_target(target if isinstance(target, Target) else str(target)), read_volume(scan)
    with naming(source):
        prepared = prepared_for(
            model, source, mask=mask, mask_command=mask_command, device=resolved_device(device), cache=cache
        )
        if scanner is not None:
            prepared = lifted(prepared, model, scanner.rounds, cache=cache)
        return summarize(prepared.scan.data, prepared.scan.inside(), model)


def with_round(model: ScannerModel, again: Sequence[ScanSummary], target: Target) -> ScannerModel:
    """The model with one more round, fitted to what the scans are like after all before it."""
    return model.deeper(fit_scanner(again, target))


def needs_round(model: ScannerModel, target: Target) -> bool:
    """Whether bias fields are to be found again: N4 is used, and the first curve is surely no accident."""
    return target.info.recipe.n4 and bool(model.lift > 0) and len(model.rounds) <= AGAIN


def learn_scanner(
    scans: Sequence[Source], target: str | PathLike[str] | Target = "ds002748", *, cache: Path | None = None
) -> ScannerModel:
    """The model of the scanner that made all these scans, to be given to :func:`~blindharmony.pipeline.harmonize`.

    Example:
        >>> scanner = learn_scanner(["a.nii.gz", "b.nii.gz"])                     # doctest: +SKIP
        >>> harmonize("a.nii.gz", scanner=scanner).save("out")                    # doctest: +SKIP
    """
    model = load_target(target if isinstance(target, Target) else str(target))
    found = fit_scanner([summarize_scan(s, model, cache=cache) for s in scans], model)
    while needs_round(found, model):
        found = with_round(found, [summarize_scan(s, model, scanner=found, cache=cache) for s in scans], model)
    return found
