"""The scans of one scanner, fitted together before each is harmonized."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, OutputError, UsageError

if TYPE_CHECKING:
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.target import Target


def add_options(p: argparse.ArgumentParser) -> None:
    """Options about scans that share a scanner."""
    p.add_argument(
        "--group",
        action="store_true",
        help="the scans share one scanner and sequence: fit one curve to all (much better than one by one)",
    )
    p.add_argument("--save-scanner", type=Path, metavar="FILE", help="keep the fitted scanner for later scans (.json)")
    p.add_argument("--scanner", type=Path, metavar="FILE", help="use a scanner fitted before: scan by scan later on")


def check(arguments: argparse.Namespace) -> None:
    """Refuse combinations that make no sense, before any work.

    Raises:
        UsageError: If options contradict each other.
        OutputError: If the scanner file exists already.
    """
    if arguments.save_scanner and not arguments.group:
        raise UsageError("--save-scanner needs several scans to fit", remedy="add --group")
    if arguments.scanner and arguments.group:
        raise UsageError("--scanner and --group exclude each other", remedy="use one of them")
    if (arguments.group or arguments.scanner) and arguments.method != "curve":
        raise UsageError(f"the method '{arguments.method}' has no scanner model", remedy="use --method curve")
    if arguments.save_scanner and arguments.save_scanner.exists() and not arguments.overwrite:
        raise OutputError(
            "exists already", remedy="pass --overwrite or choose another name", path=arguments.save_scanner
        )


def fitted_scanner(
    arguments: argparse.Namespace, paths: list[Path], target: Target, cache: Path, screen: Screen
) -> ScannerModel:
    """Look at every scan, then fit one scanner model; a scan that cannot be prepared is left out.

    Raises:
        BlindHarmonyError: If no scan is left.
    """
    from blindharmony.group import in_two_rounds, summarize_scan
    from blindharmony.harmonization.scanner import fit_scanner
    from blindharmony.harmonization.summary import ScanSummary

    def look(rounds: str, known: ScannerModel | None) -> list[ScanSummary]:
        found, problems = [], []
        with screen.progress("looking at the group") as stage:
            for index, path in enumerate(paths):
                stage(f"{rounds} look at {path.name}", index / len(paths))
                try:
                    found.append(
                        summarize_scan(
                            path,
                            target,
                            scanner=known,
                            mask=arguments.mask,
                            mask_command=arguments.mask_command,
                            device=arguments.device,
                            cache=cache,
                        )
                    )
                except UsageError:
                    raise
                except BlindHarmonyError as error:
                    problems.append(error)  # it will be reported when its turn comes to be harmonized
        if not found:
            raise problems[0]
        return found

    found = look("first", None)
    scanner = fit_scanner(found, target)
    if target.info.recipe.n4:
        scanner = in_two_rounds(scanner, look("second", scanner), target)
    screen.note(f"fitted one scanner to {len(found)} scans")
    if len(found) == 1:
        screen.problem("blindharmony: warning: a group of one scan is no better than the scan alone")
    if arguments.save_scanner:
        scanner.save(arguments.save_scanner, overwrite=arguments.overwrite)
        screen.result(str(arguments.save_scanner))
    return scanner
