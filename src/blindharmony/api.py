"""The method from end to end: harmonize a scan, assess it, learn the scanner that made it.

:class:`Method` is the order of the method; :func:`harmonize` runs it on one scan. :func:`assess` tells how far a scan
is from the target scanner and writes nothing. :func:`learn_scanner` looks at all scans of one scanner, so that they can
share a curve.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from blindharmony.device import exact_convolutions, resolved_device
from blindharmony.errors import (
    EVERY_SCAN,
    OF_THE_MACHINE,
    BlindHarmonyError,
    TooFewScansError,
    UsageError,
    reportable,
)
from blindharmony.files import file_sha256
from blindharmony.harmonization.curve import ScannerRounds, bias_estimated_again, in_target_contrast
from blindharmony.harmonization.intensity import Estimate, as_it_was
from blindharmony.harmonization.methods import HarmonizationMethod, estimate, method_named
from blindharmony.harmonization.native import to_scan
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import ScanSummary, summarize
from blindharmony.io.volume import Source, Volume, noticed, read_volume
from blindharmony.models.file import load_target
from blindharmony.models.target import Target
from blindharmony.preprocessing.brain import read_lesion, read_mask
from blindharmony.preprocessing.recipe import Preparation, Prepared, prepare
from blindharmony.preprocessing.steps import BiasField, CorrectBias, Step
from blindharmony.quality.checks import gather_evidence, registered_checks
from blindharmony.quality.typicality import compare
from blindharmony.quality.verdict import Assessment, decided, harms, judge
from blindharmony.result import HarmonizeResult, NamedFile
from blindharmony.settings import HarmonizeSettings

Progress = Callable[[str, float], None]


class Stages:
    """Announces stages and takes their time.

    Args:
        progress: Called with a stage and the share of it that is done.

    Example:
        >>> stages = Stages(lambda stage, share: print(stage, share))
        >>> with stages("judging") as say:
        ...     say(0.5)
        judging 0.0
        judging 0.5
        >>> list(stages.seconds)
        ['judging']
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or (lambda stage, share: None)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[Callable[[float], None]]:
        """Within it, ``stage`` runs; what it gives tells how much of it is done."""
        began = time.perf_counter()
        self._progress(stage, 0.0)
        yield lambda share: self._progress(stage, share)
        self.seconds[stage] = round(time.perf_counter() - began, 2)


@dataclass(frozen=True)
class Method:
    """The steps from the file that is read to the file that is written, in the order in which they run.

    :func:`harmonize` runs it. It never changes: :meth:`with_step` and :meth:`updated` give another one.

    Attributes:
        preparation: Orientation, brain mask, bias field, gain, registration, and what was added to them.
        settings: Every choice and number; ``settings.method`` names the way in which the prepared scan is harmonized.

    Raises:
        UsageError: If there is no method of this name.

    Example:
        >>> print(Method.default("ds002748", "match"))
         1  read          every format that nibabel knows; no voxel is resampled
         2  orientation   axes to right, anterior, superior; no interpolation
         3  brain mask    the scan's own if it is stripped, else the included network (deepbet)
         4  bias field    least entropy inside the brain, fitted at 4 mm
         5  gain          root mean square of the brain becomes 1
         6  registration  affine by mutual information, onto ICBM152 at 1 mm
         7  match         Intensities were matched, rank by rank inside the brain, to the target's mean quantile
                          curve; no flow was used.
         8  checks        mask, order of tissues, and how typical the scan is for the target, before and after
         9  native space  the change goes to the scan's own voxels; every step is undone but bias field, gain
        >>> Method.default("ds002748").updated(seed=3, curve={"degree": 1}).settings.differences()
        {'seed': 3, 'curve': {'degree': 1}}
    """

    preparation: Preparation
    settings: HarmonizeSettings = HarmonizeSettings()

    def __post_init__(self) -> None:
        method_named(self.settings.method)

    @classmethod
    def default(
        cls,
        target: str | PathLike[str] | Target = "ds002748",
        name: str | None = None,
        settings: HarmonizeSettings | None = None,
        **changes: Any,
    ) -> Method:
        """The method of this name for a target, with its recipe of preparation.

        Args:
            target: A model, its file, or the name of an included one.
            name: ``curve``, ``match``, ``latent``, ``latent-published`` or one that was registered; that of the
                settings if not given.
            settings: Every choice and number; the defaults if not given.
            **changes: Of ``settings``, as for :func:`harmonize`.

        Raises:
            UsageError: If there is no such method or setting.
        """
        settings = (settings or HarmonizeSettings()).updated(**changes, **({"method": name} if name else {}))
        return cls(load_target(target).info.recipe.preparation, settings)

    @property
    def harmonization(self) -> HarmonizationMethod:
        """How the prepared scan is harmonized."""
        return method_named(self.settings.method)

    def updated(self, **changes: Any) -> Method:
        """The method with other settings, see :meth:`~blindharmony.settings.HarmonizeSettings.updated`.

        Raises:
            UsageError: If a name is unknown or a value makes no sense.
        """
        return replace(self, settings=self.settings.updated(**changes))

    def with_step(self, step: Step[Any], **where: str) -> Method:
        """The method with another preparation step: ``before``, ``after`` or ``instead_of`` the step of a name.

        Raises:
            UsageError: See :meth:`~blindharmony.preprocessing.recipe.Preparation.with_step`.
        """
        return replace(self, preparation=self.preparation.with_step(step, **where))

    @property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """Name and description of every step, in order."""
        steps = [("read", "every format that nibabel knows; no voxel is resampled")]
        steps += [(step.name, str(step)) for step in self.preparation.steps]
        bias = any(step.result is BiasField for step in self.preparation.steps)
        if (
            self.harmonization.target_contrast
            and bias
            and (rounds := self.settings.bias_again.rounds_after(self.preparation.recipe.bias))
        ):
            again = f"contrast, bias field and gain again through the curve so far; {rounds} rounds at most"
            steps.append(("bias field again", again))
        steps.append((self.harmonization.name, self.harmonization.about))
        if self.harmonization.refines and self.settings.refine:
            steps.append(("refinement", "noise and blur taken out by the target's restorer, as far as the scan allows"))
        added = [check.__name__ for check in registered_checks() if check.__module__ != registered_checks.__module__]
        judged = "mask, order of tissues, and how typical the scan is for the target, before and after"
        steps.append(("checks", ", ".join([judged, *added])))
        if self.guards(None):
            steps.append(("do no harm", "a scan that is not brought nearer to the target is returned as it was"))
        stays = [step.name for step in self.preparation.steps if step.harmonizes]
        stays = [name for name in stays if not (self.settings.keep_bias and name == CorrectBias.name)]
        back = "the change goes to the scan's own voxels; every step is undone but " + ", ".join(stays)
        return (*steps, ("native space", back))

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.steps)
        lines = []
        for number, (name, words) in enumerate(self.steps, 1):
            first, *more = textwrap.wrap(words, 86)
            lines += [f"{number:2}  {name:{width}}  {first}", *(f"{'':{width + 6}}{line}" for line in more)]
        numbers = self.settings.groups()
        changed = [f"{group}.{name}={value}" for group, values in numbers.items() for name, value in values.items()]
        if changed:
            lines += textwrap.wrap(f"other than the defaults: {', '.join(changed)}", 110, subsequent_indent="    ")
        return "\n".join(lines)

    def guards(self, scanner: ScannerModel | None) -> bool:
        """Whether a scan that is not helped is returned as it was.

        Scans of one scanner that share a curve are all returned or none: one of them left as it was would no longer be
        like the others.

        Args:
            scanner: The curve that they share; None for a scan that goes alone.
        """
        guarded = self.harmonization.guarded and self.settings.on_harm == "scan"
        return guarded and (scanner is None or not scanner.helps)

    @property
    def is_default(self) -> bool:
        """Whether a method's name and the settings of :func:`harmonize` say it all."""
        return self.preparation.as_trained

    def in_target_contrast(
        self,
        prepared: Prepared,
        target: Target,
        scanner: ScannerModel | None,
        *,
        cache: Path | None = None,
    ) -> tuple[Prepared, ScannerModel | None]:
        """The scan with its bias field estimated again, if the method does that, and the scanner's curve still to use.

        See :func:`~blindharmony.harmonization.curve.in_target_contrast`.
        """
        if not self.harmonization.target_contrast:
            return prepared, scanner
        recipe, settings = self.preparation, self.settings
        return in_target_contrast(prepared, target, scanner, settings=settings, recipe=recipe, cache=cache)

    def estimated(
        self,
        prepared: Prepared,
        target: Target,
        scanner: ScannerModel | None,
        *,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Estimate:
        """What the target scanner would have made of a scan, given what :meth:`in_target_contrast` says of it."""
        scan = prepared.scan
        return estimate(
            *(self.harmonization, scan.data, scan.inside(), target, self.settings),
            scanner=scanner,
            fitted=scan.fitted(),
            in_contrast=prepared.in_contrast,
            cache=cache,
            progress=progress,
        )

    def checked_for(self, target: Target) -> Method:
        """This method, if it prepares scans as this target was trained to see them, but for steps that were added.

        Raises:
            UsageError: If it was made for a target with another recipe.
        """
        if self.preparation.recipe != target.info.recipe:
            raise UsageError(
                f"this method prepares scans otherwise than the target '{target.info.name}' wants",
                remedy="make it with Method.default(target)",
            )
        return self


def chosen(
    target: str | PathLike[str] | Target,
    settings: HarmonizeSettings | None,
    method: str | Method | None,
    changes: Mapping[str, Any],
) -> tuple[Target, Method, HarmonizeSettings]:
    """Target, steps and settings of a call, so that each says the same.

    Raises:
        UsageError: If there is no such method or setting, the method was made for another recipe, or it has settings of
            its own beside those that were given.
    """
    model = load_target(target)
    if not isinstance(method, Method):
        steps = Method.default(model, method, settings, **changes)
    elif settings is None:
        steps = method.checked_for(model).updated(**changes)
    else:
        raise UsageError(
            "a method has settings of its own, and others were given beside it",
            remedy="give them to the method: Method.default(target, settings=settings)",
        )
    refine = steps.settings.refine and steps.harmonization.refines
    steps = steps.updated(refine=refine, device=resolved_device(steps.settings.device))
    return model.asked_with(steps.settings.person), steps, steps.settings


@exact_convolutions()
def harmonize(
    scan: Source,
    target: str | PathLike[str] | Target = "ds002748",
    settings: HarmonizeSettings | None = None,
    *,
    mask: Source | None = None,
    lesion_mask: Source | None = None,
    method: str | Method | None = None,
    scanner: ScannerModel | str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> HarmonizeResult:
    """Harmonize one scan of any scanner to the target scanner.

    The steps, in the order in which they run (``print(Method.default())`` lists them with their settings):

    1. Read the scan: :func:`~blindharmony.io.volume.read_volume`.
    2. Orientation: axes to right, anterior, superior.
    3. Brain mask: the one that is given, or the scan's own, or deepbet (Fisch et al. 2024).
    4. Bias field, inside the brain, by what the target's recipe names: least entropy (the default of ``train``) or N4
       (Tustison et al. 2010): :mod:`~blindharmony.preprocessing.bias`.
    5. Gain: the root mean square of the brain becomes 1.
    6. Registration: one affine to ICBM152 by mutual information (Mattes et al. 2003).
    7. Only for targets that were trained with N4: the field again, in the target's contrast
       (:mod:`~blindharmony.harmonization.curve`).
    8. Intensity curve: the person's quantile curve on the target scanner, from the order of the intensities
       (:mod:`~blindharmony.models.person`), or the curve that all scans of the scanner share
       (:mod:`~blindharmony.harmonization.scanner`).
    9. Refinement: noise and blur, within the distance of Jeong et al. (2023)
       (:mod:`~blindharmony.harmonization.refine`).
    10. Checks: mask, order of tissues, probability under the target's flow (:mod:`~blindharmony.quality.verdict`).
    11. Do no harm: a scan that is not brought nearer to the target is returned as it was
        (:func:`~blindharmony.quality.verdict.harms`).
    12. Return to native space: :mod:`~blindharmony.harmonization.native`.

    Args:
        scan: A file, a nibabel image or an array.
        target: A model, its file, or the name of an included one.
        settings: Every choice and number; the defaults if not given, or those of a :class:`Method`.
        mask: Brain mask on the scan's grid (an array is taken to lie there); found automatically if not given.
        lesion_mask: Lesions on the scan's grid: no fit and no check looks at them, and they are harmonized by what
            the rest of the brain says.
        method: ``curve`` (default), ``match``, ``latent``, ``latent-published``, one that was registered
            (:func:`~blindharmony.harmonization.methods.register_method`), or a :class:`Method` with steps of your own.
        scanner: Model of the scanner that made the scan, or its file: scans of one scanner share a curve.
        cache: Folder in which preparation and refinement are kept for the next time.
        progress: Called with a stage and the share of it that is done.
        **changes: Of ``settings``, by the names of :class:`~blindharmony.settings.HarmonizeSettings`: ``refine``,
            ``keep_bias``, ``seed``, ``device``, ``mask_command``, or a group such as ``curve={"degree": 1}``.

    Raises:
        BlindHarmonyError: With one line that names the file, what is wrong and what to do.

    Example:
        >>> harmonize("scan.nii.gz").save("out")                                  # doctest: +SKIP
        (PosixPath('out/scan_desc-harmonized.nii.gz'), ...)
    """
    cache = None if cache is None else Path(cache)
    model, steps, settings = chosen(target, settings, method, changes)
    shared = _scanner_for(steps, model, scanner)
    stage, source = Stages(progress), read_volume(scan)
    source_sha256 = file_sha256(source.path) if source.path else None
    with naming(source):
        with stage("preparing") as say:
            first = prepared_for(
                model,
                source,
                preparation=steps.preparation,
                settings=settings,
                mask=mask,
                lesion_mask=lesion_mask,
                cache=cache,
                progress=say,
            )
        with stage("correcting"):
            prepared, curve = steps.in_target_contrast(first, model, shared, cache=cache)
        with stage("harmonizing") as say:
            estimated = steps.estimated(prepared, model, curve, cache=cache, progress=lambda done, of: say(done / of))
        with stage("judging"):
            evidence = gather_evidence(
                *(prepared, first.scan.data, estimated.image, model),
                scanner=shared,
                file_warnings=source.warnings,
                method_warnings=estimated.warnings,
                doubts=estimated.doubts,
                settings=settings.checks,
                device=settings.device,
                cache=cache,
            )
            if steps.guards(shared) and (shared or harms(evidence)):
                prepared, estimated = first, as_it_was(first.scan.data, first.scan.inside())
                evidence = evidence.returned(first)
        with stage("returning"):
            data, brain = to_scan(prepared, estimated, model, settings)
    return HarmonizeResult(
        source=source,
        data=data,
        mask=brain,
        target=model,
        settings=settings,
        prepared=prepared,
        source_image=first.scan.data,
        estimate=estimated,
        evidence=evidence,
        verdict=judge(evidence),
        seconds=stage.seconds,
        source_sha256=source_sha256,
        given_mask=named_file(mask),
        lesion_mask=named_file(lesion_mask),
        scanner=shared,
        own_steps=() if steps.is_default else tuple(f"{name}: {words}" for name, words in steps.steps),
        inputs=tuple(Path(file) for file in (source.path, mask, lesion_mask) if isinstance(file, str | PathLike)),
    )


def _scanner_for(
    steps: Method, target: Target, scanner: ScannerModel | str | PathLike[str] | None
) -> ScannerModel | None:
    """The scanner model that was given, if method and target can use it."""
    if scanner is None:
        return None
    model = ScannerModel.load(Path(scanner), target) if isinstance(scanner, str | PathLike) else scanner
    if not steps.harmonization.scanner:
        raise UsageError(f"the method '{steps.harmonization.name}' has no scanner model", remedy="use --method curve")
    return model.checked_for(target)


def prepared_for(
    target: Target,
    source: Volume,
    *,
    preparation: Preparation | None = None,
    settings: HarmonizeSettings = HarmonizeSettings(),
    mask: Source | None = None,
    lesion_mask: Source | None = None,
    cache: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Prepared:
    """A scan in the target's flow space, by the steps of its recipe or by others."""
    return prepare(
        source,
        preparation or target.info.recipe,
        mask=None if mask is None else read_mask(mask, source.affine),
        lesion=None if lesion_mask is None else read_lesion(lesion_mask, source.affine),
        mask_command=settings.mask_command,
        device=settings.device,
        cache=cache,
        progress=progress,
    )


@contextmanager
def naming(source: Volume) -> Iterator[None]:
    """Errors inside name the scan's file, and what was noticed when it was read."""
    try:
        with noticed(source.warnings):
            yield
    except BlindHarmonyError as error:
        if error.path is None and source.path is not None and not isinstance(error, UsageError):
            raise type(error)(error.what, remedy=error.remedy, path=source.path) from error
        raise


def named_file(mask: Source | None) -> NamedFile | None:
    """What a sidecar says about a mask: name and hash of its file; None if none was given."""
    if mask is None:
        return None
    if isinstance(mask, str | PathLike):
        return NamedFile(name=Path(mask).name, sha256=file_sha256(mask))
    return NamedFile(name=None, sha256=None)


@exact_convolutions()
def assess(
    scan: Source,
    target: str | PathLike[str] | Target = "ds002748",
    settings: HarmonizeSettings | None = None,
    *,
    mask: Source | None = None,
    lesion_mask: Source | None = None,
    method: str | Method | None = None,
    full: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Assessment:
    """Tell how far a scan is from the target scanner, and whether harmonization can bring it there.

    The scan is prepared as for :func:`harmonize`; nothing is written. Harmonization is tried where the answer depends
    on it: a scan like the target's is *target-like* without it, and nothing mends a wrong brain mask.

    Args:
        scan: A file, a nibabel image or an array.
        target: A model, its file, or the name of an included one.
        settings: Every choice and number of the harmonization that is tried; the defaults if not given.
        mask: Brain mask on the scan's grid; found automatically if not given.
        lesion_mask: Lesions on the scan's grid, which no fit and no check looks at.
        method: Harmonization to try.
        full: Try it for every scan, so that all that ``harmonize`` would say is known.
        progress: Called with a stage and the share of it that is done.
        **changes: Of ``settings``, as for :func:`harmonize`.

    Raises:
        BlindHarmonyError: With one line that names the file, what is wrong and what to do.

    Example:
        >>> assess("scan.nii.gz").verdict                                         # doctest: +SKIP
        'foreign'
    """
    began = time.perf_counter()
    model, steps, settings = chosen(target, settings, method, changes)
    stage, source = Stages(progress), read_volume(scan)
    with naming(source):
        with stage("preparing") as share:
            prepared = prepared_for(
                model,
                source,
                preparation=steps.preparation,
                settings=settings,
                mask=mask,
                lesion_mask=lesion_mask,
                progress=share,
            )
        with stage("judging"):
            evidence = gather_evidence(
                *(prepared, prepared.scan.data, None, model),
                file_warnings=source.warnings,
                settings=settings.checks,
                device=settings.device,
            )
        if full or not decided(evidence, guarded=steps.guards(None)):
            with stage("harmonizing"):
                corrected, curve = steps.in_target_contrast(prepared, model, None)
                estimated = steps.estimated(corrected, model, curve)
                evidence = gather_evidence(
                    *(corrected, prepared.scan.data, estimated.image, model),
                    file_warnings=source.warnings,
                    method_warnings=estimated.warnings,
                    doubts=estimated.doubts,
                    settings=settings.checks,
                    device=settings.device,
                )
                if steps.guards(None) and harms(evidence):
                    evidence = evidence.returned(prepared)
    return Assessment.of(evidence, source.path, method=settings.method, seconds=round(time.perf_counter() - began, 2))


@exact_convolutions()
def summarize_scan(
    scan: Source,
    target: str | PathLike[str] | Target = "ds002748",
    settings: HarmonizeSettings | None = None,
    *,
    scanner: ScannerModel | None = None,
    mask: Source | None = None,
    lesion_mask: Source | None = None,
    cache: str | PathLike[str] | None = None,
    **changes: Any,
) -> ScanSummary:
    """One look at one scan: prepare it, and take what it adds to the model of its scanner.

    Args:
        scan: A file, a nibabel image or an array.
        target: A model, its file, or the name of an included one.
        settings: Every choice and number; the defaults if not given.
        scanner: The model so far: the summary is then of the scan with its bias field estimated again in the contrast
            that it gives.
        mask: As for :func:`harmonize`, like the rest.
        lesion_mask: No part of the summary.
        cache: Folder in which preparation is kept for the next time.
        **changes: Of ``settings``.
    """
    cache = None if cache is None else Path(cache)
    (model, steps, settings), source = chosen(target, settings, None, changes), read_volume(scan)
    with naming(source):
        prepared = prepared_for(model, source, settings=settings, mask=mask, lesion_mask=lesion_mask, cache=cache)
        if scanner is not None:
            rounds = scanner.checked_for(model).rounds
            if ScannerRounds(model, scanner, settings=settings).of_benefit:
                return replace(
                    summarize(prepared.scan.data, prepared.scan.fitted(), model, settings.curve),
                    distances=_distances(prepared, model, scanner, steps, cache),
                )
            prepared = bias_estimated_again(prepared, model, rounds, settings=settings, cache=cache)
        return summarize(prepared.scan.data, prepared.scan.fitted(), model, settings.curve)


def _distances(
    prepared: Prepared, target: Target, scanner: ScannerModel, steps: Method, cache: Path | None
) -> tuple[float, float] | None:
    """How far a scan is from the target's own before and after it is harmonized with the curve of its scanner."""
    settings = steps.settings
    corrected, curve = steps.in_target_contrast(prepared, target, scanner, cache=cache)
    result = steps.estimated(corrected, target, curve, cache=cache)
    images = ((prepared.scan.data, prepared.scan.fitted()), (result.image, corrected.scan.fitted()))
    before, after = (
        compare(x, inside, target, device=settings.device, settings=settings.checks, cache=cache).distance
        for x, inside in images
    )
    # Rounded: the last digits of a log-density depend on the number of threads, and a scanner's hash must not.
    return None if before is None or after is None else (round(before, 3), round(after, 3))


def learn_scanner(
    scans: Sequence[Source],
    target: str | PathLike[str] | Target = "ds002748",
    settings: HarmonizeSettings | None = None,
    *,
    masks: Sequence[Source | None] | None = None,
    lesion_masks: Sequence[Source | None] | None = None,
    cache: str | PathLike[str] | None = None,
    fewest: int = 1,
    on_error: Callable[[int, BlindHarmonyError], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> ScannerModel:
    """The model of the scanner that made all these scans, to be given to :func:`harmonize`.

    All scans are looked at in rounds (:class:`~blindharmony.harmonization.curve.ScannerRounds`): first as they are,
    then, if the target's are N4's, with their bias fields estimated again in the contrast of the model so far, and
    last at what harmonizing does to them: if it takes them, all together, away from the target, :func:`harmonize`
    returns them as they were.

    Args:
        scans: Files, nibabel images or arrays.
        target: A model, its file, or the name of an included one.
        settings: Every choice and number; the defaults if not given.
        masks: A brain mask, or None, for each scan.
        lesion_masks: The same of lesions, which are no part of the fit.
        cache: Folder in which preparation is kept from look to look, and for ``harmonize``.
        fewest: Scans that must be left after the first look.
        on_error: Called with the index of a scan and what went wrong with it; the scan is then left out of this look.
            Without it any error ends the work. Errors that are not about the one scan always do: wrong use, a target
            that cannot be read, a full disk, memory that does not suffice.
        progress: Called with the number of the look (from 1) and the index of the scan that is next.
        **changes: Of ``settings``, as for :func:`harmonize`.

    Raises:
        UsageError: If there is no scan, or another number of masks.
        TooFewScansError: If fewer than ``fewest`` scans can be used.
        BlindHarmonyError: If a scan cannot be prepared and there is no ``on_error``.

    Example:
        >>> scanner = learn_scanner(["a.nii.gz", "b.nii.gz"])                     # doctest: +SKIP
        >>> harmonize("a.nii.gz", scanner=scanner).save("out")                    # doctest: +SKIP
    """
    if not scans:
        raise UsageError("no scan was given", remedy="give the scans of one scanner")
    mask_of, lesions_of = ([None] * len(scans) if listed is None else listed for listed in (masks, lesion_masks))
    for listed in (mask_of, lesions_of):
        if len(listed) != len(scans):
            raise UsageError(f"{len(listed)} masks for {len(scans)} scans", remedy="give one for each, or None instead")
    model, _, settings = chosen(target, settings, None, changes)
    rounds = ScannerRounds(model, settings=settings)
    while rounds.wanted:
        summaries = []
        for index, (scan, mask, lesions) in enumerate(zip(scans, mask_of, lesions_of, strict=True)):
            if progress:
                progress(rounds.number, index)
            try:
                summary = summarize_scan(
                    scan,
                    rounds.target,
                    settings,
                    scanner=rounds.model,
                    mask=mask,
                    lesion_mask=lesions,
                    cache=cache,
                )
            except Exception as error:
                problem = reportable(error)
                if problem.code in EVERY_SCAN | OF_THE_MACHINE:
                    raise problem from error
                if on_error is None:
                    raise
                on_error(index, problem)
            else:
                summaries.append(summary)
        if rounds.number == 1 and len(summaries) < max(1, fewest):
            raise TooFewScansError(
                f"{len(summaries)} of {len(scans)} scans can be used to learn their scanner, not {max(1, fewest)}",
                remedy="harmonize them one by one: each error then says what to do",
            )
        rounds = rounds.after(summaries)
    assert rounds.model is not None
    return rounds.model
