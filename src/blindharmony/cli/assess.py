"""``blindharmony assess``: how far scans are from the target, and whether harmonization can bring them there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_settings, found_scans, given_masks, settings_of
from blindharmony.errors import BlindHarmonyError, InternalError, UsageError, reportable
from blindharmony.version import VERSION

if TYPE_CHECKING:
    from blindharmony.api import Assessment
    from blindharmony.models.target import Target
    from blindharmony.quality.typicality import Standing

_EPILOG = """\
Verdicts:
  target-like      nothing about the scan is rare among the target's own scans
  foreign          something is, and nothing after harmonization: what harmonization is for
  not explainable  something still is afterwards (noise, pathology, wrong sequence, ...), or part of the head is
                   missing, the skull is still on, or bright and dark tissue are swapped

Excess is the distance from the target's own scans in their spreads: 0 is the middle, above 0 is less usual. The
quantile is the share of target scans expected below; with few held-out scans (see 'known') it is coarse. Rare means
beyond one target scan in fifty. Nothing is written.

examples:
  blindharmony assess sub-01_T1w.nii.gz
  blindharmony assess study/ --participant-label 01 02 --target mysite.safetensors
  blindharmony assess study/ --json > assessment.json
"""

_LEGEND = (
    "numbers: distance from the target's own scans in their spreads (0 is the middle), before -> after harmonization; "
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
    p.add_argument("--target", default="ds002748", help="model file or included name (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output, for machines")
    p.add_argument("--mask", type=Path, help="brain mask on the scan's grid (one scan only)")
    p.add_argument("--mask-dir", type=Path, metavar="DIR", help="derivatives with a desc-brain mask of every scan")
    add_settings(p, ("mask_command", "device"))
    p.add_argument("--participant-label", "--participant_label", nargs="+", metavar="LABEL", help="BIDS subjects")
    p.add_argument("--suffix", default="T1w", help="BIDS suffix of the contrast (default: %(default)s)")
    p.add_argument("-q", "--quiet", action="store_true", help="print only results and problems")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Assess every scan; one that fails does not stop the others."""
    settings = settings_of(arguments)
    paths, missing = found_scans(arguments.scans, arguments.participant_label, arguments.suffix, screen)
    masks = given_masks(arguments.mask, arguments.mask_dir, paths, command=settings.mask_command)
    from blindharmony.api import assess
    from blindharmony.models.file import load_target

    target = load_target(arguments.target)
    for problem in missing:
        screen.problem(f"blindharmony: {problem}")
    failed: list[BlindHarmonyError] = list(missing)
    found: list[Assessment] = []
    width = max(len(p.name) for p in paths)
    if len(paths) > 1 and not arguments.json:
        screen.result(f"{'scan':<{width}}  {'verdict':<15}  intensities  worst level     in all          mask")
    for path in paths:
        try:
            with screen.progress(path.name) as stage:
                result = assess(
                    path,
                    target,
                    settings,
                    mask=masks.get(path),
                    progress=stage,
                )
        except UsageError:
            raise
        except Exception as error:
            if arguments.debug and not isinstance(error, BlindHarmonyError):
                raise
            failed.append(reportable(error, path))
            screen.problem(f"blindharmony: {failed[-1]}")
            continue
        found.append(result)
        if not arguments.json:
            for line in table(result) if len(paths) == 1 else row(result, width):
                screen.result(line)
            for warning in result.warnings:
                screen.problem(f"{path.name}: warning: {warning}")
    if arguments.json:
        screen.result(json.dumps(document(target, found, failed), indent=2, allow_nan=False))
    elif len(paths) > 1:
        screen.note(_LEGEND)
    screen.failures(len(failed), len(paths) + len(missing))
    if any(isinstance(error, InternalError) for error in failed):
        return InternalError.exit_code
    return 1 if failed else 0


def document(target: Target, found: list[Assessment], failed: list[BlindHarmonyError]) -> dict[str, Any]:
    """Everything as one JSON object."""
    return {
        "blindharmony": VERSION,
        "target": {
            "name": target.info.name,
            "digest": target.digest,
            "held_out_scans": target.info.held_out.scans,
        },
        "scans": [f.as_json() for f in found],
        "failed": [{"path": str(e.path) if e.path else None, "what": e.what, "remedy": e.remedy} for e in failed],
    }


def table(found: Assessment) -> list[str]:
    """One scan in full."""
    lines = [
        f"{found.scan}: {found.verdict} for {found.target} ({found.headline})",
        *(f"  - {reason}" for reason in found.reasons),
        "",
        f"{'':<20}  {'before':^24}  {'after ' + found.method:^24}",
        f"{'':<20}  {'excess':>7} {'quantile':>9} {'rank':>6}  {'excess':>7} {'quantile':>9} {'rank':>6}",
    ]
    for before, after in zip(found.before, found.after, strict=True):
        lines.append(f"{before.name:<20}  {_cells(before)}  {_cells(after)}")
    mask = found.mask
    return [
        *lines,
        "",
        f"mask: {found.brain_ml:.0f} ml; misses {100 * mask.missed:.1f} % of the brain all target scans have; "
        f"{100 * mask.outside:.1f} % lies where none has",
        f"order of tissues: {found.order:.2f} (rank correlation with the target's mean head)",
        "excess in spreads of target scans; rank: how many known scans lie below",
    ]


def _cells(row: Standing) -> str:
    quantile = "-" if row.quantile is None else f"{row.quantile:.3f}"
    return f"{row.excess:>7.1f} {quantile:>9} {f'{row.rank}/{row.known}':>6}"


def row(found: Assessment, width: int) -> list[str]:
    """One scan of several: a line, and its reasons."""
    levels = [(b, a) for b, a in zip(found.before, found.after, strict=True) if b.name not in ("intensities", "in all")]
    cells = [
        next((f"{b.excess:+.1f}" for b in found.before if b.name == "intensities"), "-"),
        f"{max(b.excess for b, _ in levels):+.1f} -> {max(a.excess for _, a in levels):+.1f}" if levels else "-",
        next(
            (
                f"{b.excess:+.1f} -> {a.excess:+.1f}"
                for b, a in zip(found.before, found.after, strict=True)
                if b.name == "in all"
            ),
            "-",
        ),
    ]
    mask = ("good", "look at it", "wrong")[found.mask.grade]
    first = f"{found.scan:<{width}}  {found.verdict:<15}  {cells[0]:<11}  {cells[1]:<14}  {cells[2]:<14}  {mask}"
    return [first, *(f"{'':<{width}}  - {reason}" for reason in found.reasons)]
