"""A result as the evidence its report shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blindharmony.harmonization.names import ABOUT
from blindharmony.harmonization.standing import level_names, rare_excess
from blindharmony.harmonization.trust import brain_ml
from blindharmony.prep.template import load_template
from blindharmony.report import Confidence, Curve, ScanEvidence, Verdict, methods_text
from blindharmony.target import Target, included_targets
from blindharmony.version import versions

if TYPE_CHECKING:
    from blindharmony.result import HarmonizeResult

_CURVE_POINTS = 120


def scan_evidence(result: HarmonizeResult, written: Mapping[str, str] | None = None) -> ScanEvidence:
    """Collect pictures, curves and numbers, all in the target scanner's units.

    Args:
        result: The harmonized scan.
        written: Name of each file already written → its SHA-256.
    """
    target, prepared, estimate = result.target, result.prepared, result.estimate
    unit = target.info.unit
    inside = prepared.scan.inside()
    template = load_template()
    provenance = {
        **versions(),
        "target model": f"{target.info.name} ({target.digest or 'not saved'})",
        "preparation": target.info.recipe.digest(),
        "method": result.method,
        "seed": str(result.seed),
        "command": command(result),
        "scan (SHA-256)": str(result.sidecar["SourceSHA256"] or "in memory"),
        **{f"{name} (SHA-256)": digest for name, digest in (written or {}).items()},
    }
    return ScanEvidence(
        name=result.name,
        before=result.source_image * np.float32(unit),
        after=estimate.image * np.float32(unit),
        mask=inside,
        atlas=template.data / template.data.max(),
        unit=f"target units ({target.info.name} scanner intensity)",
        target_quantiles=target.quantiles * unit,
        levels=target.levels,
        verdict=Verdict(
            result.trust.level, result.trust.headline, details=_details(result), advice=result.trust.advice
        ),
        methods=methods_text(
            target=target.info.name,
            scans=target.info.scans,
            method=_method(result),
            version=provenance["blindharmony"],
            n4=target.info.recipe.n4,
            mask=str(prepared.found("brain-mask").get("source", "given")),
            flow=target.pyramid is not None,
            splines=bool(target.info.pyramid and target.info.pyramid.rounds),
        ),
        curve=_curve(result, unit),
        log_bias=_bias(result),
        held_out=_held_out(target),
        confidence=_confidence(result, unit),
        trace=estimate.trace,
        figures=result.figures,
        warnings=result.warnings,
        overlap=prepared.found("place").get("overlap"),
        preparation=_preparation(result),
        provenance=provenance,
    )


def command(result: HarmonizeResult) -> str:
    """The command line that makes this result; folders are nobody's business and left out."""
    words = ["blindharmony", "harmonize", result.name, "--target", result.target.file or result.target.info.name]
    if result.target.info.name in included_targets():
        words[-1] = result.target.info.name
    options = result.options
    words += ["--method", result.method, "--seed", str(result.seed), "--device", result.device]
    if options.get("Mask"):
        words += ["--mask", options["Mask"]["Name"] or "MASK"]
    if options.get("MaskCommand"):
        words += ["--mask-command", options["MaskCommand"]]
    if options.get("Scanner"):
        words += ["--scanner", "SCANNER.json"]
    words += [] if options.get("Refine", True) else ["--no-refine"]
    words += ["--keep-bias"] if options.get("KeepBias") else []
    return shlex.join([*words, "--out", "DIR"])


def _held_out(target: Target) -> int:
    """How many of the target's quantile curves, the last ones, are of scans that never trained."""
    unseen = target.info.held_out.scans
    return unseen if target.info.scans + unseen == len(target.quantiles) else 0


def _confidence(result: HarmonizeResult, unit: float) -> Confidence | None:
    before, after, bar = result.before, result.after, result.estimate.error
    names = level_names(result.target)
    levels = list(zip(names, before.excesses, after.excesses, strict=True)) if before and after else []
    if not levels and bar is None:
        return None
    surprise = result.figures.get("surprise")
    return Confidence(
        levels,
        limit=round(rare_excess(result.target.info.held_out.scans), 1),
        intensity=np.asarray(bar.at) * unit if bar else np.zeros(0),
        deviation=np.asarray(bar.deviation) * unit if bar else np.zeros(0),
        surprise=surprise if isinstance(surprise, float) else None,
    )


def _preparation(result: HarmonizeResult) -> dict[str, Any]:
    """What each step found, in words."""
    found, native = result.prepared.found, result.prepared.native
    overlap, bias = found("place").get("overlap"), found("n4").get("log_bias_sd")
    steps: dict[str, dict[str, Any]] = {
        "orientation": {"axes of the file": found("orient").get("axes")},
        "brain mask": {
            "from": found("brain-mask").get("source"),
            "brain (ml)": round(brain_ml(native.inside(), native.spacing)),
        },
        "bias field": {"N4, spread of its logarithm": bias},
        "gain": {"factor": found("gain").get("gain")},
        "registration": {
            "overlap with the template (Dice)": overlap,
            "affine matrix (mm, rows)": found("place").get("matrix"),
        },
    }
    known = {step: {k: v for k, v in rows.items() if v is not None} for step, rows in steps.items()}
    return {step: rows for step, rows in known.items() if rows}


def _details(result: HarmonizeResult) -> list[str]:
    details = []
    known = result.target.info.held_out.bits_per_dim
    if result.after is not None and result.before is not None and known:
        details.append(
            f"Under the target's flow the scan cost {result.before.bits:.2f} bits a voxel before and "
            f"{result.after.bits:.2f} after; the target's own unseen scans cost {min(known):.2f} to {max(known):.2f}."
        )
    correlation = result.figures["correlation with the scan"]
    details.append(f"The result correlates {correlation} with the scan inside the brain.")
    change, bar = (result.figures.get(k) for k in ("mean change (%)", "error bar (% of the brightest tissue)"))
    if isinstance(change, float) and isinstance(bar, float):
        hardly = "within its own error: this scan hardly needed it" if change < bar else "more than its own error"
        details.append(f"The brain changed by {change:g} % on average, the error bar is {bar:g} %: {hardly}.")
    return details


def _method(result: HarmonizeResult) -> str:
    """What was done, in sentences for a paper."""
    said = ABOUT[result.method]
    scanner = result.options.get("Scanner")
    if scanner:
        said = (
            f"One increasing intensity curve was shared by the {scanner['Scans']} scans of its scanner: the one that "
            "gives their mean the intensities that these persons together would have on the target scanner, predicted "
            "from the order of the intensities and their place in the head; each scan kept a gain of its own."
        )
    if result.estimate.refinement:
        said += (
            " Noise and blur were then reduced by a network that had learnt from target scans "
            f"seen through random simulated scanners (strength {result.estimate.refinement:.2f})."
        )
    return said


def _curve(result: HarmonizeResult, unit: float) -> Curve | None:
    """Where voxels of each intensity went, with the spread that place or detail adds."""
    inside = result.prepared.scan.inside()
    before, after = result.source_image[inside], result.estimate.image[inside]
    low, high = np.quantile(before, [0.002, 0.998])
    edges = np.linspace(low, high, _CURVE_POINTS + 1)
    # Small integers are sorted in no time, and every voxel is looked at once.
    which = (np.digitize(before, edges) - 1).astype(np.int16)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(_CURVE_POINTS + 1))
    rows = []
    for b in range(_CURVE_POINTS):
        values = after[order[starts[b] : starts[b + 1]]]
        if values.size > 20:
            rows.append(((edges[b] + edges[b + 1]) / 2, *np.quantile(values, [0.5, 0.05, 0.95])))
    if len(rows) < 2:
        return None
    x, y, lower, upper = np.array(rows).T * unit
    return Curve(x, y, lower, upper)


def _bias(result: HarmonizeResult) -> np.ndarray | None:
    """The bias field taken out by preparation, brought to the template grid."""
    found = result.prepared.found("n4")
    if "log_bias" not in found:
        return None
    last = result.prepared.history[-1]
    field = replace(last.before, data=found["log_bias"])
    return last.step.apply(field, last.params).data


__all__ = ["scan_evidence"]
