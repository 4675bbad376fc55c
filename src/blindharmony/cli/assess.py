"""``blindharmony assess``: how far scans are from the target, and whether harmonization can bring them there."""

from __future__ import annotations

import argparse
import json
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Pace, Screen, Stage
from blindharmony.cli.options import add_settings, add_shared, lesions_named, masks_named, scans_named, settings_of
from blindharmony.errors import BlindHarmonyError, InternalError, UsageError, reportable
from blindharmony.settings import HarmonizeSettings
from blindharmony.version import VERSION

if TYPE_CHECKING:
    from blindharmony.models.target import Target
    from blindharmony.quality.checks import Check
    from blindharmony.quality.typicality import ReferenceScore
    from blindharmony.quality.verdict import Assessment

_EPILOG = """\
Verdicts:
  target-like      nothing about the scan is rare among the target's own scans
  foreign          something is, and nothing after harmonization: what harmonization is for
  not explainable  something still is afterwards (noise, pathology, wrong sequence, ...), or part of the head is
                   missing, the skull is still on, or bright and dark tissue are swapped
They follow from the checks that 'harmonize' makes: what it calls good is never called not explainable here.
Harmonization is tried only where the scan as it came does not decide; --full tries it for every scan.

z is the distance from the mean of the target's own scans in their standard deviations: 0 is the middle, above 0 is
less usual. The quantile is the share of target scans expected below; with few held-out scans it is coarse. Rare means
beyond one target scan in fifty. Nothing is written.

examples:
  blindharmony assess sub-01_T1w.nii.gz
  blindharmony assess study/ --participant-label 01 02 --target mysite.safetensors
  blindharmony assess study/ --json > assessment.json
"""

# Seconds of one core, about, that each stage takes; harmonization is tried where the answer depends on it.
_UNITS = {"preparing": 8.0, "judging": 3.0, "harmonizing": 12.0}
_LEGEND = (
    "numbers: z-scores among the target's own scans (0 is the middle), before -> after harmonization; "
    "worst level: the farthest of the details at four resolutions and the brightness; see 'blindharmony assess --help'"
)


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "assess",
        help="say how far scans are from a target scanner",
        description="Say how far each scan is from the target scanner, and whether harmonization can bring it there.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scans", nargs="+", metavar="SCAN", help="file (.nii, .nii.gz, .mgz), folder, or BIDS study")
    add_shared(p, "--target", "--mask", "--mask-dir", "--lesion-mask", "--lesion-dir")
    p.add_argument("--full", action="store_true", help="try harmonization also where the scan as it came decides")
    add_settings(p, ("mask_command", "refine", "device"))
    add_shared(p, "--participant-label", "--suffix")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output, for machines")
    add_shared(p, "--verbose", "--quiet")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Assess every scan; one that fails does not stop the others."""
    settings = settings_of(arguments, HarmonizeSettings)
    paths, missing = scans_named(arguments.scans, arguments.participant_label, arguments.suffix, screen)
    masks = masks_named(arguments.mask, arguments.mask_dir, paths, command=settings.mask_command)
    lesions = lesions_named(arguments.lesion_mask, arguments.lesion_dir, paths)
    from blindharmony.api import assess
    from blindharmony.models.file import load_target

    target = load_target(arguments.target)
    for problem in missing:
        screen.problem(f"blindharmony: {problem}")
    failed: list[BlindHarmonyError] = list(missing)
    assessments: list[Assessment] = []
    width = max(len(p.name) for p in paths)
    if len(paths) > 1 and not arguments.json:
        screen.result(f"{'scan':<{width}}  {'verdict':<15}  intensities  worst level     in all          mask")
    each = sum(_UNITS.values())
    pace = Pace(each * len(paths))
    for number, path in enumerate(paths, 1):
        name = path.name if len(paths) == 1 else f"{path.name} ({number} of {len(paths)})"
        try:
            with screen.progress(name, left=False) as stage:

                def say(word: str, share: float, stage: Stage = stage) -> None:
                    ended = list(_UNITS)[: list(_UNITS).index(word)]
                    begun = sum(_UNITS[name] for name in ended) + share * _UNITS[word]
                    stage(word, pace.share(begun), left=pace.left(begun))

                result = assess(
                    path,
                    target,
                    settings,
                    mask=masks.get(path),
                    lesion_mask=lesions.get(path),
                    full=arguments.full,
                    progress=say,
                )
        except UsageError:
            raise
        except Exception as error:
            if arguments.debug and not isinstance(error, BlindHarmonyError):
                raise
            failed.append(reportable(error, path))
            screen.problem(f"blindharmony: {failed[-1]}")
            continue
        finally:
            pace.done += each
        assessments.append(result)
        if not arguments.json:
            for line in table(result) if len(paths) == 1 else row(result, width):
                screen.result(line)
            notes = {check.message for check in result.checks if check.note and not check.severity}
            for warning in result.warnings:
                screen.problem(f"{path.name}: {'note' if warning in notes else 'warning'}: {warning}")
    if arguments.json:
        screen.result(json.dumps(document(target, assessments, failed), indent=2, allow_nan=False))
    elif len(paths) > 1:
        screen.note(_LEGEND)
    screen.failures(len(failed), len(paths) + len(missing))
    if any(isinstance(error, InternalError) for error in failed):
        return InternalError.exit_code
    return 1 if failed else 0


def document(target: Target, assessments: list[Assessment], failed: list[BlindHarmonyError]) -> dict[str, Any]:
    """Everything as one JSON object."""
    return {
        "blindharmony": VERSION,
        "target": {
            "name": target.info.name,
            "digest": target.digest,
            "held_out_scans": target.info.held_out.scans,
        },
        "scans": [assessment.as_json() for assessment in assessments],
        "failed": [{"path": str(e.path) if e.path else None, "what": e.what, "remedy": e.remedy} for e in failed],
    }


def table(result: Assessment) -> list[str]:
    """One scan in full."""
    columns = f"{'z':>7} {'quantile':>9} {'rank':>6}"
    tried = bool(result.after)
    lines = [
        f"{result.scan}: {result.verdict} for {result.target} ({result.headline})",
        *(f"  - {reason}" for reason in result.reasons),
        "",
        f"{'':<20}  {'before':^24}" + (f"  {'after ' + result.method:^24}" if tried else ""),
        f"{'':<20}  {columns}" + (f"  {columns}" if tried else ""),
    ]
    for before, after in zip_longest(result.before, result.after):
        lines.append(f"{before.name:<20}  {_cells(before)}" + (f"  {_cells(after)}" if after else ""))
    said = f"harmonize says: {result.harmonized}" if tried else "the scan as it came decides; --full also harmonizes it"
    lines += ["", said, *(f"  {mark(c)} {c.name}: {c.message}" for c in result.checks)]
    return [*lines, "", "rank: how many of the target's scans lie below; !: look at it; x: do not use it as it is"]


def mark(check: Check) -> str:
    """One sign for a check's severity."""
    return " !x"[check.severity]


def _cells(score: ReferenceScore) -> str:
    quantile = "-" if score.quantile is None else f"{score.quantile:.3f}"
    return f"{score.z:>7.1f} {quantile:>9} {f'{score.rank}/{score.count}':>6}"


def row(result: Assessment, width: int) -> list[str]:
    """One scan of several: a line, and its reasons."""
    from blindharmony.quality.typicality import INTENSITIES, LIKELIHOOD

    def cell(name: str) -> str:
        scores = [score.z for rows in (result.before, result.after) for score in rows if score.name == name]
        return " -> ".join(f"{z:+.1f}" for z in scores) or "-"

    levels = [
        [score.z for score in rows if score.name not in (INTENSITIES, LIKELIHOOD)]
        for rows in (result.before, result.after)
    ]
    cells = [
        next((f"{score.z:+.1f}" for score in result.before if score.name == INTENSITIES), "-"),
        " -> ".join(f"{max(scores):+.1f}" for scores in levels if scores) or "-",
        cell(LIKELIHOOD),
    ]
    severity = max(check.severity for check in result.checks if "mask" in check.name)
    mask = ("good", "look at it", "wrong")[severity]
    first = f"{result.scan:<{width}}  {result.verdict:<15}  {cells[0]:<11}  {cells[1]:<14}  {cells[2]:<14}  {mask}"
    return [first, *(f"{'':<{width}}  - {reason}" for reason in result.reasons)]
