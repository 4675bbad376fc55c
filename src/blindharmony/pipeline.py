"""The method from end to end: a scan in, the same scan as the target scanner would have made it out."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from blindharmony.device import exact_convolutions, resolved_device
from blindharmony.errors import UsageError
from blindharmony.harmonization.carry import to_scan
from blindharmony.harmonization.correction import corrected
from blindharmony.harmonization.direction import moved_away
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.trust import judge
from blindharmony.harmonization.typicality import typicality
from blindharmony.image import read_volume
from blindharmony.image.volume import Source
from blindharmony.intake import named_mask, naming, prepared_for
from blindharmony.result import HarmonizeResult
from blindharmony.stages import Progress, Stages
from blindharmony.target import Target, load_target


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
