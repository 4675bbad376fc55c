"""The three pieces of work of a study: look at a scan, fit a scanner, harmonize a scan.

A study (:mod:`blindharmony.study.run`) plans with these types and hands them to an engine; a worker calls their ``do``.
Everything that a piece needs is in its fields, and where files lie is the :class:`~blindharmony.study.ledger.Ledger`'s
to know. Each piece writes whole files or none and may be done twice without harm. What computes is imported inside
``do``, so that planning stays light.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, ValidationError, model_serializer

from blindharmony.errors import InputError, UsageError
from blindharmony.files import mask_name, read_tensors, sidecar_name, write_sidecar, write_tensors
from blindharmony.io.bids import Scan
from blindharmony.jobs.engine import Answer, FilePath, Message, Tell, Work
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.ledger import Ledger, key_of, note_path, publish, read_json, write_if_new
from blindharmony.version import VERSION

if TYPE_CHECKING:
    from blindharmony.harmonization.summary import ScanSummary
    from blindharmony.models.target import Target
    from blindharmony.result import HarmonizeResult


class StudySettings(Message):
    """Everything besides the scans that decides what is written.

    Attributes:
        target: Model file or included name.
        digest: The model's hash.
        harmonize: What a scan is harmonized with.
        uncertainty: Also write error bars.
        report: Also write reports.
        version: Of this package.
    """

    target: str
    digest: str
    harmonize: HarmonizeSettings = HarmonizeSettings()
    uncertainty: bool = False
    report: bool = True
    version: str = VERSION

    def all(self) -> dict[str, JsonValue]:
        """What a result depends on; not where the model lies. Numbers that are not the defaults stand in full."""
        return {
            **self.model_dump(mode="json", include={"digest", "uncertainty", "report", "version"}),
            **self.harmonize.model_dump(mode="json", include=set(HarmonizeSettings.choices())),
            "numbers": self.harmonize.digest_of(HarmonizeSettings.number_groups()),
            **self.harmonize.groups(),
        }

    def look(self) -> dict[str, JsonValue]:
        """What a summary depends on."""
        numbers, those_of_2 = (
            s.digest_of(LOOKED_WITH) for s in (self.harmonize, HarmonizeSettings().updated(**METHOD_2))
        )
        return {
            **self.model_dump(mode="json", include={"digest", "version"}),
            **self.harmonize.model_dump(mode="json", include={"mask_command", "device"}),
            **({"benefit": self.harmonize.digest_of(BENEFIT_WITH)} if self.harmonize.on_harm == "scan" else {}),
            # Summaries of earlier runs are found by this name.
            "method": 2 if numbers == those_of_2 else numbers,
        }


#: Groups of numbers that decide what is learnt from a look at a scan.
LOOKED_WITH = ("curve", "bias_again", "person")
#: What decides, besides, whether a scanner's curve brings its scans nearer to the target.
BENEFIT_WITH = ("refine", "refinement", "checks")
#: Of the settings that studies had when they called them "method 2", those that are no longer the defaults.
METHOD_2: dict[str, Any] = {"on_harm": "result", "curve": {"believed": 1.5}}


def brought_up(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint as it is written now, of one that an earlier version has written.

    Example:
        >>> brought_up({"settings": {"seed": 1, "method": 2}})["settings"]["method"]
        'curve'
    """
    settings = dict(fingerprint.get("settings", {}))
    if settings.get("method") == 2:
        settings |= {
            "method": "curve",
            "numbers": HarmonizeSettings().updated(**METHOD_2).digest_of(HarmonizeSettings.number_groups()),
            **METHOD_2,
        }
    return {**fingerprint, "settings": settings}


class Fingerprint(Message):
    """All that the result of a scan depends on, as its record keeps it.

    Attributes:
        input: Hash of the scan.
        mask: Hash of the given mask.
        lesions: Hash of the lesion mask; left out if there is none, as in earlier versions.
        settings: What it is harmonized with.
        scanner: Key of the fitted scanner, None if the scan goes alone.
    """

    input: str
    mask: str | None
    lesions: str | None = None
    settings: dict[str, JsonValue]
    scanner: str | None

    @model_serializer(mode="wrap")
    def _as_before_there_were_lesions(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        return {name: value for name, value in content.items() if name != "lesions" or value}


class Item(Message):
    """A scan that is to be harmonized, and what it is harmonized from.

    Attributes:
        scan: The scan.
        sha: Hash of the file.
        mask: Given brain mask.
        mask_sha: Hash of that.
        lesions: Given lesion mask.
        lesions_sha: Hash of that.
    """

    scan: Scan
    sha: str
    mask: FilePath | None = None
    mask_sha: str | None = None
    lesions: FilePath | None = None
    lesions_sha: str | None = None

    def look_key(self, settings: StudySettings, earlier: str | None) -> str:
        """Name of its summary, made with the scanner model ``earlier`` if any."""
        lesions = (self.lesions_sha,) if self.lesions_sha else ()
        return key_of("summary", self.sha, self.mask_sha, settings.look(), earlier, *lesions)

    def fingerprint(self, settings: StudySettings, scanner: str | None) -> Fingerprint:
        """All that its result depends on."""
        masks = {"mask": self.mask_sha, "lesions": self.lesions_sha}
        return Fingerprint(input=self.sha, **masks, settings=settings.all(), scanner=scanner)


class Stage(StrEnum):
    """What a piece of work does."""

    LOOK = "look"
    FIT = "fit"
    HARMONIZE = "harmonize"


class StudyWork(Work):
    """What all three pieces have.

    Attributes:
        ledger: Where everything lies.
        settings: What the cohort is harmonized with.
    """

    stage: ClassVar[Stage]

    ledger: Ledger
    settings: StudySettings

    def target(self) -> Target:
        """The target model, loaded once in a worker.

        Raises:
            UsageError: If this machine has another version of the package, or finds another model.
        """
        from blindharmony.models.file import cached_target

        if self.settings.version != VERSION:
            what = f"the worker has blindharmony {VERSION}, the run {self.settings.version}"
            raise UsageError(what, remedy="install the same version everywhere")
        target = cached_target(self.settings.target)
        if target.digest != self.settings.digest:
            raise UsageError(f"the worker finds another target model in {self.settings.target}", remedy="run again")
        return target


class LookAtScan(StudyWork):
    """Summarize a scan for the fit of its scanner.

    Attributes:
        item: The scan.
        round: Of the fit, from 0.
        earlier: Key of the scanner that the round before has fitted.
        cache: Whether the prepared scan is kept for the next stages.
    """

    stage = Stage.LOOK

    item: Item
    round: int = 0
    earlier: str | None = None
    cache: bool = False

    @property
    def file(self) -> Path:
        """Where the summary is kept."""
        key = self.item.look_key(self.settings, self.earlier)
        return self.ledger.summary(self.item.scan.id, self.round, key)

    def do(self, tell: Tell) -> Answer:
        """Prepare the scan, summarize it and keep the summary in place of older ones of its round."""
        from blindharmony.api import summarize_scan
        from blindharmony.harmonization.scanner import ScannerModel

        target = self.target()
        summary = summarize_scan(
            self.item.scan.path,
            target,
            self.settings.harmonize,
            scanner=ScannerModel.load(self.ledger.scanner(self.earlier), target) if self.earlier else None,
            mask=self.item.mask,
            lesion_mask=self.item.lesions,
            cache=self.ledger.prepared(self.item.scan.id) if self.cache else None,
        )
        keep_summary(self.file, summary)
        for old in self.file.parent.glob(f"{self.file.name.split('.')[0]}.*.safetensors"):
            if old != self.file:
                old.unlink(missing_ok=True)
        return Answer()


class ScannerFit(Answer):
    """What a fit says; kept beside the scanner that it has fitted.

    Attributes:
        again: Whether the scans are to be looked at once more, with this scanner.
        digest: Hash of the scanner model.
        scans: How many it is fitted to.
        disagreement: Of the scans, flow units.
        effect: What its curve does to them, in words.
    """

    again: bool
    digest: str = ""
    scans: int = 0
    disagreement: float | None = None
    effect: str = ""


class FitScanner(StudyWork):
    """Fit a scanner to the summaries of its scans.

    Attributes:
        group: Name of the scanner.
        round: Of the fit, from 0.
        earlier: Key of the scanner that the round before has fitted; it becomes a part of this one.
        summaries: Scan's id and key of its summary, sorted.
    """

    stage = Stage.FIT
    answers = ScannerFit

    group: str
    round: int = 0
    earlier: str | None = None
    summaries: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """Name of the scanner: what it is fitted to."""
        return key_of("fit", self.earlier, self.summaries)

    @property
    def files(self) -> list[Path]:
        """Where the summaries are kept."""
        return [self.ledger.summary(scan_id, self.round, key) for scan_id, key in self.summaries]

    def kept(self) -> ScannerFit | None:
        """What an earlier run's fit to the same summaries has said."""
        try:
            return ScannerFit.model_validate(self.ledger.note(self.key))
        except ValidationError:
            return None

    def read(self) -> Iterator[ScanSummary]:
        """The summaries; a damaged one is removed, so that the next run looks at its scan again.

        Raises:
            InputError: If one is not there or damaged.
        """
        for file in self.files:
            try:
                yield kept_summary(file)
            except InputError:
                file.unlink(missing_ok=True)
                raise

    def do(self, tell: Tell) -> ScannerFit:
        """Fit, and keep the scanner with a note beside it."""
        from blindharmony.harmonization.curve import ScannerRounds
        from blindharmony.harmonization.scanner import ScannerModel

        target = self.target()
        summaries = list(self.read())
        so_far = ScannerModel.load(self.ledger.scanner(self.earlier), target) if self.earlier else None
        rounds = ScannerRounds(target, so_far, settings=self.settings.harmonize).after(summaries)
        model = rounds.model
        assert model is not None
        file = model.save(self.ledger.scanner(self.key), overwrite=True)
        fit = ScannerFit(
            again=rounds.wanted,
            digest=model.digest,
            scans=model.scans,
            disagreement=model.disagreement,
            effect=model.effect,
        )
        write_sidecar(note_path(file), fit.model_dump(mode="json"), overwrite=True)
        return fit


class PresentFit(Message):
    """The scans that the present model of a scanner is fitted to: a scan that is not among them comes late.

    Attributes:
        key: Of the fitted scanner.
        digest: Of its model.
        earlier: Key of the scanner that the round before has fitted.
        looked: What the scans were looked at with, as a key.
        scans: Scan's id → its place in the data set and the key of its summary.
    """

    key: str
    digest: str = ""
    earlier: str | None = None
    looked: str
    scans: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, fit: FitScanner, answer: ScannerFit, items: Mapping[str, Item]) -> PresentFit:
        """What a fit that is the last of its scanner is known by."""
        return cls(
            key=fit.key,
            digest=answer.digest,
            earlier=fit.earlier,
            looked=key_of(fit.settings.look()),
            scans={name: (items[name].scan.place, key) for name, key in fit.summaries},
        )

    def keep(self, ledger: Ledger, group: str) -> None:
        """Note it in place of an earlier one.

        Raises:
            OutputError: If it cannot be written.
        """
        write_if_new(ledger.fit(group), self.model_dump_json() + "\n")

    @classmethod
    def kept(cls, ledger: Ledger, group: str) -> PresentFit | None:
        """That of the last run; None if the scanner was never fitted, or nobody knows any more to what."""
        try:
            fit = cls.model_validate(read_json(ledger.fit(group)))
        except ValidationError:
            return None
        return fit if ledger.note(fit.key) is not None else None

    def holds(self, settings: StudySettings, items: Mapping[str, Item], root: Path, others: Mapping[str, Item]) -> bool:
        """Whether it is what a fit to the same scans would give today.

        A scan that is not asked for, or cannot be read today, counts as unchanged; one that has left the data set, or
        is another scanner's now, does not.

        Args:
            settings: Of this run.
            items: The scanner's scans that this run can read.
            root: The data set.
            others: All scans that this run can read.
        """
        if self.looked != key_of(settings.look()):
            return False
        return all(
            items[name].look_key(settings, self.earlier) == key
            if name in items
            else name not in others and os.path.lexists(root / place)
            for name, (place, key) in self.scans.items()
        )


class ScanRecord(Answer):
    """The record of a harmonized scan, which makes its results count.

    Attributes:
        scan: Place in the data set.
        group: Name of its scanner.
        fingerprint: All that the result depends on.
        late: Whether its scanner was fitted before the scan came.
        scanner_model: Digest of that scanner's model, None if the scan went alone.
        status: ``done``.
        verdict: Level of the verdict.
        headline: The verdict in a sentence.
        warnings: What to know before using it.
        seconds: How long it took.
        excess_before: Of the scan under the target's flow, None without one.
        excess_after: Of the result.
        bits_before: Bits a voxel of the scan.
        bits_after: Of the result.
        figures: Numbers of the method.
        profile_before: Intensities of the scan at fixed ranks, target units.
        profile_after: Of the result.
        distance_before: Of the scan's profile from the target's median profile.
        distance_after: Of the result's.
        thumbnail: One slice of the scan beside the same of the result, a data URI.
        outputs: Place below the output folder → bytes.
    """

    scan: str
    group: str
    fingerprint: Fingerprint
    late: bool = False
    scanner_model: str | None = None
    status: str = "done"
    verdict: str = ""
    headline: str = "done"
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    excess_before: float | None = None
    excess_after: float | None = None
    bits_before: float | None = None
    bits_after: float | None = None
    figures: dict[str, JsonValue] = Field(default_factory=dict)
    profile_before: list[float] | None = None
    profile_after: list[float] | None = None
    distance_before: float | None = None
    distance_after: float | None = None
    thumbnail: str | None = None
    outputs: dict[str, int] = Field(default_factory=dict)


_MASK = {"Description": "Brain that was harmonized", "Type": "Brain", "SpatialReference": "orig"}


class HarmonizeScan(StudyWork):
    """Harmonize a scan and publish the files.

    Attributes:
        item: The scan.
        group: Name of its scanner.
        scanner: Key of the fitted scanner, None if the scan goes alone.
        shared: Place of that scanner's file in the derivative.
        late: Whether the scanner was fitted before this scan came.
        run: Names the run's staging folder.
        cache: Whether the prepared scan may have been kept.
    """

    stage = Stage.HARMONIZE
    answers = ScanRecord

    item: Item
    group: str
    scanner: str | None = None
    shared: str | None = None
    late: bool = False
    run: str
    cache: bool = False

    def do(self, tell: Tell) -> ScanRecord:
        """Harmonize; files first, then the record.

        Raises:
            InputError: If the scan is not the one that was planned.
        """
        from blindharmony.api import harmonize
        from blindharmony.result import IN_DERIVATIVE

        settings, scan = self.settings, self.item.scan
        prepared = self.ledger.prepared(scan.id)
        result = harmonize(
            scan.path,
            self.target(),
            settings.harmonize,
            mask=self.item.mask,
            lesion_mask=self.item.lesions,
            scanner=self.ledger.scanner(self.scanner) if self.scanner else None,
            cache=prepared if self.cache else None,
        )
        source = f"bids:raw:{scan.place}"
        if result.source_sha256 != self.item.sha:
            what = "the scan was changed while the run was going on"
            raise InputError(what, remedy="run again", path=scan.path)
        staged = self.emptied()
        result.save(
            staged,
            report=settings.report,
            uncertainty=settings.uncertainty,
            source_uri=source,
            scanner_uri=f"{IN_DERIVATIVE}{self.shared}" if self.shared else None,
            late=self.late,
            overwrite=True,
        )
        write_sidecar(staged / sidecar_name(mask_name(result.name)), {**_MASK, "Sources": [source]}, overwrite=True)
        record = self.published(staged, self._record(result))
        if self.cache:
            shutil.rmtree(prepared, ignore_errors=True)
        return record

    def emptied(self) -> Path:
        """The folder for finished files before they get their names, without what a lost worker has left."""
        staged = self.ledger.staging(self.run, self.item.scan.id)
        shutil.rmtree(staged, ignore_errors=True)
        return staged

    def published(self, staged: Path, record: ScanRecord) -> ScanRecord:
        """The record, with the results that got their names.

        Raises:
            OutputError: As :func:`~blindharmony.study.ledger.publish`.
        """
        scan, content = self.item.scan, record.model_dump(mode="json", exclude_unset=True)
        whole = publish(staged, self.ledger.out, scan.folder, self.ledger.scan(scan.id), content)
        return record.model_copy(update={"outputs": whole["outputs"]})

    def _record(self, result: HarmonizeResult) -> ScanRecord:
        from blindharmony.study.cohort import scan_profiles

        before, after = result.before.typicality, result.after.typicality
        return ScanRecord(
            scan=self.item.scan.place,
            group=self.group,
            fingerprint=self.item.fingerprint(self.settings, self.scanner),
            late=self.late,
            scanner_model=result.scanner.digest if result.scanner else None,
            status="done",
            verdict=result.verdict.level,
            headline=result.verdict.headline,
            warnings=tuple(result.warnings),
            seconds=round(sum(result.seconds.values()), 2),
            excess_before=round(before.worst.z, 3) if before else None,
            excess_after=round(after.worst.z, 3) if after else None,
            bits_before=round(before.bits, 4) if before else None,
            bits_after=round(after.bits, 4) if after else None,
            figures=dict(result.figures),
            **scan_profiles(result),
        )


def keep_summary(path: Path, summary: ScanSummary) -> Path:
    """Write a summary, about 10 kB, to the last digit.

    Raises:
        OutputError: If it cannot be written.
    """
    import numpy as np

    arrays = {"quantiles": summary.quantiles, "whole": summary.whole, "person": summary.person}
    if summary.distances:
        arrays["distances"] = np.array(summary.distances)
    return write_tensors(path, arrays, {"surprise": float(summary.surprise).hex()})


def kept_summary(path: Path) -> ScanSummary:
    """Read a summary.

    Raises:
        InputError: If it is not there or damaged.

    Example:
        >>> import tempfile, numpy as np
        >>> from blindharmony.harmonization.summary import ScanSummary
        >>> one = ScanSummary(np.arange(2.0), np.arange(3.0), np.ones(2), 0.1)
        >>> kept_summary(keep_summary(Path(tempfile.mkdtemp(), "a.safetensors"), one)).surprise
        0.1
    """
    from blindharmony.harmonization.summary import ScanSummary

    try:
        arrays, words = read_tensors(path)
        surprise = float.fromhex(words["surprise"])
        distances = tuple(arrays["distances"].tolist()) if "distances" in arrays else None
        return ScanSummary(arrays["quantiles"], arrays["whole"], arrays["person"], surprise, distances)
    except (OSError, KeyError, ValueError):
        raise InputError(
            "this scan summary is damaged", remedy="run again: the scan is looked at anew", path=path
        ) from None
