"""What harmonize returns, and what is written of it.

:class:`HarmonizeResult` holds the harmonized scan with all that is known about how it came about, and writes it. Its
:class:`Sidecar` is the JSON beside the scan: what repeating the run needs (:mod:`~blindharmony.provenance`). Its
evidence, for the report, is pictures, curves and numbers in the target scanner's units (:func:`scan_evidence`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)
from pydantic.alias_generators import to_pascal

from blindharmony.files import file_sha256, result_names, write_sidecar, written_together
from blindharmony.harmonization.intensity import Estimate
from blindharmony.harmonization.methods import method_named
from blindharmony.harmonization.native import Steps, own_bias, steps_of, with_mean_of
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import region_quantiles
from blindharmony.io.volume import Volume
from blindharmony.io.write import set_place, write_like
from blindharmony.models.card import included_targets
from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import Prepared
from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.checks import Evidence, places_to_show
from blindharmony.quality.metrics import AS_SCANNED, WATCHED, ncc, smoothness_mm
from blindharmony.quality.typicality import Comparison
from blindharmony.quality.verdict import Verdict, judge
from blindharmony.report.evidence import Confidence, Curve, FileChange, ScanEvidence, methods_text
from blindharmony.report.notebook import result_card
from blindharmony.report.scan import write_report
from blindharmony.report.viewer import pack, write_viewer
from blindharmony.settings import HarmonizeSettings
from blindharmony.version import versions

if TYPE_CHECKING:
    import nibabel as nib


@dataclass(frozen=True, eq=False)
class HarmonizeResult:
    """A harmonized scan with everything that is known about how it came about.

    Attributes:
        source: The scan as read.
        data: Harmonized intensities in the target scanner's units, float32, ``(X, Y, Z)`` in the file's own axes.
        mask: Brain mask, same axes.
        target: The target model.
        settings: Every choice and number it was made with.
        prepared: Every preparation step and what it found.
        source_image: The scan as prepared in its own contrast, template grid, flow units.
        estimate: The result on the template grid.
        evidence: What the checks looked at.
        verdict: Every check, and the level, headline, warnings and advice that follow.
        seconds: Time of each stage.
        source_sha256: Hash of the scan's file as it was read; None for an image in memory.
        given_mask: Name and hash of the mask that was given, if one was.
        lesion_mask: The same of the lesion mask.
        scanner: Model of the scanner, if one was given.
        own_steps: The steps of the method in words, if it is not one that a name and settings say all about.
        inputs: Files it was made from, which no result replaces.

    Example:
        >>> result = harmonize("scan.nii.gz")                                     # doctest: +SKIP
        >>> result.image.shape, result.verdict.level, result.warnings               # doctest: +SKIP
        ((256, 256, 180), 'good', ())
    """

    source: Volume
    data: NDArray[np.float32]
    mask: NDArray[np.bool_]
    target: Target
    settings: HarmonizeSettings
    prepared: Prepared
    source_image: NDArray[np.float32]
    estimate: Estimate
    evidence: Evidence
    verdict: Verdict
    seconds: Mapping[str, float]
    source_sha256: str | None = None
    given_mask: NamedFile | None = None
    lesion_mask: NamedFile | None = None
    scanner: ScannerModel | None = None
    own_steps: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        count = f"{len(self.warnings)} warnings" if len(self.warnings) != 1 else "1 warning"
        return f"<HarmonizeResult of {self.name} to {self.target.info.name}: {self.verdict.level}, {count}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, and slices before and after."""
        inside = self.prepared.scan.inside()
        return result_card(self.name, self.verdict, self.steps.scan, self.steps.result, inside)

    @cached_property
    def figures(self) -> dict[str, float | str]:
        """Numbers worth keeping; no times among them: equal input gives equal bytes, sidecar and report included."""
        before, after, changed = self.before.typicality, self.after.typicality, self.change
        judged = {"bits/voxel before": round(before.bits, 3)} if before else {}
        if after:
            judged |= {"bits/voxel after": round(after.bits, 3), "excess after (sd)": round(after.worst.z, 2)}
        return {
            "brightness of the file (times)": round(changed.gain, 5),
            "correlation of the files": round(changed.correlation, 4),
            "change of the file (% of white matter)": round(changed.total, 2),
            **{f"change by {name} (% of white matter)": round(size, 2) for name, size in changed.parts.items()},
            **judged,
            **self._scanner_measures,
            **self._distances,
            **self.estimate.figures,
        }

    @property
    def returned(self) -> bool:
        """Whether the scan was returned as it was, because harmonizing did not help."""
        return self.evidence.tried is not None

    @property
    def _distances(self) -> dict[str, float]:
        names = ("distance before (sd)", "distance harmonized (sd)")
        distances = (self.before.distance, (self.evidence.tried or self.after).distance)
        return {name: round(x, 3) for name, x in zip(names, distances, strict=True) if x is not None}

    @property
    def _scanner_measures(self) -> dict[str, float]:
        """What tells of the scanner, for ``blindharmony watch`` and to compare it with other sites."""
        contrast, fluid, smoothness, shading = WATCHED
        native = self.prepared.native
        measures = {
            smoothness: smoothness_mm(self.source_image, self.prepared.scan.inside()),
            AS_SCANNED: smoothness_mm(native.data, native.inside(), native.spacing),
        }
        if self.before.tissues:
            ratio, white, _, dark = (score.value for score in self.before.tissues)
            measures |= {contrast: ratio, fluid: dark / white}
        if self.prepared.bias_field is not None:
            measures[shading] = self.prepared.bias_field.spread
        return {name: round(value, 4) for name, value in measures.items() if np.isfinite(value)}

    @cached_property
    def steps(self) -> Steps:
        """The scan after each step, on the template grid in flow units."""
        return steps_of(self.prepared, self.source_image, self.estimate, self.settings)

    @cached_property
    def change(self) -> FileChange:
        """What was done to the file, in the brain."""
        scan, result = self.source.data[self.mask].astype(np.float32), self.data[self.mask]
        every, inside = np.ones(scan.shape, bool), self.prepared.scan.inside()
        mean = float(scan.mean(dtype=np.float64))
        per_cent = self.evidence.per_cent
        change = np.abs(result - with_mean_of(result, scan, every)).mean(dtype=np.float64)
        return FileChange(
            gain=float(result.mean(dtype=np.float64)) / mean if mean else float("nan"),
            correlation=ncc(scan, result, every),
            total=per_cent / self.target.info.unit * float(change),
            parts={
                name: per_cent * float(np.abs(step[inside]).mean(dtype=np.float64))
                for name, step in self.steps.maps.items()
            },
        )

    @property
    def name(self) -> str:
        """File name of the scan, ``scan.nii.gz`` for an image in memory."""
        return self.source.path.name if self.source.path else "scan.nii.gz"

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.settings.method

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before using the result."""
        return self.verdict.warnings

    @property
    def before(self) -> Comparison:
        """The scan, as prepared in its own contrast, beside the target's own scans."""
        return self.evidence.before

    @property
    def after(self) -> Comparison:
        """The result beside the target's own scans."""
        return self.evidence.after

    @property
    def trust(self) -> Verdict:
        """The verdict, by the name it had first."""
        return self.verdict

    @property
    def trace(self) -> Sequence[Mapping[str, float]]:
        """One entry for each step of the optimisation."""
        return self.estimate.trace

    @property
    def image(self) -> nib.Nifti1Image:
        """The harmonized scan as a nibabel image, in the scan's place in space and with the codes that are written."""
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
        else:
            set_place(image.header, self.source)
        return image

    @cached_property
    def uncertainty(self) -> NDArray[np.float32] | None:
        """One standard deviation of each voxel's error, target units; None if the method does not know it."""
        if self.estimate.error is None:
            return None
        scale = np.full(self.prepared.native.data.shape, self.target.info.unit, np.float32)
        if self.settings.keep_bias:
            # The deviation is known at intensities without the field, and is larger where the scan is brighter.
            scale *= own_bias(self.prepared)
        scale = self.prepared.to_file_grid(scale, fill=self.target.info.unit)
        return np.where(self.mask, scale * self.estimate.error(self.data / scale), 0).astype(np.float32)

    @property
    def sidecar(self) -> dict[str, Any]:
        """The JSON sidecar: where the image came from and how it was made, all that repeating it needs.

        Files are named without their folders, which are nobody's business, and known by their hashes.
        """
        return self.provenance().content

    def provenance(
        self,
        source_uri: str | None = None,
        results: Mapping[str, str] | None = None,
        scanner_uri: str | None = None,
        late: bool = False,
    ) -> Sidecar:
        """What the sidecar says, as a typed record.

        Args:
            source_uri: Place of the scan in its data set, as BIDS writes it; its file name if not given.
            results: Name of each file written → its SHA-256.
            scanner_uri: Place of the scanner model in the derivative; if not given, the model stands in the sidecar.
            late: Whether the scanner model was fitted before this scan came.
        """
        info, model, scanner = self.target.info, self.scanner, None
        if model:
            whole = None if scanner_uri else model.content
            scanner = NamedScanner(
                scans=model.scans, digest=model.digest, late=late or None, file=scanner_uri, model=whole
            )
        return Sidecar(
            description=f"{info.suffix} scan harmonized to the target scanner '{info.name}'",
            sources=(source_uri or self.name,),
            source_sha256=self.source_sha256,
            skull_stripped=self.prepared.brain_mask.source == "stripped",
            units=f"intensity units of the target scanner '{info.name}'",
            target=NamedTarget(
                name=info.name,
                file=self.target.file or None,
                digest=self.target.digest,
                preparation=info.recipe.digest(),
            ),
            method=self.settings.method,
            harmonized=not self.returned,
            parameters=Parameters.of(
                self.settings,
                mask=self.given_mask,
                lesion_mask=self.lesion_mask,
                scanner=scanner,
                steps=self.own_steps,
            ),
            preparation=self.prepared.summary(),
            figures=dict(self.figures),
            verdict={"Level": self.verdict.level, "Headline": self.verdict.headline},
            warnings=self.warnings,
            versions=versions(),
            results=dict(results or {}),
        )

    def save(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        report: bool = True,
        viewer: bool = False,
        uncertainty: bool = False,
        source_uri: str | None = None,
        scanner_uri: str | None = None,
        late: bool = False,
        overwrite: bool = False,
    ) -> tuple[Path, ...]:
        """Write scan, mask, sidecar and report into ``folder``; nothing is written beside the source.

        The files are called after the source, or after ``name``, which is that of the harmonized scan (``.nii``,
        ``.nii.gz``, ``.mgz``).

        The sidecar comes last: where it is, everything is, and of this run. With ``uncertainty`` the error bar of
        every voxel is written too (``desc-harmonizedSD``), with ``viewer`` a page with both volumes inside. With
        ``overwrite`` all files of an earlier run go, those that this one does not write as well. ``source_uri`` is the
        place of the scan in its data set, as BIDS writes it (``bids:raw:sub-01/anat/sub-01_T1w.nii.gz``),
        ``scanner_uri`` that of a scanner model in the derivative (``bids::scanners/siemens.json``), which the sidecar
        then names instead of holding it, and ``late`` says that the model was fitted before this scan came.

        Returns:
            The files written, the harmonized scan first.

        Raises:
            OutputError: If a file exists and ``overwrite`` is false, or cannot be written.
        """
        names = result_names(self.source.path or self.name, name)
        places = [Path(folder) / name for name in names.values()]
        with (
            written_together(places, overwrite=overwrite, inputs=self.inputs) as staged,
            ThreadPoolExecutor(1) as beside,
        ):
            # Compressing lets the other core put the report together.
            given_up = Event()
            volumes = beside.submit(self._write_volumes, staged, names, uncertainty, given_up)
            try:
                evidence = scan_evidence(self) if report else None
                files = volumes.result()
            except BaseException:
                given_up.set()
                raise
            hashes = {file.name: file_sha256(file) for file in files}
            if evidence:
                files.append(write_report(_with_hashes(evidence, hashes), staged / names["report"]))
            if viewer:
                files.append(self.viewer(staged / names["viewer"]))
            results = hashes | {f.name: file_sha256(f) for f in files if f.name not in hashes}
            files.append(
                write_sidecar(
                    staged / names["sidecar"], self.provenance(source_uri, results, scanner_uri, late).content
                )
            )
        return tuple(Path(folder) / file.name for file in files)

    def _write_volumes(self, folder: Path, names: Mapping[str, str], uncertainty: bool, given_up: Event) -> list[Path]:
        files = [write_like(self.source, self.data, folder / names["scan"])]
        # A second Ctrl-C does not wait for this thread: it shall not write into a folder that is gone.
        if not given_up.is_set():
            files.append(write_like(self.source, self.mask, folder / names["mask"], dtype=np.uint8))
        if uncertainty and self.uncertainty is not None and not given_up.is_set():
            files.append(write_like(self.source, self.uncertainty, folder / names["error"]))
        return files

    def report(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report: one HTML file that needs nothing else."""
        return write_report(scan_evidence(self), Path(path), overwrite=overwrite)

    def viewer(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the viewer: one HTML file with both volumes inside, 5 to 25 MB."""
        pair = pack(self.source.data, self.data, self.mask, self.source.affine)
        unit = f"{self.target.info.name} units"
        return write_viewer(*pair, Path(path), name=self.name, unit=unit, overwrite=overwrite)


# A name may not lead into another folder.
FileName = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^/\\]+$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: A file that results of a derivative share, below its top folder.
IN_DERIVATIVE = "bids::"
SharedPlace = Annotated[str, StringConstraints(max_length=1000, pattern=rf"^{IN_DERIVATIVE}[^\\]+$")]


def _key(name: str) -> str:
    """A field's name in the JSON: ``source_sha256`` is ``SourceSHA256``."""
    return to_pascal(name).replace("Sha256", "SHA256")


class SidecarPart(BaseModel):
    """A part of a sidecar: names in the JSON begin with capitals, and what a later version adds is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=_key, validate_by_name=True)


class NamedFile(SidecarPart):
    """A file known by its name and its SHA-256; both None if it was an image in memory."""

    name: FileName | None
    sha256: Digest | None


class NamedTarget(SidecarPart):
    """A target model known by its digest, which is empty if it was never saved."""

    name: str
    file: FileName | None
    digest: str = Field(pattern=r"^(.{12,})?$")
    preparation: str = ""


class NamedScanner(SidecarPart):
    """A scanner model known by its digest: the whole of it, or the file that all scans of a study share.

    Attributes:
        scans: How many it was fitted to.
        digest: Of the model.
        late: Whether it was fitted before this scan came; not written if it was not.
        file: Its place in the derivative, as BIDS writes it.
        model: All of it, where there is no such file.
    """

    scans: int = 1
    digest: str
    late: bool | None = None
    file: SharedPlace | None = None
    model: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        return {key: value for key, value in content.items() if value is not None}


_CHOICES = {"seed", "device", "keep_bias", "mask_command", "refine", "on_harm"}


class Parameters(SidecarPart):
    """The settings of a run, what it was given beside the scan, and the settings' digest.

    Of the numbers only those that are not the defaults are written. A sidecar that does not say what was returned on
    harm is of a version that always returned the result.
    """

    seed: int
    device: str
    keep_bias: bool
    mask: NamedFile | None
    lesion_mask: NamedFile | None = None
    mask_command: str | None
    refine: bool
    on_harm: Literal["scan", "result"] = "result"
    scanner: NamedScanner | None
    steps: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    settings_digest: str | None = None

    @classmethod
    def of(
        cls,
        settings: HarmonizeSettings,
        *,
        mask: NamedFile | None,
        lesion_mask: NamedFile | None = None,
        scanner: NamedScanner | None,
        steps: tuple[str, ...] = (),
    ) -> Parameters:
        """What a sidecar says about these settings."""
        return cls(
            **settings.model_dump(include=_CHOICES),
            mask=mask,
            lesion_mask=lesion_mask,
            scanner=scanner,
            steps=steps,
            settings=settings.groups(by_alias=True),
            settings_digest=settings.digest,
        )

    def settings_of(self, method: str) -> HarmonizeSettings:
        """The settings of the run.

        Raises:
            UsageError: If they are none.
        """
        choices = self.model_dump(include=_CHOICES)
        return HarmonizeSettings().updated(**self.settings).updated(method=method, **choices)

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        return {key: value for key, value in content.items() if key not in ("Steps", "Settings", "LesionMask") or value}


class Sidecar(SidecarPart):
    """The JSON beside a harmonized scan, in the order in which it is written."""

    description: str
    sources: tuple[str, ...]
    source_sha256: str | None
    skull_stripped: bool
    spatial_reference: str = "orig"
    units: str
    target: NamedTarget
    method: str
    harmonized: bool = True
    parameters: Parameters
    preparation: dict[str, Any]
    figures: dict[str, Any]
    verdict: dict[str, str]
    warnings: tuple[str, ...]
    versions: dict[str, str]
    results: dict[str, str]

    @property
    def content(self) -> dict[str, Any]:
        """What is written: plain numbers, words and lists; without ``Results`` as long as nothing is written."""
        return self.model_dump(by_alias=True, exclude=set() if self.results else {"results"})


def scan_evidence(result: HarmonizeResult) -> ScanEvidence:
    """Collect pictures, curves and numbers of a harmonized scan, in percent of the target's white matter."""
    target, prepared, estimate = result.target, result.prepared, result.estimate
    unit = result.evidence.per_cent
    inside = prepared.scan.inside()
    template = load_template()
    steps = result.steps
    provenance = {
        **versions(),
        "target model": f"{target.info.name} ({target.digest or 'not saved'})",
        "preparation": target.info.recipe.digest(),
        "method": result.settings.method,
        "seed": str(result.settings.seed),
        "command": command(result),
        "scan (SHA-256)": str(result.source_sha256 or "in memory"),
    }
    before, _ = region_quantiles(steps.scan, prepared.scan.fitted(), target)
    return ScanEvidence(
        name=result.name,
        before=steps.scan * np.float32(unit),
        after=steps.result * np.float32(unit),
        mask=inside,
        steps={name: change * np.float32(unit) for name, change in steps.maps.items()},
        change=result.change,
        target_image=target.atlas * np.float32(unit),
        target_words=f"{target.info.name}: mean of its scans, blurred because people differ",
        atlas=template.data / template.data.max(),
        unit="% of white matter",
        target_quantiles=target.quantiles * unit,
        levels=target.levels,
        verdict=result.verdict,
        verdict_before=judge(result.evidence.as_it_came()),
        quantiles=(before * unit, result.after.quantiles * unit),
        details=_details(result),
        methods=methods_text(
            target=target.info.name,
            scans=target.info.scans,
            method=_method(result),
            version=provenance["blindharmony"],
            n4=bias_share(result) is not None,
            bias=target.info.recipe.bias,
            bias_share=bias_share(result) or 0.0,
            returned=result.returned,
            mask=prepared.brain_mask.source,
            flow=target.pyramid is not None,
            splines=bool(target.info.pyramid and target.info.pyramid.rounds),
        ),
        curve=None if result.returned else _curve(result, unit),
        held_out=_held_out(target),
        confidence=_confidence(result, unit),
        trace=estimate.trace,
        figures=result.figures,
        places=_places(result),
        preparation=_preparation(result),
        provenance=provenance,
    )


def _with_hashes(evidence: ScanEvidence, written: Mapping[str, str]) -> ScanEvidence:
    """The same evidence with the files that are already written: name → SHA-256."""
    digests = {f"{name} (SHA-256)": digest for name, digest in written.items()}
    return replace(evidence, provenance={**evidence.provenance, **digests})


def _places(result: HarmonizeResult) -> dict[str, NDArray[np.bool_]]:
    """Where the head is unlike the target's, on the template grid, as far as its checks say so."""
    shown = places_to_show(result.evidence)
    inside = result.prepared.scan.inside()
    regions = {name: place.region.repeat(4, 0).repeat(4, 1).repeat(4, 2) & inside for name, place in shown.items()}
    return {name: region for name, region in regions.items() if region.any()}


def command(result: HarmonizeResult) -> str:
    """The command line that makes this result; folders are nobody's business and left out."""
    words = ["blindharmony", "harmonize", result.name, "--target", result.target.file or result.target.info.name]
    if result.target.info.name in included_targets():
        words[-1] = result.target.info.name
    settings = result.settings
    words += ["--method", settings.method, "--seed", str(settings.seed), "--device", settings.device]
    if result.given_mask:
        words += ["--mask", result.given_mask.name or "MASK"]
    if result.lesion_mask:
        words += ["--lesion-mask", result.lesion_mask.name or "LESIONS"]
    if settings.mask_command:
        words += ["--mask-command", settings.mask_command]
    if result.scanner:
        words += ["--scanner", "SCANNER.json"]
    words += [] if settings.refine else ["--no-refine"]
    words += [] if settings.on_harm == "scan" else ["--on-harm", settings.on_harm]
    words += ["--keep-bias"] if settings.keep_bias else []
    for group, numbers in settings.groups().items():
        words += [word for name, value in numbers.items() for word in ("--set", f"{group}.{name}={json.dumps(value)}")]
    return shlex.join([*words, "--out", "DIR"])


def _held_out(target: Target) -> int:
    """How many of the target's quantile curves, the last ones, are of scans that never trained."""
    unseen = target.info.held_out.scans
    return unseen if target.info.scans + unseen == len(target.quantiles) else 0


def _confidence(result: HarmonizeResult, unit: float) -> Confidence | None:
    bar = result.estimate.error
    if bar is None:
        return None
    return Confidence(intensity=np.asarray(bar.at) * unit, deviation=np.asarray(bar.deviation) * unit)


def _preparation(result: HarmonizeResult) -> dict[str, Any]:
    """What each step found, in words."""
    prepared = result.prepared
    bias, registration = prepared.bias_field, prepared.registration
    return {
        "orientation": {"axes of the file": prepared.orientation.axes},
        "brain mask": {
            "from": prepared.brain_mask.source,
            "brain (ml)": round(result.evidence.brain_ml),
        },
        **({"bias field": {"standard deviation of its logarithm (0: none)": bias.log_bias_sd}} if bias else {}),
        "gain": {"brightness was divided by": prepared.gain},
        "registration": {
            "overlap with the template (Dice)": registration.overlap,
            "affine matrix (mm, rows)": registration.matrix,
        },
    }


def bias_share(result: HarmonizeResult) -> float | None:
    """How much of the bias field that was found is out of the result; None if none was looked for, or all stayed in."""
    bias = result.prepared.bias_field
    return None if bias is None or result.settings.keep_bias else bias.share


def _details(result: HarmonizeResult) -> list[str]:
    if result.estimate.error is None:
        return []
    change = result.change.parts["contrast"]
    bar = result.evidence.per_cent * float(np.mean(result.estimate.error.deviation))
    hardly = "less than its error: this scan hardly needed it" if change < bar else "more than its error"
    return [
        f"The intensity curve changed the brain by {change:.1f}\u00a0% of white matter on average; it may be off by "
        f"{bar:.1f}\u00a0% (one standard deviation), so the change is {hardly}."
    ]


def _method(result: HarmonizeResult) -> str:
    """What was done, in sentences for a paper."""
    if result.returned:
        what = (
            "only its bias field was taken out and its brightness" if bias_share(result) else "only its brightness was"
        )
        return (
            "Harmonizing would not have brought the scan nearer to the target in contrast, tissue intensities and "
            f"likelihood: {what} set."
        )
    words = method_named(result.settings.method).about
    if result.scanner:
        words = (
            f"One increasing intensity curve was shared by the {result.scanner.scans} scans of its scanner: the one "
            "that gives their mean the intensities that these persons together would have on the target scanner, "
            "predicted from the order of the intensities and their place in the head; each scan kept a gain of its own."
        )
    if result.estimate.refinement:
        words += (
            " Noise and blur were then reduced by a network that had learned from target scans "
            f"seen through random simulated scanners (strength {result.estimate.refinement:.2f})."
        )
    return words


_CURVE_POINTS = 120


def _curve(result: HarmonizeResult, unit: float) -> Curve | None:
    """Where voxels of each intensity went, with the spread that place or detail adds."""
    inside = result.prepared.scan.fitted()
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
