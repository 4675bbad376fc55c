"""``blindharmony harmonize``: scans in, harmonized scans with sidecar and report out.

:func:`run` takes one scan after the other, or several at once (:class:`HarmonizeFile`); one that fails does not stop
the others, and :class:`Outcomes` says how each ended, in words for people or as one JSON object a line for machines.
What an earlier run has done in the same way is not done again (:func:`earlier`). DICOM among the inputs is converted
first, and the NIfTI kept beside the results (:func:`with_dicom_converted`). Scans of one scanner are looked at together
before each is harmonized (:mod:`blindharmony.cli.groups`).
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.bids import processes
from blindharmony.cli.console import Pace, Screen, counted
from blindharmony.cli.groups import (
    Group,
    groups_of,
    is_scanner,
    keep_scanner,
    learnt_scanners,
    prepared_scans,
    scanner_file,
    sweep_prepared,
)
from blindharmony.cli.one_scan import Extra, HarmonizedFile, HarmonizeFile, Outcomes, earlier, scanner_in
from blindharmony.cli.options import (
    add_settings,
    add_shared,
    count,
    for_workers,
    lesions_named,
    masks_named,
    scans_named,
    settings_of,
)
from blindharmony.cli.verify import by_sidecar
from blindharmony.errors import (
    BlindHarmonyError,
    InputError,
    NothingFoundError,
    OutputError,
    UsageError,
    reportable,
)
from blindharmony.files import (
    WRITABLE,
    check_outputs,
    output_name,
    result_names,
    sweep_lent,
    write_bytes,
)
from blindharmony.io.bids import list_scans
from blindharmony.io.dicom import choose, convert, is_dicom
from blindharmony.jobs.engine import Task
from blindharmony.jobs.processes import THREADS, ProcessEngine, cores, give_memory_back, threads_asked
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.ledger import largest, memory_gb

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.models.target import Target


_EPILOG = """\
Each scan comes back in its own space, with its own header, float32, in the target scanner's intensity units:
  sub-01_T1w.nii.gz  ->  sub-01_desc-harmonized_T1w.nii.gz, .json (how it was made), .html (the report)
                         sub-01_desc-brain_mask.nii.gz    (the brain that was found)
  scan.nii.gz        ->  scan_desc-harmonized.nii.gz, ...

Run the same command again after any interruption: what is done is not done again, --overwrite does it again.

The brain mask is the one given, or the scan's own if the skull is already removed, or found by a network inside
the package. Outside the brain the same intensity curve is applied; where a scan is zero it stays zero.

A DICOM file or a folder with DICOM (and no other image) is converted with dcm2niix, if that is installed
('pip install blindharmony[dicom]'). The NIfTI file and its JSON are kept in DIR/converted, without patient name and
dates; your files are left alone. Of several series, MR volumes count; those made from others (phase, projections,
reformatted) and those not called T1 or MPRAGE are passed over if others are left. If several remain, they are listed.

examples:
  blindharmony harmonize sub-01_T1w.nii.gz --out out
  blindharmony harmonize sub-01_T1w.nii.gz -o sub-01_as-mysite.nii.gz
  blindharmony harmonize study/ --out out --n-procs 4
  blindharmony harmonize scan.mgz --mask brain.mgz --target mysite.safetensors --out out
  blindharmony harmonize study/ --participant-label 01 02 --out out
  blindharmony harmonize siteA/ --group --save-scanner siteA.json --out out
  blindharmony harmonize new.nii.gz --scanner siteA.json --out out
  blindharmony harmonize dicom/ --series 5 --out out
  blindharmony harmonize study/ --group-table scanners.tsv --out out
  blindharmony harmonize scan.nii.gz --mask-command "hd-bet -i {input} -o {output}" --out out
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "harmonize",
        help="harmonize scans to a target scanner",
        description="Harmonize scans of any scanner to a target scanner.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scans", nargs="+", metavar="SCAN", help="file (.nii, .nii.gz, .mgz), folder, BIDS study, DICOM")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    p.add_argument("-o", dest="file", type=Path, metavar="FILE", help="one scan: its result, .nii.gz, .nii or .mgz")
    add_shared(p, "--target", "--mask", "--mask-dir", "--lesion-mask", "--lesion-dir")
    add_settings(p, HarmonizeSettings.choices())
    p.add_argument(
        "--group",
        action="store_true",
        help="the scans share one scanner and sequence: fit one curve to all, better known than that of one scan",
    )
    p.add_argument(
        "--group-table",
        type=Path,
        metavar="TSV",
        help="several scanners: a table with columns 'scan' (file name) and 'scanner'; other scans go one by one",
    )
    p.add_argument(
        "--save-scanner",
        type=Path,
        metavar="FILE",
        help="keep the fitted scanner for later scans (.json); with --group-table a folder",
    )
    p.add_argument("--scanner", type=Path, metavar="FILE", help="use a scanner fitted before: scan by scan later on")
    p.add_argument("--series", type=int, metavar="NUMBER", help="which series of a DICOM folder, if several fit")
    add_shared(p, "--participant-label", "--suffix", "--uncertainty")
    p.add_argument("--no-report", action="store_true", help="write no HTML report")
    add_shared(p, "--viewer")
    p.add_argument("--n-procs", type=count, default=1, metavar="N", help="scans at a time (default: %(default)s)")
    p.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    p.add_argument("--json", action="store_true", help="for machines: one JSON object a scan, a line each")
    p.add_argument("--overwrite", action="store_true", help="do again what is done, and replace it")
    add_shared(p, "--verbose", "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Harmonize every scan; one that fails does not stop the others."""
    settings = settings_of(arguments, HarmonizeSettings)
    _check_options(arguments, settings.method)
    if not arguments.dry_run and (left := sweep_prepared(arguments.out)):
        screen.problem(f"blindharmony: warning: prepared scans that a killed run had left in {left} are removed")
    if not arguments.dry_run and (swept := sweep_lent(arguments.out)):
        had = f"{counted(swept, 'unfinished result')} that a killed run had left in {arguments.out}"
        screen.problem(f"blindharmony: warning: {had} removed")
    scans, unconverted = with_dicom_converted(arguments, screen)
    if arguments.dry_run and not scans:
        return 0
    paths, without_scans = scans_named(scans, arguments.participant_label, arguments.suffix, screen)
    missing = [*unconverted, *without_scans]
    if arguments.file and len(paths) > 1:
        raise UsageError(f"-o names one file, and there are {len(paths)} scans", remedy="use --out DIR")
    names = Counter(name for path in paths for name in result_names(path).values())
    if twice := [name for name, number in names.items() if number > 1]:
        raise UsageError(
            f"several scans would be written as {twice[0]}", remedy="harmonize them into different folders"
        )
    masks = masks_named(arguments.mask, arguments.mask_dir, paths, command=settings.mask_command)
    lesions = lesions_named(arguments.lesion_mask, arguments.lesion_dir, paths)
    results = [place for path in paths for place in _results_of(arguments, path)]
    scanner = [arguments.save_scanner] if arguments.save_scanner and arguments.group else []
    check_outputs([*results, *scanner], [*_inputs(arguments), *paths, *masks.values(), *lesions.values()])
    # Only now the slow imports: a typing error should answer at once.
    from blindharmony.api import chosen

    target, _, settings = chosen(arguments.target, settings, None, {})
    outcomes = Outcomes(screen, json=arguments.json)
    for problem in missing:
        outcomes.fail(problem)
    session = _Session(arguments, settings, target, masks, lesions, screen, outcomes)
    session.harmonize(paths)
    screen.failures(outcomes.failed, len(paths) + len(missing))
    return outcomes.code


# Seconds, about, that each stage takes on one core, so that the time left counts what is to come.
_UNITS = {
    "preparing": 8.0,
    "correcting": 4.0,
    "harmonizing": 12.0,
    "judging": 2.5,
    "returning": 0.5,
    "writing": 3.0,
}


def _units(stage: str | None = None, share: float = 0.0, *, prepared: bool = False) -> float:
    """What is done of a scan's work at this share of a stage; all of it without a stage.

    Args:
        stage: What is being done.
        share: Of the stage, from 0 to 1.
        prepared: Whether the scan lies prepared, so that its preparation is no work.

    Example:
        >>> _units("correcting", 0.5), _units(), _units(prepared=True)
        (10.0, 30.0, 22.0)
    """
    units = _UNITS | ({"preparing": 0.0} if prepared else {})
    stages = list(units)
    before = sum(units[name] for name in (stages[: stages.index(stage)] if stage in units else stages))
    return before + (share * units[stage] if stage in units else 0.0)


def _is_prepared(work: HarmonizeFile) -> bool:
    """Whether a fit of this run has looked at the scan before."""
    return work.cache is not None and work.scanner is not None


@dataclass(frozen=True)
class _Session:
    """One call of the command: what its scans have in common."""

    arguments: argparse.Namespace
    settings: HarmonizeSettings
    target: Target
    masks: dict[Path, Path]
    lesions: dict[Path, Path]
    screen: Screen
    outcomes: Outcomes

    def harmonize(self, paths: list[Path]) -> None:
        """Fit the scanners, if there are any, then harmonize scan by scan what is not done yet."""
        from blindharmony.harmonization.scanner import ScannerModel

        arguments, screen = self.arguments, self.screen
        named = groups_of(arguments, paths, screen)
        scanner = ScannerModel.load(arguments.scanner, self.target) if arguments.scanner else None
        done: dict[Path, ScannerModel] = {}
        if named:
            # A group takes a minute a scan before its first result would be refused.
            for path in paths:
                with suppress(OSError):  # a scan that is not there any more is said when it is looked at
                    self.refuse_existing(path, scanner=...)
            before = {name: self.fitted_before(name, scans) for name, scans in named.items()}
            done = {path: model for name, model in before.items() if model for path in named[name]}
            named = {name: scans for name, scans in named.items() if not before[name]}
        if arguments.dry_run:
            for path in paths:
                self.tell_plan(path, done.get(path, scanner), named)
            return
        workers = self.workers(paths) if arguments.n_procs > 1 and len(paths) > 1 else None
        with (
            closing(workers) if workers else nullcontext(),
            prepared_scans(arguments.out, paths) if named else nullcontext() as cache,
        ):
            shared = (self.masks, self.lesions, self.target, self.settings, cache)
            groups = [Group(name, scans, *shared) for name, scans in named.items()]
            pace = Pace(sum(group.units for group in groups) + len(paths) * _units(), workers.size if workers else 1)
            scanners = learnt_scanners(arguments, groups, screen, pace, workers)
            if cache is not None:  # they lie prepared
                pace.units -= _UNITS["preparing"] * sum(path in scanners for path in paths)
            tasks = list(self.tasks(paths, done | scanners, scanner, cache, pace))
            (self.by_workers(workers, tasks, pace) if workers else self.one_by_one(tasks, pace))

    def tasks(
        self,
        paths: list[Path],
        scanners: Mapping[Path, ScannerModel],
        scanner: ScannerModel | None,
        cache: Path | None,
        pace: Pace,
    ) -> Iterator[Task]:
        """The scans that are to be harmonized; those that are done, or cannot be written, are said here."""
        arguments = self.arguments
        also: dict[Extra, bool] = {
            "report": not arguments.no_report,
            "viewer": arguments.viewer,
            "uncertainty": arguments.uncertainty,
        }
        for path in paths:
            model = scanners.get(path, scanner)
            try:
                files = self.refuse_existing(path, scanner=model)
            except (OutputError, OSError) as error:  # OSError: the scan of an earlier result cannot be read any more
                self.outcomes.fail(reportable(error, path), path)
                files = []
            if files is not None:
                pace.units -= _units(prepared=cache is not None and model is not None)
                if files:
                    self.outcomes.kept(path, files)
                continue
            work = HarmonizeFile(
                scan=path,
                out=arguments.out,
                name=arguments.file and arguments.file.name,
                target=for_workers(arguments.target),
                settings=self.settings,
                mask=self.masks.get(path),
                lesions=self.lesions.get(path),
                scanner=model.content if model else None,
                cache=cache,
                also=tuple(name for name, wanted in also.items() if wanted),
                overwrite=arguments.overwrite,
            )
            yield Task(str(path), work)

    def one_by_one(self, tasks: list[Task], pace: Pace) -> None:
        """Harmonize in this process."""
        for number, task in enumerate(tasks, 1):
            path, work = Path(task.name), task.work
            assert isinstance(work, HarmonizeFile)
            prepared = _is_prepared(work)
            name = path.name if len(tasks) == 1 else f"{path.name} ({number} of {len(tasks)})"
            self.screen.note(f"{name}: harmonizing to {self.target.info.name}")
            if damage := _damage(_results_of(self.arguments, path)):
                self.screen.problem(f"{path.name}: warning: its earlier result was damaged and is made again: {damage}")
            try:
                with self.screen.progress(name, left=False) as stage:

                    def say(word: str, share: float, stage: Any = stage, prepared: bool = prepared) -> None:
                        begun = _units(word, share, prepared=prepared)
                        stage(word, pace.share(begun), left=pace.left(begun))

                    answer = work.done_with(self.target, say)
            except UsageError:
                raise
            except Exception as error:
                if self.arguments.debug and not isinstance(error, BlindHarmonyError):
                    raise
                self.outcomes.fail(reportable(error, path), path)
            else:
                self.outcomes.done(path, answer, uncertainty=self.arguments.uncertainty)
            pace.done += _units(prepared=prepared)
            give_memory_back()

    def by_workers(self, workers: ProcessEngine, tasks: list[Task], pace: Pace) -> None:
        """Harmonize in several processes; results are said as they come."""
        for task in tasks:
            workers.submit(task)
        with self.screen.progress("", left=False) as stage:
            begun: dict[str, float] = {}
            ended = 0

            def show() -> None:
                more = sum(begun.values())
                stage(f"harmonizing, {ended} of {len(tasks)} scans", pace.share(more), left=pace.left(more))

            def hear(task: Task, word: str, share: float) -> None:
                assert isinstance(task.work, HarmonizeFile)
                begun[task.name] = _units(word, share, prepared=_is_prepared(task.work))
                show()

            show()
            for outcome in workers.finished(hear):
                path = Path(outcome.task.name)
                ended += 1
                begun.pop(outcome.task.name, None)
                assert isinstance(outcome.task.work, HarmonizeFile)
                pace.done += _units(prepared=_is_prepared(outcome.task.work))
                if outcome.failure:
                    error = outcome.failure.error(path)
                    if isinstance(error, UsageError):
                        raise error
                    self.outcomes.fail(error, path)
                else:
                    assert isinstance(outcome.answer, HarmonizedFile)
                    self.outcomes.done(path, outcome.answer, uncertainty=self.arguments.uncertainty)
                show()

    def workers(self, paths: list[Path]) -> ProcessEngine:
        """Processes, as many as were asked for and have work."""
        number = processes(self.arguments.n_procs, None, cores(), 0.0, len(paths), memory_gb(largest(paths)))
        threads = threads_asked() or max(1, cores() // number)
        self.screen.note(f"harmonizing in {counted(number, 'process')} with {counted(threads, 'thread')} each")
        return ProcessEngine([dict.fromkeys(THREADS, str(threads))] * number)

    def refuse_existing(self, path: Path, *, scanner: Any) -> list[Path] | None:
        """The files of a result that is there and was made in the same way; None if there is none, or it is replaced.

        Raises:
            OutputError: If there is another one, or it is an input.
        """
        arguments, places = self.arguments, _results_of(self.arguments, path)
        mask, lesions = self.masks.get(path), self.lesions.get(path)
        check_outputs(places, [*_inputs(arguments), path, mask, lesions])
        if arguments.overwrite or not any(place.exists() for place in places):
            return None
        if damage := _damage(places):
            # Not trusted, and not replaced unasked: it may be what somebody has made of a result.
            what = f"exists already, and is no whole result: {damage}"
        else:
            wanted = {"report": not arguments.no_report, "viewer": arguments.viewer, "error": arguments.uncertainty}
            difference, files = earlier(
                places,
                path,
                mask,
                lesions,
                self.target,
                self.settings,
                scanner,
                [n for n, is_wanted in wanted.items() if is_wanted],
            )
            if not difference:
                return files
            what = f"exists already, {difference}"
        first = next(place for place in places if place.exists())
        raise OutputError(what, remedy="pass --overwrite or choose another folder or name", path=first)

    def fitted_before(self, name: str, scans: list[Path]) -> ScannerModel | None:
        """The scanner that all scans of a group were harmonized with, if it was fitted to as many; None else.

        Raises:
            OutputError: If the scanner's file exists and has another model.
        """
        arguments = self.arguments
        models = [scanner_in(_results_of(arguments, path)[-1]) for path in scans]
        known = {model.digest: model for model in models if model}
        model = next(iter(known.values())) if len(known) == 1 and not arguments.overwrite else None
        file = scanner_file(arguments, name) if arguments.save_scanner else None
        if file and file.exists() and not arguments.overwrite and not (model and is_scanner(file, model)):
            raise OutputError("exists already", remedy="pass --overwrite or choose another name", path=file)
        if model is None or None in models or model.scans != len(scans):
            return None
        if file and not arguments.dry_run:
            keep_scanner(arguments, name, model, self.screen)
        return model

    def tell_plan(self, path: Path, scanner: ScannerModel | None, groups: Mapping[str, list[Path]]) -> None:
        """One line: what would become of a scan."""
        group = next((name or "one scanner" for name, scans in groups.items() if path in scans), "")
        try:
            done = self.refuse_existing(path, scanner=... if group else scanner)
        except (OutputError, OSError) as error:
            self.outcomes.fail(reportable(error, path), path)
            return
        what = "harmonize" if done is None else "skip if the scanner is the same" if group else "done before, skip"
        self.outcomes.planned(path, _results_of(self.arguments, path)[0], what, group)


def _check_options(arguments: argparse.Namespace, method: str) -> None:
    """Refuse combinations that make no sense, before any work; ``--out`` becomes the folder of ``-o``.

    Raises:
        UsageError: If options contradict each other.
    """
    out, file = arguments.out, arguments.file
    if (out is None) == (file is None):
        words = "--out and -o exclude each other" if out else "nothing says where the results go"
        raise UsageError(words, remedy="give --out DIR, or -o FILE for one scan")
    if out and out.name.lower().endswith(WRITABLE) and not out.is_dir():
        raise UsageError(f"--out {out} is a folder's name", remedy=f"use -o {out} for one scan")
    if file:
        if not file.name.lower().endswith(WRITABLE) or file.is_dir():
            remedy = "end it in .nii.gz, .nii or .mgz, or use --out DIR"
            raise UsageError(f"-o {file} is no name of a scan", remedy=remedy)
        arguments.out = file.parent
    together = bool(arguments.group or arguments.group_table)
    if sum(map(bool, (arguments.group, arguments.group_table, arguments.scanner))) > 1:
        raise UsageError("--group, --group-table and --scanner exclude each other", remedy="use one of them")
    if arguments.save_scanner and not together:
        raise UsageError("--save-scanner needs several scans to fit", remedy="add --group")
    if (together or arguments.scanner) and method != "curve":
        raise UsageError(f"the method '{method}' has no scanner model", remedy="use --method curve")


def _inputs(arguments: argparse.Namespace) -> list[str | Path | None]:
    """The files that options name."""
    masks = (arguments.mask, arguments.lesion_mask)
    return [arguments.target, arguments.group_table, arguments.scanner, *masks, arguments.config]


def _results_of(arguments: argparse.Namespace, path: Path) -> list[Path]:
    named = arguments.file.name if arguments.file else None
    return [arguments.out / name for name in result_names(path, named).values()]


def _damage(places: list[Path]) -> str:
    """What is not as it was written of the result that lies at these places, empty if all is or there is none."""
    if not any(place.exists() for place in places):
        return ""
    result = by_sidecar(places[-1], places[0].name)
    return ", ".join(f"{file} {what}" for file, what in result.problems.items())


# Below --out.
FOLDER = "converted"
_LEVEL = 6  # of gzip


def with_dicom_converted(
    arguments: argparse.Namespace, screen: Screen
) -> tuple[list[str | Path], list[BlindHarmonyError]]:
    """The inputs with NIfTI files in the place of DICOM, and DICOM inputs that could not be converted.

    Raises:
        BlindHarmonyError: If no input is left.
    """
    inputs: list[str | Path] = []
    failed: list[BlindHarmonyError] = []
    made: dict[Path, Path] = {}
    for item in arguments.scans:
        path = Path(item)
        if not _only_dicom(path):
            inputs.append(item)
            continue
        if arguments.dry_run:
            screen.note(f"{path}: DICOM, which would be converted into {arguments.out / FOLDER} and then harmonized")
            continue
        try:
            inputs.append(_converted(path, made, arguments, screen))
        except BlindHarmonyError as error:
            failed.append(error)
    if not inputs and failed:
        raise failed[0]
    if arguments.series is not None and not made and not failed and not arguments.dry_run:
        raise UsageError("--series is for DICOM, and no DICOM was given", remedy="leave it out")
    return inputs, failed


def _only_dicom(path: Path) -> bool:
    """Whether this is a DICOM file, or a folder with DICOM and no scan that can be read as it is."""
    try:
        if not path.is_dir():
            return path.is_file() and is_dicom(path)
        list_scans([path])
    except NothingFoundError:
        return is_dicom(path)
    except OSError:
        pass  # what cannot be read is named as every other scan is
    return False


def _converted(path: Path, made: dict[Path, Path], arguments: argparse.Namespace, screen: Screen) -> Path:
    out: Path = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dicom-", dir=out) as folder:
            chosen = choose(convert(path, Path(folder)), path, arguments.series)
            whole = path.resolve() if path.is_dir() else path.resolve().parent
            # As a result's name it is safe in every folder; a result is called after it.
            stem = output_name(f"{whole.name}_{chosen.name}.nii", "x", suffix_ext="").removesuffix("_desc-x")
            kept = out / FOLDER / f"{stem}.nii.gz"
            if kept in made:
                raise InputError(
                    f"its scan would be called {kept.name}, as that of {made[kept]}",
                    remedy="give the folders other names, or harmonize them into different --out",
                    path=path,
                )
            check_outputs([kept, kept.with_name(f"{stem}.json")], [*_inputs(arguments), *arguments.scans])
            image = gzip.compress(chosen.file.read_bytes(), _LEVEL, mtime=0)
            if not (kept.is_file() and kept.read_bytes() == image):  # the same series once more is no conflict
                write_bytes(kept, image, overwrite=arguments.overwrite)
            about = chosen.file.with_suffix(".json")
            if about.is_file():
                write_bytes(kept.with_name(f"{stem}.json"), about.read_bytes(), overwrite=True)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", remedy="choose another --out", path=out) from None
    made[kept] = path
    screen.note(f"{path.name}: series {chosen} converted to {kept}")
    return kept
