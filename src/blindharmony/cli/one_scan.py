"""One scan of a command: whether it was done before, how it is harmonized, how it ended.

:class:`HarmonizeFile` is the work, in this process or in another. :func:`earlier` compares a result that lies there
with what would be made now. :class:`Outcomes` says how each scan ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, InputError, InternalError, UsageError
from blindharmony.files import file_sha256, parse_json, read_text, result_names
from blindharmony.jobs.engine import Answer, FilePath, Tell, Work
from blindharmony.settings import HarmonizeSettings
from blindharmony.version import VERSION

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.models.target import Target
    from blindharmony.result import Sidecar


#: What is written beside scan, mask and sidecar.
Extra = Literal["report", "viewer", "uncertainty"]


class HarmonizedFile(Answer):
    """What became of a scan.

    Attributes:
        files: What was written, the harmonized scan first.
        verdict: Level of the verdict.
        headline: The verdict in a sentence.
        warnings: What to know before using it.
        notes: Those of them that are no reason to doubt it.
        figures: Numbers of the method.
        seconds: How long it took.
        error_bar: Whether the error of every voxel is known.
    """

    files: tuple[FilePath, ...]
    verdict: str
    headline: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    figures: dict[str, Any]
    seconds: float
    error_bar: bool


class HarmonizeFile(Work):
    """Harmonize one scan and write everything.

    Attributes:
        scan: The scan.
        out: Folder for the results.
        name: A name of the user's own for the result.
        target: Model file or included name.
        settings: What it is harmonized with.
        mask: Given brain mask.
        lesions: Given lesion mask.
        scanner: Model of its scanner, as its file has it.
        cache: Folder in which it may lie prepared.
        also: What is written beside scan, mask and sidecar.
        overwrite: Whether results are replaced.
    """

    answers = HarmonizedFile

    scan: FilePath
    out: FilePath
    name: str | None
    target: str
    settings: HarmonizeSettings
    mask: FilePath | None
    lesions: FilePath | None
    scanner: dict[str, Any] | None
    cache: FilePath | None
    also: tuple[Extra, ...]
    overwrite: bool

    def do(self, tell: Tell) -> HarmonizedFile:
        """Harmonize and write."""
        from blindharmony.models.file import cached_target

        return self.done_with(cached_target(self.target), tell)

    def done_with(self, target: Target, tell: Tell) -> HarmonizedFile:
        """The same with a target that is loaded already."""
        import numpy as np

        from blindharmony.api import harmonize
        from blindharmony.harmonization.scanner import ScannerModel

        result = harmonize(
            self.scan,
            target,
            self.settings,
            mask=self.mask,
            lesion_mask=self.lesions,
            scanner=ScannerModel.parse(self.scanner) if self.scanner else None,
            cache=self.cache,
            progress=tell,
        )
        tell("writing", 0.5)
        files = result.save(
            self.out,
            name=self.name,
            report="report" in self.also,
            viewer="viewer" in self.also,
            uncertainty="uncertainty" in self.also,
            overwrite=self.overwrite,
        )
        return HarmonizedFile(
            files=files,
            verdict=result.verdict.level,
            headline=result.verdict.headline,
            warnings=result.warnings,
            notes=result.verdict.notes,
            # Numbers of numpy are no JSON.
            figures={k: v.item() if isinstance(v, np.generic) else v for k, v in result.figures.items()},
            seconds=round(sum(result.seconds.values()), 1),
            error_bar=result.estimate.error is not None,
        )


def earlier(
    places: list[Path],
    scan: Path,
    mask: Path | None,
    lesions: Path | None,
    target: Target,
    settings: HarmonizeSettings,
    scanner: Any,
    wanted: Sequence[str],
) -> tuple[str, list[Path]]:
    """How the result at these places was made otherwise than now, in words; empty if in the same way. And its files.

    Args:
        places: As :func:`~blindharmony.files.result_names` names them.
        scan: The scan.
        mask: The mask that is given now.
        lesions: The lesion mask that is given now.
        target: The target.
        settings: What the scan would be harmonized with.
        scanner: The scanner model, None if the scan goes alone; ``...`` if it is not fitted yet.
        wanted: What else is to be there: ``report``, ``viewer``, ``error``.
    """
    from blindharmony.harmonization.curve import ERROR_BAR
    from blindharmony.result import Sidecar

    try:
        record = Sidecar.model_validate(sidecar_content(places[-1]))
    except ValidationError:
        return "and its sidecar is of another program", []
    parameters = record.parameters
    by_kind = dict(zip(result_names(scan), places, strict=True))
    absent = [kind for kind in wanted if by_kind[kind].name not in record.results]
    if ERROR_BAR not in record.figures:  # nobody knows it, now as then
        absent = [kind for kind in absent if kind != "error"]
    masks = (("mask", parameters.mask, mask), ("lesion mask", parameters.lesion_mask, lesions))
    changed = [kind for kind, named, file in masks if (named and named.sha256) != (file and file_sha256(file))]
    made_with = parameters.scanner.digest if parameters.scanner else None
    if record.source_sha256 != file_sha256(scan):
        difference = "made from another scan"
    elif record.target.digest != target.digest:
        difference = f"made for the target {record.target.name}"
    elif parameters.steps or record.versions.get("blindharmony") != VERSION:
        difference = "made by another version or with other steps"
    elif record.method != settings.method or _settings_digest(record) != settings.digest:
        difference = "made with other settings"
    elif changed:
        difference = f"made with another {changed[0]}, or none"
    elif scanner is not ... and made_with != (scanner and scanner.digest):
        difference = "made with another scanner model, or none"
    else:
        difference = f"made without {' and '.join(absent)}" if absent else ""
    return difference, [place for place in places if place.exists()]


def _settings_digest(record: Sidecar) -> str | None:
    try:
        return record.parameters.settings_of(record.method).digest
    except UsageError:  # settings that this version does not know
        return None


def scanner_in(sidecar: Path) -> ScannerModel | None:
    """The scanner model that a sidecar holds; None if it names a study's file instead, or is of another program."""
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.result import Sidecar

    try:
        scanner = Sidecar.model_validate(sidecar_content(sidecar)).parameters.scanner
        return ScannerModel.parse(scanner.model) if scanner and scanner.model else None
    except ValueError:  # of pydantic too
        return None


def sidecar_content(file: Path) -> dict[str, Any]:
    """What a sidecar says; empty if it is none."""
    try:
        content = parse_json(read_text(file))
    except (InputError, ValueError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass
class Outcomes:
    """Says how each scan ended, as it ends.

    Attributes:
        screen: Where to.
        json: Whether standard output gets JSON; problems go to standard error as words all the same.
        failed: How many scans have failed.
        code: Exit code so far.
    """

    screen: Screen
    json: bool = False
    failed: int = 0
    code: int = 0

    def done(self, path: Path, result: HarmonizedFile, *, uncertainty: bool = False) -> None:
        """A scan is harmonized and written; with ``uncertainty``, an error bar was wanted."""
        files = result.files
        if uncertainty and not result.error_bar:
            self.screen.problem(
                f"{path.name}: warning: no error bar is written: the scan came back as it was, or the method or target "
                "knows none"
            )
        if self.json:
            self._line(
                scan=path,
                status="done",
                result=files[0],
                files=files,
                **result.model_dump(include={"verdict", "headline", "warnings", "figures", "seconds"}),
            )
            return
        self.screen.result(str(files[0]))
        self.screen.note(f"{path.name}: {result.headline} ({result.seconds:.0f} s)")
        for warning in result.warnings:
            self.screen.problem(f"{path.name}: {'note' if warning in result.notes else 'warning'}: {warning}")
        for what, ending in (("viewer", ".viewer.html"), ("report", ".html")):
            if file := next((f for f in files if f.name.endswith(ending)), None):
                if what == "report" and file.name.endswith(".viewer.html"):
                    continue
                self.screen.note(f"{path.name}: {what} in {file}")

    def kept(self, path: Path, files: Sequence[Path]) -> None:
        """A scan was harmonized before, in the same way."""
        if self.json:
            self._line(scan=path, status="done before", result=files[0], files=files)
            return
        self.screen.result(str(files[0]))
        self.screen.note(f"{path.name}: done before, skipped (--overwrite does it again)")

    def planned(self, path: Path, result: Path, what: str, group: str) -> None:
        """What would become of a scan."""
        if self.json:
            self._line(scan=path, status="planned", what=what, result=result, scanner=group or None)
            return
        self.screen.result(f"{path} -> {result}: {what}" + (f", with {group}" if group else ""))

    def fail(self, error: BlindHarmonyError, path: Path | None = None) -> None:
        """A scan has no result."""
        self.failed += 1
        self.code = max(self.code, InternalError.exit_code if isinstance(error, InternalError) else 1)
        self.screen.problem(f"blindharmony: {error}")
        if self.json:
            self._line(scan=path or error.path, status="failed", what=error.what, remedy=error.remedy)

    def _line(self, **content: Any) -> None:
        # One object a line, whatever the names: a reader may take line by line.
        self.screen.result(json.dumps(content, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.item()
