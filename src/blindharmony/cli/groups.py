"""Scans of one scanner, looked at together before each is harmonized.

:func:`groups_of` says which scans share a scanner, :func:`learnt_scanners` fits the scanners. Between looks the
scans lie prepared in a folder of the output, which goes with the run (:func:`prepared_scans`).
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Pace, Screen, counted
from blindharmony.cli.options import for_workers
from blindharmony.errors import (
    EVERY_SCAN,
    OF_THE_MACHINE,
    BlindHarmonyError,
    InputError,
    OutputError,
    ScannerError,
    TooFewScansError,
)
from blindharmony.files import parse_json, read_text, scan_name, slug
from blindharmony.io.tables import scanner_table, unmatched
from blindharmony.jobs.engine import Answer, Engine, FilePath, Task, Tell, Work
from blindharmony.locks import locked
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.ledger import LOOKS, kept_gb, largest

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.models.target import Target


def groups_of(arguments: argparse.Namespace, paths: list[Path], screen: Screen) -> dict[str, list[Path]]:
    """Scanner's name → its scans; empty if scans go one by one.

    Raises:
        ScannerError: If the table cannot be read or lacks a column.
    """
    if arguments.group:
        return {"": paths}
    if not arguments.group_table:
        return {}
    scanner_of = scanner_table(arguments.group_table)
    members: dict[str, list[Path]] = {}
    for path in paths:
        if name := scanner_of.get(scan_name(path), ""):
            members.setdefault(name, []).append(path)
    for line in unmatched([scan_name(path) for path in paths], scanner_of):
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
    return members


def scanner_file(arguments: argparse.Namespace, name: str) -> Path:
    """Where a fitted scanner is kept: the file that was named, or one of a table's in the folder that was named."""
    kept: Path = arguments.save_scanner
    return kept / f"{slug(name, 'scanner')}.json" if name else kept


class LookAtFile(Work):
    """Look at a scan for the fit of its scanner, in another process.

    Attributes:
        scan: The scan.
        target: Model file or included name.
        settings: What the scan is harmonized with.
        scanner: The model so far, as its file has it.
        mask: Given brain mask.
        lesions: Given lesion mask.
        cache: Folder in which the prepared scan is kept.
        summary: Where what it adds to the model is written.
    """

    scan: FilePath
    target: str
    settings: HarmonizeSettings
    scanner: dict[str, Any] | None
    mask: FilePath | None
    lesions: FilePath | None
    cache: FilePath | None
    summary: FilePath

    def do(self, tell: Tell) -> Answer:
        """Look, and keep the summary."""
        from blindharmony.api import summarize_scan
        from blindharmony.harmonization.scanner import ScannerModel
        from blindharmony.models.file import cached_target
        from blindharmony.study.work import keep_summary

        scanner = ScannerModel.parse(self.scanner) if self.scanner else None
        target = cached_target(self.target)
        masks = {"mask": self.mask, "lesion_mask": self.lesions}
        keep_summary(
            self.summary,
            summarize_scan(self.scan, target, self.settings, scanner=scanner, **masks, cache=self.cache),
        )
        return Answer()


@dataclass(frozen=True)
class Group:
    """The scans of one scanner, and what they are looked at with.

    Attributes:
        name: The scanner's; empty for the only one.
        scans: The files.
        masks: Brain masks that were given.
        lesions: Lesion masks that were given.
        target: The target.
        settings: What scans are harmonized with.
        cache: Where prepared scans are kept, if there is room.
    """

    name: str
    scans: list[Path]
    masks: dict[Path, Path]
    lesions: dict[Path, Path]
    target: Target
    settings: HarmonizeSettings
    cache: Path | None

    @property
    def units(self) -> float:
        """What all looks take, in seconds of one core, about."""
        return len(self.scans) * (LOOKS[0] + LOOKS[1] * self.settings.looks_after(self.target.info.recipe.bias))

    def learnt(self, say: Callable[[int, int], None], *, debug: bool = False) -> ScannerModel:
        """The scanner, with looks one after the other; a scan that cannot be prepared is left out.

        Raises:
            TooFewScansError: If none can be used.
        """
        from blindharmony.api import learn_scanner

        def leave_out(index: int, error: BlindHarmonyError) -> None:
            if debug:
                raise error

        return learn_scanner(
            self.scans,
            self.target,
            self.settings,
            masks=[self.masks.get(path) for path in self.scans],
            lesion_masks=[self.lesions.get(path) for path in self.scans],
            cache=self.cache,
            on_error=leave_out,
            progress=say,
        )

    def learnt_by(self, workers: Engine, target: str, say: Callable[[int, int], None]) -> ScannerModel:
        """The same scanner, with looks in other processes.

        Raises:
            TooFewScansError: If no scan can be used.
        """
        from blindharmony.harmonization.curve import ScannerRounds
        from blindharmony.study.work import kept_summary

        rounds = ScannerRounds(self.target, settings=self.settings)
        with tempfile.TemporaryDirectory() as folder:
            while rounds.wanted:
                looks = [
                    LookAtFile(
                        scan=path,
                        target=target,
                        settings=self.settings,
                        scanner=rounds.model.content if rounds.model else None,
                        mask=self.masks.get(path),
                        lesions=self.lesions.get(path),
                        cache=self.cache,
                        summary=Path(folder, f"{rounds.number}-{index}.safetensors"),
                    )
                    for index, path in enumerate(self.scans)
                ]
                looked = 0
                say(rounds.number, looked)
                by_name = {look.summary.name: look for look in looks}
                for name, look in by_name.items():
                    workers.submit(Task(name, look))
                again: set[str] = set()
                for outcome in workers.finished():
                    name, failure = outcome.task.name, outcome.failure
                    if failure and failure.code in EVERY_SCAN:
                        raise failure.error(by_name[name].scan)
                    if failure and outcome.lost and name not in again:
                        # Killed, as by a system that is out of memory: it may succeed the second time.
                        again.add(name)
                        workers.submit(Task(name, by_name[name]))
                        continue
                    if failure and failure.code in OF_THE_MACHINE:
                        raise failure.error(by_name[name].scan)
                    looked += 1
                    say(rounds.number, looked)
                summaries = [kept_summary(look.summary) for look in looks if look.summary.exists()]
                if not (summaries or rounds.model):
                    raise TooFewScansError("no scan of the group can be used", remedy="harmonize them one by one")
                rounds = rounds.after(summaries)
        assert rounds.model is not None
        return rounds.model


def learnt_scanners(
    arguments: argparse.Namespace, groups: list[Group], screen: Screen, pace: Pace, workers: Engine | None = None
) -> dict[Path, ScannerModel]:
    """Scan → the model of its scanner, learnt from all scans of its group.

    A scan that cannot be prepared is left out here and reported when its turn comes to be harmonized.

    Args:
        arguments: The command line.
        groups: The scans.
        screen: Where to say how it goes.
        pace: Of the whole run; looks that are not needed are taken off it.
        workers: Who looks; this process if None.
    """
    scanner_of: dict[Path, ScannerModel] = {}
    for number, group in enumerate(groups, 1):
        called = f"scanner {group.name}" if group.name else "one scanner"
        turn = f"scanner {number} of {len(groups)}, " if len(groups) > 1 else ""
        begun = pace.done
        with screen.progress("", left=False) as stage:

            def say(look: int, done: int, group: Group = group, turn: str = turn, begun: float = begun) -> None:
                units = (LOOKS[0], *[LOOKS[1]] * (look - 1))
                pace.done = begun + len(group.scans) * sum(units[:-1]) + done * units[-1]
                where = f"{done + 1} of {len(group.scans)}" if done < len(group.scans) else "fitting"
                stage(f"{turn}look {look} at the scans, {where}", pace.share(), left=pace.left())

            try:
                if workers is None:
                    scanner = group.learnt(say, debug=arguments.debug)
                else:
                    scanner = group.learnt_by(workers, for_workers(arguments.target), say)
            except TooFewScansError:
                continue
            finally:
                pace.units -= begun + group.units - pace.done
        effect = f"; they {scanner.effect}" if scanner.effect and scanner.scans > 1 else ""
        screen.note(f"fitted {called} to {counted(scanner.scans)}{effect}")
        if scanner.scans == 1:
            screen.problem(f"blindharmony: warning: {called} has one scan, which is no better than the scan alone")
        if arguments.save_scanner:
            keep_scanner(arguments, group.name, scanner, screen)
        scanner_of |= dict.fromkeys(group.scans, scanner)
    return scanner_of


def keep_scanner(arguments: argparse.Namespace, name: str, scanner: ScannerModel, screen: Screen) -> None:
    """Write a fitted scanner; the same one once more is no conflict.

    Raises:
        OutputError: If another one is there.
    """
    file = scanner_file(arguments, name)
    if not (file.is_file() and is_scanner(file, scanner)):
        scanner.save(file, overwrite=arguments.overwrite)
    (screen.note if arguments.json else screen.result)(str(file))


def is_scanner(file: Path, scanner: ScannerModel) -> bool:
    """Whether a file has this scanner model."""
    try:
        return bool(parse_json(read_text(file)) == scanner.content)
    except (InputError, ValueError):
        return False


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
        with locked(cache / "lock"):
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
