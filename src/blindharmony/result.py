"""What harmonize returns, and what is written of it.

A result as the evidence its report shows.

What a user gets back for one scan.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.files import file_sha256, result_names, write_sidecar, written_together
from blindharmony.harmonization.intensity import Estimate
from blindharmony.harmonization.methods import method_named
from blindharmony.harmonization.native import own_bias
from blindharmony.io.volume import Volume
from blindharmony.io.write import write_like
from blindharmony.models.target import Target, included_targets
from blindharmony.preprocessing.recipe import Prepared
from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.metrics import ncc
from blindharmony.quality.typicality import Typicality, level_names, rare_excess
from blindharmony.quality.verdict import Trust, brain_ml
from blindharmony.report.evidence import Confidence, Curve, ScanEvidence, Verdict, methods_text
from blindharmony.report.scan import write_report
from blindharmony.report.viewer import pack, write_viewer
from blindharmony.version import versions

if TYPE_CHECKING:
    import nibabel as nib

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
            mask=prepared.brain_mask.source,
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
        overlap=prepared.registration.overlap,
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
    prepared = result.prepared
    native, bias, registration = prepared.native, prepared.bias_field, prepared.registration
    return {
        "orientation": {"axes of the file": prepared.orientation.axes},
        "brain mask": {
            "from": prepared.brain_mask.source,
            "brain (ml)": round(brain_ml(native.inside(), native.spacing)),
        },
        **({"bias field": {"N4, spread of its logarithm": bias.log_bias_sd}} if bias else {}),
        "gain": {"factor": prepared.gain},
        "registration": {
            "overlap with the template (Dice)": registration.overlap,
            "affine matrix (mm, rows)": registration.matrix,
        },
    }


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
    said = method_named(result.method).about
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
    bias = result.prepared.bias_field
    if bias is None:
        return None
    last = result.prepared.history[-1]
    field: np.ndarray = last.step.apply(replace(last.before, data=bias.log_bias), last.result).data
    return field


__all__ = ["scan_evidence"]


@dataclass(frozen=True, eq=False)
class HarmonizeResult:
    """A harmonized scan with everything that is known about how it came about.

    Attributes:
        source: The scan as read.
        data: Harmonized intensities in the target scanner's units, float32, ``(X, Y, Z)`` in the file's own axes.
        mask: Brain mask, same axes.
        target: The target model.
        method: Name of the method.
        seed: Seed used.
        device: Where it was computed.
        prepared: Every preparation step and what it found.
        source_image: The scan as prepared in its own contrast, template grid, flow units.
        estimate: The result on the template grid.
        before: How typical the scan was for the target, if the target can tell.
        after: How typical the result is.
        trust: Verdict, warnings and advice.
        seconds: Time of each stage.
        options: What was asked for, as the sidecar has it.
        inputs: Files it was made from, which no result replaces.

    Example:
        >>> result = harmonize("scan.nii.gz")                                     # doctest: +SKIP
        >>> result.image.shape, result.trust.level, result.warnings               # doctest: +SKIP
        ((256, 256, 180), 'good', ())
    """

    source: Volume
    data: NDArray[np.float32]
    mask: NDArray[np.bool_]
    target: Target
    method: str
    seed: int
    device: str
    prepared: Prepared
    source_image: NDArray[np.float32]
    estimate: Estimate
    before: Typicality | None
    after: Typicality | None
    trust: Trust
    seconds: Mapping[str, float]
    options: Mapping[str, Any]
    inputs: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        found = f"{len(self.warnings)} warnings" if len(self.warnings) != 1 else "1 warning"
        return f"<HarmonizeResult of {self.name} to {self.target.info.name}: {self.trust.level}, {found}>"

    @cached_property
    def figures(self) -> dict[str, float | str]:
        """Numbers worth keeping; no times among them: equal input gives equal bytes, sidecar and report included."""
        inside, before, after = self.prepared.scan.inside(), self.before, self.after
        moved = np.abs(self.estimate.image - self.source_image)[inside].mean()
        judged = {"bits/voxel before": round(before.bits, 3)} if before else {}
        if after:
            judged |= {"bits/voxel after": round(after.bits, 3), "excess after (sd)": round(after.excess, 2)}
        return {
            "correlation with the scan": round(ncc(self.source_image, self.estimate.image, inside), 5),
            "mean change (%)": round(100 * float(moved / self.source_image[inside].mean()), 2),
            **judged,
            **self.estimate.figures,
        }

    @property
    def name(self) -> str:
        """File name of the scan, ``scan.nii.gz`` for an image in memory."""
        return self.source.path.name if self.source.path else "scan.nii.gz"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before using the result."""
        return self.trust.warnings

    @property
    def trace(self) -> Sequence[Mapping[str, float]]:
        """One entry for each step of the optimisation."""
        return self.estimate.trace

    @property
    def image(self) -> nib.Nifti1Image:
        """The harmonized scan as a nibabel image with the scan's place in space."""
        import nibabel as nib
        from nibabel.spatialimages import HeaderDataError

        header = self.source.template.header
        image = nib.Nifti1Image(self.data, self.source.affine)
        if self.source.template.kind.startswith("nifti"):
            for part in ("qform", "sform"):
                # A damaged qform, which reading said, is no reason to have no image.
                with suppress(HeaderDataError, ValueError, np.linalg.LinAlgError), np.errstate(all="ignore"):
                    matrix, code = getattr(header, f"get_{part}")(coded=True)
                    getattr(image, f"set_{part}")(matrix, int(code))
            image.header["xyzt_units"] = header["xyzt_units"]
        return image

    @property
    def uncertainty(self) -> NDArray[np.float32] | None:
        """One standard deviation of each voxel's error, target units; None if the method does not know it."""
        if self.estimate.error is None:
            return None
        scale = np.full(self.prepared.native.data.shape, self.target.info.unit, np.float32)
        if self.options.get("KeepBias"):
            # The deviation is known at intensities without the field, and is larger where the scan is brighter.
            scale *= own_bias(self.prepared)
        scale = self.prepared.to_file_grid(scale, fill=self.target.info.unit)
        return np.where(self.mask, scale * self.estimate.error(self.data / scale), 0).astype(np.float32)

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """The JSON sidecar: where the image came from and how it was made, all that repeating it needs.

        Files are named without their folders, which are nobody's business, and known by their hashes.
        """
        path = self.source.path
        return {
            "Description": f"{self.target.info.suffix} scan harmonized to the target scanner '{self.target.info.name}'",
            "Sources": [self.name],
            "SourceSHA256": file_sha256(path) if path else None,
            "SkullStripped": self.prepared.brain_mask.source == "stripped",
            "SpatialReference": "orig",
            "Units": f"intensity units of the target scanner '{self.target.info.name}'",
            "Target": {
                "Name": self.target.info.name,
                "File": self.target.file or None,
                "Digest": self.target.digest,
                "Preparation": self.target.info.recipe.digest(),
            },
            "Method": self.method,
            "Parameters": {"Seed": self.seed, "Device": self.device, **self.options},
            "Preparation": self.prepared.summary(),
            "Figures": dict(self.figures),
            "Verdict": {"Level": self.trust.level, "Headline": self.trust.headline},
            "Warnings": list(self.warnings),
            "Versions": versions(),
        }

    def save(
        self,
        folder: str | Path,
        *,
        report: bool = True,
        viewer: bool = False,
        uncertainty: bool = False,
        overwrite: bool = False,
    ) -> tuple[Path, ...]:
        """Write scan, mask, sidecar and report into ``folder``; nothing is written beside the source.

        The sidecar comes last: where it is, everything is, and of this run. With ``uncertainty`` the error bar of
        every voxel is written too (``desc-harmonizedSD``), with ``viewer`` a page with both volumes inside. With
        ``overwrite`` all files of an earlier run go, those that this one does not write as well.

        Returns:
            The files written, the harmonized scan first.

        Raises:
            OutputError: If a file exists and ``overwrite`` is false, or cannot be written.
        """
        names = result_names(self.name)
        places = [Path(folder) / name for name in names.values()]
        with written_together(places, overwrite=overwrite, inputs=self.inputs) as staged:
            files = [write_like(self.source, self.data, staged / names["scan"])]
            files.append(write_like(self.source, self.mask, staged / names["mask"], dtype=np.uint8))
            if uncertainty and self.uncertainty is not None:
                files.append(write_like(self.source, self.uncertainty, staged / names["error"]))
            hashes = {file.name: file_sha256(file) for file in files}
            if report:
                files.append(write_report(scan_evidence(self, hashes), staged / names["report"]))
            if viewer:
                files.append(self.viewer(staged / names["viewer"]))
            results = {"Results": hashes | {f.name: file_sha256(f) for f in files if f.name not in hashes}}
            files.append(write_sidecar(staged / names["sidecar"], self.sidecar | results))
        return tuple(Path(folder) / file.name for file in files)

    def report(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report: one HTML file that needs nothing else."""
        return write_report(scan_evidence(self), Path(path), overwrite=overwrite)

    def viewer(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the viewer: one HTML file with both volumes inside, 5 to 25 MB."""
        pair = pack(self.source.data, self.data, self.mask, self.source.affine)
        unit = f"{self.target.info.name} units"
        return write_viewer(*pair, Path(path), name=self.name, unit=unit, overwrite=overwrite)
