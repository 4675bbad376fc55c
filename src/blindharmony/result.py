"""What a user gets back for one scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.carry import own_bias
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.trust import Trust
from blindharmony.harmonization.typicality import Typicality
from blindharmony.image import (
    Volume,
    file_sha256,
    result_names,
    write_like,
    write_sidecar,
    written_together,
)
from blindharmony.prep.recipe import Prepared
from blindharmony.report import write_report
from blindharmony.report.metrics import ncc
from blindharmony.result_evidence import scan_evidence
from blindharmony.target import Target
from blindharmony.version import versions
from blindharmony.viewer import pack, write_viewer

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
        scale = self.prepared.undo_axes(scale)
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
            "SkullStripped": self.prepared.found("brain-mask").get("source") == "stripped",
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
