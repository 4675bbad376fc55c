"""The command bids.

What a person sees while a cohort runs: stage, scans done, failures, time left; or JSON for machines.

The group level of ``blindharmony bids``: a table and a page of the cohort.

``blindharmony bids``: a whole BIDS data set, participant by participant, then a table of the cohort.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli import workers as bids_engine
from blindharmony.cli.console import Screen, Stage
from blindharmony.cli.options import add_settings, both, gigabytes, settings_of
from blindharmony.cli.train import duration
from blindharmony.errors import UsageError
from blindharmony.files import split_name

if TYPE_CHECKING:
    from blindharmony.study.groups import Group
    from blindharmony.study.run import Tally

_STAGES = {None: "starting", "look": "looking at scans", "fit": "fitting scanners", "harmonize": "harmonizing"}
# Of a record, what a reader of JSON lines wants; profiles and fingerprints stay in the ledger.
_TOLD = {
    "verdict",
    "headline",
    "warnings",
    "distance_before",
    "distance_after",
    "excess_before",
    "excess_after",
    "seconds",
}


class StudyScreen:
    """Turns what a cohort run says into a moving line on a terminal, plain lines elsewhere, or JSON.

    Args:
        screen: Where to.
        stage: The moving line.
        as_json: Whether standard output gets one JSON object for each scan that ends.
        clock: Seconds, for tests.
    """

    def __init__(
        self, screen: Screen, stage: Stage, *, as_json: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.screen, self.stage, self.as_json, self.clock = screen, stage, as_json, clock
        self.start = clock()
        self.done = 0
        self.failed: set[str] = set()

    def __call__(self, line: str, tally: Tally, *, problem: bool = False) -> None:
        """Show where the run stands, and a line if there is one."""
        now = f"{tally.finished} of {tally.total} scans{self._failures(tally)}{self._left(tally)}"
        self.stage(f"{_STAGES[tally.stage]}, {now}", tally.finished / max(1, tally.total))
        if self.as_json:
            self._objects(tally)
        if problem:
            self.screen.problem(f"blindharmony: {line}")
        elif line:
            more = "" if self.screen.err.is_terminal else f"{self._failures(tally)}{self._left(tally)}"
            self.screen.note(f"[{tally.finished}/{tally.total}] {line}{more}")

    def _failures(self, tally: Tally) -> str:
        return f", {len(tally.failed)} failed" if tally.failed else ""

    def _left(self, tally: Tally) -> str:
        finished = tally.pieces[0]
        if finished < 2 or tally.left <= 0:
            return ""
        return f", about {duration((self.clock() - self.start) / finished * tally.left)} left"

    def _objects(self, tally: Tally) -> None:
        if tally.last and tally.done > self.done:
            self.done = tally.done
            record = tally.last
            told = record.model_dump(mode="json", include=_TOLD, exclude_unset=True)
            place = record.scan
            self._line(scan=split_name(place)[0], place=place, status="done", outputs=sorted(record.outputs), **told)
        for scan in sorted(set(tally.failed) - self.failed):
            self.failed.add(scan)
            self._line(scan=scan, status="failed", reason=tally.failed[scan])

    def _line(self, **content: Any) -> None:
        self.screen.result(json.dumps(content))

    def end(self, tally: Tally) -> None:
        """The last JSON object: how many scans ended how."""
        if self.as_json:
            counts = {"done": tally.done, "done_before": tally.kept, "failed": len(tally.failed), "scans": tally.total}
            self._line(status="end", **counts)


def run_group(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write table and page and say where they are.

    Raises:
        NothingFoundError: If nothing was ever harmonized into the output folder.
    """
    from blindharmony.errors import NothingFoundError
    from blindharmony.study.cohort import cohort_rows, write_cohort_page, write_table
    from blindharmony.study.ledger import Ledger, read_json

    ledger = Ledger(arguments.output_dir.resolve())
    rows = cohort_rows(ledger)
    if not rows:
        raise NothingFoundError("no run has been here", remedy="run the participant level first", path=ledger.out)
    title = str((read_json(arguments.bids_dir / "dataset_description.json") or {}).get("Name", arguments.bids_dir.name))
    files = {"table": write_table(ledger, rows), "page": write_cohort_page(ledger, rows, title)}
    if arguments.json:
        states = Counter(str(row["status"]) for row in rows)
        screen.result(json.dumps({**{k: str(v) for k, v in files.items()}, "scans": len(rows), "status": states}))
        return 0
    for file in files.values():
        screen.result(str(file))
    screen.note(f"open {files['page'].as_uri()} in a browser")
    return 0


_EPILOG = """\
Results are BIDS derivatives: OUTPUT_DIR/sub-01/anat/sub-01_desc-harmonized_T1w.nii.gz, .json, .html (the report) and
sub-01_desc-brain_mask.nii.gz. Scans of one scanner and sequence are recognised by their sidecars and fitted together.

Run the same command again after any interruption: what is done is not done again, what has changed is.
Scans that failed are listed in OUTPUT_DIR/failures.tsv with the reason.

examples:
  blindharmony bids study out participant --n-procs 8
  blindharmony bids study out group                          writes cohort.tsv and cohort.html
  blindharmony bids study out participant --participant-label 01 02 --target mysite.safetensors
  blindharmony bids study out participant --mask-dir study/derivatives/fmriprep --scanner-column site
  blindharmony bids study out participant --jobqueue slurm --jobs 50 --job-walltime 04:00:00
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "bids",
        help="harmonize a whole BIDS data set, in parallel, resumable",
        description="Harmonize every scan of a BIDS data set to a target scanner.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="the data set; nothing is written there")
    p.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="folder for the derivatives")
    p.add_argument("level", choices=("participant", "group"), help="harmonize scans, or make the table of the cohort")
    p.add_argument("--target", default="ds002748", help="model file or included name (default: %(default)s)")
    which = p.add_argument_group("which scans")
    which.add_argument(*both("--participant-label"), nargs="+", metavar="LABEL", help="with or without sub-")
    which.add_argument(*both("--session-label"), nargs="+", metavar="LABEL", help="with or without ses-")
    which.add_argument(*both("--bids-filter-file"), type=Path, metavar="FILE", help='JSON: {"t1w": {"run": 1}}')
    which.add_argument(*both("--skip-bids-validation"), action="store_true", help="do not check the data set")
    which.add_argument(*both("--mask-dir"), type=Path, metavar="DIR", help="derivatives with desc-brain masks")
    scanners = p.add_argument_group("which scans share a scanner")
    scanners.add_argument(
        *both("--scanner-grouping"),
        choices=("auto", "one", "none"),
        default="auto",
        help="auto: by the metadata of the sidecars; one: all scans are of one scanner and sequence; none: every scan "
        "alone (default: %(default)s)",
    )
    scanners.add_argument(*both("--scanner-column"), metavar="COL", help="column of participants.tsv or *_scans.tsv")
    scanners.add_argument(
        *both("--scratch-gb"),
        type=gigabytes,
        default=50.0,
        metavar="G",
        help="disk for prepared scans of a group between its stages; larger groups are prepared again each time "
        "(default: %(default)s)",
    )
    how = p.add_argument_group("how")
    add_settings(how, ("mask_command", "refine", "keep_bias", "device", "seed"), underscores=True)
    how.add_argument("--uncertainty", action="store_true", help="also write the error bar of every voxel")
    how.add_argument(*both("--no-report"), action="store_true", help="write no HTML reports")
    how.add_argument("--json", action="store_true", help="for machines: one JSON object a scan, a line each")
    how.add_argument("-q", "--quiet", action="store_true", help="print only results and problems")
    bids_engine.add_options(p.add_argument_group("who does the work"))
    p.set_defaults(run=run, unused_by_group=lambda given: _unused(p, given))


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Harmonize the cohort, or describe it."""
    from blindharmony.study.ledger import check_input, check_output, check_with_validator

    if not arguments.bids_dir.is_dir():
        raise UsageError(f"{arguments.bids_dir}: no such folder", remedy="give a BIDS data set")
    check_output(arguments.bids_dir, arguments.output_dir)
    if arguments.level == "group":
        if unused := arguments.unused_by_group(arguments):
            screen.problem(f"blindharmony: warning: without effect at the group level: {', '.join(unused)}")
        return run_group(arguments, screen)
    bids_engine.check(arguments)
    if arguments.scanner_column and (how := arguments.scanner_grouping) != "auto":
        raise UsageError(f"--scanner-column and --scanner-grouping {how} exclude each other", remedy="use one of them")
    if arguments.mask_dir and not arguments.mask_dir.is_dir():
        raise UsageError(f"{arguments.mask_dir}: no such folder", remedy="check --mask-dir")
    if arguments.mask_dir and arguments.mask_dir.resolve() == arguments.output_dir.resolve():
        raise UsageError("--mask-dir is the output folder: masks would be replaced", remedy="choose another folder")
    if not arguments.skip_bids_validation:
        check_input(arguments.bids_dir)
        check_with_validator(arguments.bids_dir)
    return _participant(arguments, screen)


def _unused(grammar: argparse.ArgumentParser, given: argparse.Namespace) -> list[str]:
    """Options given that the group level, which shows every scan of the output folder, has no use for."""
    read = {"bids_dir", "output_dir", "level", "json", "quiet", "skip_bids_validation", "help"}
    options = {a.dest: a.option_strings[0] for a in grammar._actions if a.option_strings and a.dest not in read}
    return [option for dest, option in options.items() if getattr(given, dest, None) != grammar.get_default(dest)]


def _participant(arguments: argparse.Namespace, screen: Screen) -> int:
    from blindharmony.device import resolved_device
    from blindharmony.models.file import load_target
    from blindharmony.study.cohort import keep_target
    from blindharmony.study.ledger import Ledger, describe, kept_gb, largest
    from blindharmony.study.run import held, make_plan, run_study
    from blindharmony.study.work import Settings

    harmonize = settings_of(arguments)
    device = resolved_device(harmonize.device)
    harmonize = harmonize.updated(device=device)
    target = load_target(arguments.target)
    settings = Settings(
        target=_for_workers(arguments.target),
        digest=target.digest,
        harmonize=harmonize,
        uncertainty=arguments.uncertainty,
        report=not arguments.no_report,
    )
    groups = _groups(arguments, target.info.suffix, screen)
    # Jobs of an array: each has participants of its own, and no scan waits for another one.
    apart = arguments.scanner_grouping == "none" and not arguments.scanner_column and arguments.participant_label
    with held(Ledger(arguments.output_dir.resolve()), apart or ()) as ledger:
        describe(arguments.bids_dir, ledger.out, target.info.name, target.info.suffix)
        keep_target(ledger, target)
        screen.note(f"reading {sum(len(g.scans) for g in groups)} scans")
        masks = arguments.mask_dir and arguments.mask_dir.resolve()
        plan = make_plan(groups, ledger, masks=masks)
        if masks and plan.without_mask:
            screen.problem(f"blindharmony: warning: no mask for {plan.without_mask} scans; their brain will be found")
        voxels = largest(item.scan.path for item in plan.items.values())
        engine, who = bids_engine.engine(arguments, device, ledger.home / "logs", len(plan.items), voxels)
        screen.note(f"harmonizing to {target.info.name} with {who}")
        try:
            with screen.progress("", left=False) as stage:
                seen = StudyScreen(screen, stage, as_json=arguments.json)
                tally = run_study(
                    plan,
                    settings,
                    ledger,
                    engine,
                    scratch=int(arguments.scratch_gb / kept_gb(voxels)),
                    say=seen,
                )
        finally:
            engine.close()
    seen.end(tally)
    _end(arguments, screen, tally, ledger.out)
    return 1 if tally.finished < tally.total or tally.failed else 0


def _for_workers(target: str) -> str:
    """The target as workers find it, wherever they run."""
    from blindharmony.models.target import included_targets

    # An included model's name means that model, also where a folder is called the same.
    return target if target in included_targets() else str(Path(target).resolve())


def _groups(arguments: argparse.Namespace, suffix: str, screen: Screen) -> list[Group]:
    from blindharmony.io.bids import bids_scans, read_filter, summarized
    from blindharmony.io.tables import column_of
    from blindharmony.study.groups import alone, by_label, by_metadata, together

    root = arguments.bids_dir.resolve()
    scans, passed_over = bids_scans(
        root,
        suffix=suffix,
        participants=arguments.participant_label,
        sessions=arguments.session_label,
        only=read_filter(arguments.bids_filter_file, suffix) if arguments.bids_filter_file else None,
    )
    for line in summarized(passed_over):
        screen.problem(f"blindharmony: warning: {line}")
    if arguments.scanner_column:
        labels, notes = column_of(root, scans, arguments.scanner_column)
        for line in notes:
            screen.problem(f"blindharmony: warning: {line}")
        groups = by_label(scans, labels, arguments.scanner_column)
    else:
        groups = {"auto": by_metadata, "one": together, "none": alone}[arguments.scanner_grouping](scans)
    for group in groups:
        if len(group.scans) > 1:
            screen.note(f"scanner {group.name}: {len(group.scans)} scans, {group.why}")
    if single := sum(len(group.scans) == 1 for group in groups):
        screen.note(f"alone: {single} scans")
        if not arguments.scanner_column and arguments.scanner_grouping == "auto" and single == len(scans) > 1:
            screen.problem(
                "blindharmony: warning: no scanner was found to have made several scans, so each is harmonized alone, "
                "which is less exact; pass --scanner-grouping one if one scanner made all, or name a column of "
                "participants.tsv with --scanner-column"
            )
    return groups


def _end(arguments: argparse.Namespace, screen: Screen, tally: Tally, out: Path) -> None:
    parts = [f"{tally.done} scans harmonized", *([f"{tally.kept} were done before"] if tally.kept else [])]
    if not arguments.json:
        screen.result(f"{out}: {', '.join(parts)}")
    if tally.failed:
        screen.problem(f"blindharmony: {len(tally.failed)} of {tally.total} scans failed; see {out / 'failures.tsv'}")
