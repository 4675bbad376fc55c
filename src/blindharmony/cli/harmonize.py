"""``blindharmony harmonize``: scans in, harmonized scans with sidecar and report out.

:func:`run` takes one scan after the other; one that fails does not stop the others, and :class:`Outcomes` says how each
ended, in words for people or as one JSON object a line for machines. DICOM among the inputs is converted first, and the
NIfTI kept beside the results (:func:`with_dicom_converted`). Scans of one scanner are looked at together before each is
harmonized (:func:`groups_of`, :func:`learnt_scanners`); meanwhile they lie prepared in a folder of the output, which
goes with the run (:func:`prepared_scans`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_settings, add_shared, masks_named, scans_named, settings_of
from blindharmony.cli.verify import by_sidecar
from blindharmony.errors import (
    BlindHarmonyError,
    InputError,
    InternalError,
    NothingFoundError,
    OutputError,
    ScannerError,
    TooFewScansError,
    UsageError,
    reportable,
)
from blindharmony.files import check_outputs, locked, output_name, result_names, slug, write_bytes
from blindharmony.io.bids import list_scans
from blindharmony.io.dicom import choose, convert, is_dicom
from blindharmony.io.tables import scanner_table, unmatched
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.ledger import kept_gb, largest

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.models.target import Target
    from blindharmony.result import HarmonizeResult


_EPILOG = """\
Each scan comes back in its own space, with its own header, float32, in the target scanner's intensity units:
  sub-01_T1w.nii.gz  ->  sub-01_desc-harmonized_T1w.nii.gz, .json (how it was made), .html (the report)
                         sub-01_desc-brain_mask.nii.gz    (the brain that was found)
  scan.nii.gz        ->  scan_desc-harmonized.nii.gz, ...

The brain mask is the one given, or the scan's own if the skull is already removed, or found by a network inside
the package. Outside the brain the same intensity curve is applied; where a scan is zero it stays zero.

A DICOM file or a folder with DICOM (and no other image) is converted with dcm2niix, if that is installed
('pip install blindharmony[dicom]'). The NIfTI file and its JSON are kept in DIR/converted, without patient name and
dates; your files are left alone. Of several series, MR volumes count; those made from others (phase, projections,
reformatted) and those not called T1 or MPRAGE are passed over if others are left. If several remain, they are listed.

examples:
  blindharmony harmonize sub-01_T1w.nii.gz --out out
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
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    add_shared(p, "--target", "--mask", "--mask-dir")
    add_settings(p, HarmonizeSettings.choices())
    p.add_argument(
        "--group",
        action="store_true",
        help="the scans share one scanner and sequence: fit one curve to all, which keeps differences between people",
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
    p.add_argument("--json", action="store_true", help="for machines: one JSON object a scan, a line each")
    p.add_argument("--overwrite", action="store_true", help="replace existing results")
    add_shared(p, "--verbose", "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Harmonize every scan; one that fails does not stop the others."""
    settings = settings_of(arguments, HarmonizeSettings)
    _check_options(arguments, settings.method)
    if left := sweep_prepared(arguments.out):
        screen.problem(f"blindharmony: warning: prepared scans that a killed run had left in {left} are removed")
    scans, unconverted = with_dicom_converted(arguments, screen)
    paths, without_scans = scans_named(scans, arguments.participant_label, arguments.suffix, screen)
    missing = [*unconverted, *without_scans]
    names = Counter(name for path in paths for name in result_names(path).values())
    if twice := [name for name, count in names.items() if count > 1]:
        raise UsageError(
            f"several scans would be written as {twice[0]}", remedy="harmonize them into different folders"
        )
    masks = masks_named(arguments.mask, arguments.mask_dir, paths, command=settings.mask_command)
    results = [place for path in paths for place in _results_of(arguments, path)]
    scanner = [arguments.save_scanner] if arguments.save_scanner and arguments.group else []
    check_outputs([*results, *scanner], [*_inputs(arguments), *paths, *masks.values()])
    # Only now the slow imports: a typing error should answer at once.
    from blindharmony.api import harmonize
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.models.file import load_target

    target = load_target(arguments.target)
    outcomes = Outcomes(screen, json=arguments.json)
    for problem in missing:
        outcomes.fail(problem)
    groups = groups_of(arguments, paths, screen)
    if groups:
        # A group takes a minute a scan before its first result would be refused.
        for path in paths:
            _refuse_existing(arguments, _results_of(arguments, path), path, masks.get(path))
    elif arguments.scanner:
        ScannerModel.load(arguments.scanner, target)
    with prepared_scans(arguments.out, paths) if groups else nullcontext() as cache:
        scanners = learnt_scanners(arguments, settings, groups, masks, target, cache, screen)
        for index, path in enumerate(paths):
            name = path.name if len(paths) == 1 else f"{path.name} ({index + 1} of {len(paths)})"
            screen.note(f"{name}: harmonizing to {target.info.name}")
            try:
                _refuse_existing(arguments, _results_of(arguments, path), path, masks.get(path))
                if damage := _damage(_results_of(arguments, path)):
                    screen.problem(f"{path.name}: warning: its earlier result was damaged and is made again: {damage}")
                with screen.progress(name) as stage:
                    result = harmonize(
                        path,
                        target,
                        settings,
                        mask=masks.get(path),
                        scanner=scanners.get(path, arguments.scanner),
                        cache=cache,
                        progress=stage,
                    )
                    stage("writing", 0.5)
                    files = result.save(
                        arguments.out,
                        report=not arguments.no_report,
                        viewer=arguments.viewer,
                        uncertainty=arguments.uncertainty,
                        overwrite=arguments.overwrite,
                    )
            except UsageError:
                raise
            except Exception as error:
                if arguments.debug and not isinstance(error, BlindHarmonyError):
                    raise
                outcomes.fail(reportable(error, path), path)
            else:
                outcomes.done(path, result, files)
                if arguments.uncertainty and result.estimate.error is None:
                    screen.problem(
                        f"{path.name}: warning: no error bar is written, this method or target does not know it"
                    )
    screen.failures(outcomes.failed, len(paths) + len(missing))
    return outcomes.code


def _check_options(arguments: argparse.Namespace, method: str) -> None:
    """Refuse combinations that make no sense, before any work.

    Raises:
        UsageError: If options contradict each other.
        OutputError: If the scanner file exists already.
    """
    together = bool(arguments.group or arguments.group_table)
    if sum(map(bool, (arguments.group, arguments.group_table, arguments.scanner))) > 1:
        raise UsageError("--group, --group-table and --scanner exclude each other", remedy="use one of them")
    if arguments.save_scanner and not together:
        raise UsageError("--save-scanner needs several scans to fit", remedy="add --group")
    if (together or arguments.scanner) and method != "curve":
        raise UsageError(f"the method '{method}' has no scanner model", remedy="use --method curve")
    if arguments.save_scanner and arguments.group:
        _refuse_existing(arguments, [arguments.save_scanner])


def _inputs(arguments: argparse.Namespace) -> list[str | Path | None]:
    """The files that options name."""
    return [arguments.target, arguments.group_table, arguments.scanner, arguments.mask, arguments.config]


def _results_of(arguments: argparse.Namespace, path: Path) -> list[Path]:
    return [arguments.out / name for name in result_names(path).values()]


def _refuse_existing(arguments: argparse.Namespace, places: list[Path], *inputs: Path | None) -> None:
    """Notice before the work, not after it, that a result exists already or is an input."""
    check_outputs(places, [*_inputs(arguments), *inputs])
    for file in places:
        if file.exists() and not arguments.overwrite:
            # What is damaged is not trusted, and not replaced unasked: it may be what somebody has made of a result.
            damage = _damage(places)
            what = f"exists already, and is no whole result: {damage}" if damage else "exists already"
            raise OutputError(what, remedy="pass --overwrite or choose another folder or name", path=file)


def _damage(places: list[Path]) -> str:
    """What is not as it was written of the result that lies at these places, empty if all is or there is none."""
    if not any(place.exists() for place in places) or "_desc-harmonized" not in places[-1].name:
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
        try:
            inputs.append(_converted(path, made, arguments, screen))
        except BlindHarmonyError as error:
            failed.append(error)
    if not inputs:
        raise failed[0]
    if arguments.series is not None and not made and not failed:
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


def groups_of(arguments: argparse.Namespace, paths: list[Path], screen: Screen) -> dict[str, list[Path]]:
    """Scanner's name → its scans; empty if scans go one by one.

    Raises:
        ScannerError: If the table cannot be read or lacks a column.
        OutputError: If a scanner's file exists already.
    """
    if arguments.group:
        return {"": paths}
    if not arguments.group_table:
        return {}
    scanner_of = scanner_table(arguments.group_table)
    members: dict[str, list[Path]] = {}
    for path in paths:
        if name := scanner_of.get(path.name, ""):
            members.setdefault(name, []).append(path)
    for line in unmatched([path.name for path in paths], scanner_of):
        screen.problem(f"blindharmony: warning: {arguments.group_table.name}: {line}")
    if not members:
        raise ScannerError(
            "none of the scans is in this table",
            remedy="give the scans' file names in its column 'scan'",
            path=arguments.group_table,
        )
    files = Counter(slug(name, "scanner") for name in members)
    if arguments.save_scanner and (twice := [name for name in members if files[slug(name, "scanner")] > 1]):
        raise ScannerError(
            f"the scanners {' and '.join(twice[:2])} would be written to one file",
            remedy="give them names that differ in letters or digits",
            path=arguments.group_table,
        )
    if arguments.save_scanner:
        _refuse_existing(arguments, [_scanner_file(arguments, name) for name in members], *paths)
    return members


def _scanner_file(arguments: argparse.Namespace, name: str) -> Path:
    """Where a fitted scanner is kept: the file that was named, or one of a table's in the folder that was named."""
    kept: Path = arguments.save_scanner
    return kept / f"{slug(name, 'scanner')}.json" if name else kept


def learnt_scanners(
    arguments: argparse.Namespace,
    settings: HarmonizeSettings,
    groups: dict[str, list[Path]],
    masks: dict[Path, Path],
    target: Target,
    cache: Path | None,
    screen: Screen,
) -> dict[Path, ScannerModel]:
    """Scan → the model of its scanner, learnt from all scans of its group.

    A scan that cannot be prepared is left out here and reported when its turn comes to be harmonized.
    """
    from blindharmony.api import learn_scanner

    scanner_of: dict[Path, ScannerModel] = {}
    for name, members in groups.items():
        called = f"scanner {name}" if name else "one scanner"

        def leave_out(index: int, error: BlindHarmonyError) -> None:
            if arguments.debug:
                raise error

        with screen.progress("looking at the group") as stage:

            def looking(look: int, index: int, members: Sequence[Path] = members) -> None:
                stage(f"look {look} at {members[index].name}", index / len(members))

            try:
                scanner = learn_scanner(
                    members,
                    target,
                    settings,
                    masks=[masks.get(path) for path in members],
                    cache=cache,
                    on_error=leave_out,
                    progress=looking,
                )
            except TooFewScansError:
                continue
        screen.note(f"fitted {called} to {scanner.scans} scans")
        if scanner.scans == 1:
            screen.problem(f"blindharmony: warning: {called} has one scan, which is no better than the scan alone")
        if arguments.save_scanner:
            file = _scanner_file(arguments, name)
            scanner.save(file, overwrite=arguments.overwrite)
            (screen.note if arguments.json else screen.result)(str(file))
        scanner_of |= dict.fromkeys(members, scanner)
    return scanner_of


# About 300 scans of 1 mm; a larger group is prepared again for each look, as with 'bids --scratch-gb'.
_MOST_GB = 50
_PREPARED = ".prepared"


@contextmanager
def prepared_scans(out: Path, paths: list[Path]) -> Iterator[Path | None]:
    """A folder for prepared scans, so that each is prepared once; None if they would take too much of the disk.

    A lock in it tells the next command that somebody works with it, see :func:`sweep_prepared`.
    """
    if kept_gb(largest(paths)) * len(paths) > _MOST_GB:
        yield None
        return
    cache = out / _PREPARED / f"run-{secrets.token_hex(6)}"
    try:
        with locked(cache / "lock", optional=True):
            yield cache
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        with suppress(OSError):  # another run's is still there
            cache.parent.rmdir()


def sweep_prepared(out: Path) -> Path | None:
    """Remove prepared scans that killed runs have left: they are brains of patients.

    Returns:
        The folder they were in, None if nobody has left any. What a running command works with stays.
    """
    folder, swept = out / _PREPARED, False
    for place in sorted(folder.glob("*")):
        if place.name.startswith("run-"):
            # Only the system knows whether the run is alive; without a lock it has only begun.
            if not (place / "lock").exists():
                continue
            try:
                with locked(place / "lock"):
                    shutil.rmtree(place, ignore_errors=True)
            except OutputError:
                continue
        elif place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
        swept = True
    with suppress(OSError):
        folder.rmdir()
    return folder if swept else None


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

    def done(self, path: Path, result: HarmonizeResult, files: Sequence[Path]) -> None:
        """A scan is harmonized and written."""
        seconds = sum(result.seconds.values())
        if self.json:
            self._line(
                scan=path,
                status="done",
                result=files[0],
                files=files,
                verdict=result.verdict.level,
                headline=result.verdict.headline,
                warnings=result.warnings,
                figures=result.figures,
                seconds=round(seconds, 1),
            )
            return
        self.screen.result(str(files[0]))
        self.screen.note(f"{path.name}: {result.verdict.headline} ({seconds:.0f} s)")
        for warning in result.warnings:
            self.screen.problem(f"{path.name}: warning: {warning}")
        for what, ending in (("viewer", ".viewer.html"), ("report", ".html")):
            if file := next((f for f in files if f.name.endswith(ending)), None):
                if what == "report" and file.name.endswith(".viewer.html"):
                    continue
                self.screen.note(f"{path.name}: {what} in {file}")

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
