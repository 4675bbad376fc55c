"""How far a scan is from the target scanner, and whether harmonization can bring it there."""

from __future__ import annotations

import time
from os import PathLike
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from blindharmony.device import exact_convolutions, resolved_device
from blindharmony.harmonization.correction import corrected
from blindharmony.harmonization.coverage import MaskFit, mask_fit
from blindharmony.harmonization.match import source_quantiles
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.order import order_problem, tissue_order
from blindharmony.harmonization.standing import Standing, flow_standings, intensity_standing
from blindharmony.harmonization.trust import brain_ml
from blindharmony.harmonization.typicality import typicality
from blindharmony.image import read_volume
from blindharmony.image.volume import Source
from blindharmony.intake import naming, prepared_for
from blindharmony.prep.recipe import Prepared
from blindharmony.stages import Progress
from blindharmony.target import Target, load_target

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

    The scan is prepared as for :func:`~blindharmony.pipeline.harmonize`; nothing is written.

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
    verdict, reasons = judge(before, after, fit, order, contrast=model.info.suffix)
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


def judge(
    before: list[Standing], after: list[Standing], fit: MaskFit, order: float, *, contrast: str
) -> tuple[Verdict, list[str]]:
    """The verdict and its reasons.

    Args:
        before: The scan beside the target's scans.
        after: The same after harmonization, in the same order.
        fit: Its mask beside the target's.
        order: See :func:`~blindharmony.harmonization.order.tissue_order`.
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
