"""The method from end to end: a scan in, the same scan as the target scanner would have made it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np

from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.harmonization.carry import carry_to_native
from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.lifting import lifting_curve, lifting_share, rms
from blindharmony.harmonization.methods import estimate as harmonize_prepared
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.trust import judge
from blindharmony.harmonization.typicality import typicality
from blindharmony.image import Volume, file_sha256, read_volume
from blindharmony.image.volume import Source
from blindharmony.prep.lift import prepare_again
from blindharmony.prep.mask import read_mask
from blindharmony.prep.recipe import Prepared, prepare
from blindharmony.prep.step import Scan
from blindharmony.report.metrics import ncc
from blindharmony.result import HarmonizeResult
from blindharmony.target import Target, load_target

Progress = Callable[[str, float], None]


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
        refine: Whether noise, blur and foreign tissue contrast are taken out after the curve.
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
    model = load_target(target if isinstance(target, Target) else str(target))
    shared = ScannerModel.load(Path(scanner), model) if isinstance(scanner, str | PathLike) else scanner
    if shared is not None and method != "curve":
        raise UsageError(f"the method '{method}' has no scanner model", remedy="use --method curve")
    named = None if shared is None else {"Scans": shared.scans, "Digest": shared.digest, "Model": shared.content}
    device = resolved_device(device)
    say = progress or (lambda stage, share: None)
    clock, seconds = time.perf_counter(), dict[str, float]()

    def lap(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[stage], clock = round(now - clock, 2), now

    source = read_volume(scan)
    with naming(source):
        prepared = prepared_for(
            model,
            source,
            mask=mask,
            mask_command=mask_command,
            device=device,
            cache=cache,
            progress=lambda share: say("preparing", share),
        )
        lap("preparing")
        image, inside = prepared.scan.data, prepared.scan.inside()
        if method == "curve":
            say("correcting", 0.0)
            prepared, shared = corrected(prepared, model, shared, cache=cache)
            lap("bias correction in the target's contrast")
        say("harmonizing", 0.0)
        found = harmonize_prepared(
            method,
            prepared.scan.data,
            inside,
            model,
            device=device,
            seed=seed,
            scanner=shared,
            refine=refine,
            progress=lambda i, n: say("harmonizing", i / n),
        )
        lap("harmonizing")
        say("judging", 0.0)
        before, after = (typicality(x, inside, model, device=device) for x in (image, found.image))
        trust = judge(prepared, before, after, model, (*source.warnings, *found.warnings))
        lap("judging")
        say("returning", 0.0)
        native = carry_to_native(prepared, found, model, device=device)
        if keep_bias and "log_bias" in prepared.found("n4"):
            native = native * np.exp(prepared.found("n4")["log_bias"])
        data = prepared.undo_axes((native * model.info.unit).astype(np.float32))
        brain = prepared.undo_axes(prepared.native.inside().astype(np.float32)) > 0.5
        lap("returning")
    # No times among them: equal input gives equal bytes, sidecar and report included.
    figures: dict[str, float | str] = {
        "correlation with the scan": round(ncc(image, found.image, inside), 5),
        "mean change (%)": round(100 * float(np.abs(found.image - image)[inside].mean() / image[inside].mean()), 2),
        **({"bits/voxel before": round(before.bits, 3)} if before else {}),
        **({"bits/voxel after": round(after.bits, 3), "excess after (sd)": round(after.excess, 2)} if after else {}),
        **found.figures,
    }
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
        figures=figures,
        seconds=seconds,
        options={
            "KeepBias": keep_bias,
            "Mask": None if mask is None else _named_mask(mask),
            "MaskCommand": mask_command,
            "Refine": refine,
            "Scanner": named,
        },
    )


def _named_mask(mask: Source) -> dict[str, str | None]:
    """What a sidecar says about the mask: the file's name and hash, or that it was none."""
    if isinstance(mask, str | PathLike):
        return {"Name": Path(mask).name, "SHA256": file_sha256(mask)}
    return {"Name": None, "SHA256": None}


def corrected(
    prepared: Prepared, target: Target, scanner: ScannerModel | None, *, cache: Path | None = None
) -> tuple[Prepared, ScannerModel | None]:
    """The scan with its bias field taken out in the target's contrast, and what is left of its scanner's curve.

    A first curve says what the scan as it came would look like on the target; there the field is found again.
    """
    if not target.info.recipe.n4 or (scanner is not None and scanner.then is None):
        return prepared, scanner
    image, inside = prepared.scan.data, prepared.scan.inside()
    first = harmonize_curve(image, inside, target, scanner=scanner)
    share = scanner.lift if scanner else lifting_share(rms((first.image - image)[inside]), _error(first, target))
    if share == 0 or not isinstance(first.intensity_map, CurveMap):
        return prepared, scanner
    curve = lifting_curve(first.intensity_map, share)
    return prepare_again(prepared, target.info.recipe, curve, cache=cache), scanner.then if scanner else None


def _error(found: Estimate, target: Target) -> float:
    """The error bar of a curve, one number."""
    return rms(found.error.deviation) if found.error else rms(target.quantiles.std(0))


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
    given = None if mask is None else _mask_scan(mask, source)
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


def resolved_device(device: str) -> str:
    """A device that is there: ``auto`` becomes ``cuda`` or ``cpu``.

    Raises:
        UsageError: If the device is unknown or not present.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind == "cpu" or (kind == "cuda" and torch.cuda.is_available()):
        return device
    raise UsageError(f"the device '{device}' is not available here", remedy="use --device cpu or --device auto")


def _mask_scan(mask: Source, source: Volume) -> Scan:
    if isinstance(mask, str | PathLike):
        return read_mask(Path(mask))
    # An array has no place of its own: it lies on the scan's grid.
    if isinstance(mask, np.ndarray):
        volume = read_volume(mask.astype(np.float32), affine=source.affine)
    else:
        volume = read_volume(mask)
    return Scan(volume.data, volume.affine, volume.data > 0)
