"""``blindharmony bids``: a whole BIDS data set, participant by participant, then a table and a page of the cohort.

:func:`run` checks folders and options. The participant level harmonizes, and :class:`StudyScreen` says how far it is;
the group level (:func:`run_group`) describes what is there. Who does the work is chosen by :func:`engine`: processes on
this machine, Dask workers, or jobs of a queue.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Screen, Stage, counted, duration
from blindharmony.cli.options import add_settings, add_shared, amount, both, for_workers, from_zero, settings_of
from blindharmony.errors import NothingFoundError, OutputError, UsageError
from blindharmony.files import check_outputs, result_names, sidecar_name, split_name
from blindharmony.jobs.engine import Engine
from blindharmony.jobs.processes import THREADS, cores, threads_asked
from blindharmony.settings import HarmonizeSettings
from blindharmony.study.derivative import TOP_FILES, check_input, check_output, check_with_validator, describe
from blindharmony.study.ledger import Ledger, kept_gb, largest, memory_gb, read_json

if TYPE_CHECKING:
    from blindharmony.study.groups import Group
    from blindharmony.study.run import Plan, Tally
    from blindharmony.study.work import StudySettings

_EPILOG = """\
Results are BIDS derivatives: OUTPUT_DIR/sub-01/anat/sub-01_desc-harmonized_T1w.nii.gz, .json, .html (the report) and
sub-01_desc-brain_mask.nii.gz. Scans of one scanner and sequence are recognized by their sidecars and fitted together.

Run the same command again after any interruption: what is done is not done again, what has changed is.
Scans that failed are listed in OUTPUT_DIR/logs/failures.tsv with the reason.

examples:
  blindharmony bids study out participant --n-procs 8
  blindharmony bids study out participant --estimate         what it will take
  blindharmony bids study out group                          writes cohort.html and logs/cohort.tsv
  blindharmony bids study out participant --participant-label 01 02 --target mysite.safetensors
  blindharmony bids study out participant --mask-dir study/derivatives/fmriprep --scanner-column site
  blindharmony bids study out participant --jobqueue slurm --jobs 50 --job-walltime 04:00:00
"""


_SCAN_MINUTES = 120.0  # many times what a scan takes, with a mask command too


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
    add_shared(p, "--target")
    which = p.add_argument_group("which scans")
    add_shared(which, "--participant-label")
    which.add_argument(*both("--session-label"), nargs="+", metavar="LABEL", help="with or without ses-")
    which.add_argument(*both("--bids-filter-file"), type=Path, metavar="FILE", help='JSON: {"t1w": {"run": 1}}')
    which.add_argument(*both("--skip-bids-validation"), action="store_true", help="do not check the data set")
    add_shared(which, "--mask-dir", "--lesion-dir")
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
        "--longitudinal",
        action="store_true",
        help="visits of a person share a curve also where nothing says which scans are of one scanner, or with "
        "--scanner-grouping none; visits whose sidecars name different scanners do not",
    )
    scanners.add_argument(
        "--refit",
        action="store_true",
        help="fit a scanner that has new scans again, to all of them, and make all of them again; without it new scans "
        "take the curve that is there, and what is done stays as it is",
    )
    scanners.add_argument(
        *both("--scratch-gb"),
        type=from_zero,
        default=50.0,
        metavar="G",
        help="disk for prepared scans of a group between its stages; larger groups are prepared again each time "
        "(default: %(default)s)",
    )
    how = p.add_argument_group("how")
    add_settings(how, ("mask_command", "refine", "keep_bias", "on_harm", "device", "seed"), underscores=True)
    add_shared(how, "--uncertainty")
    how.add_argument(*both("--no-report"), action="store_true", help="write no HTML reports")
    how.add_argument("--json", action="store_true", help="for machines: one JSON object a scan, a line each")
    add_shared(how, "--verbose", "--quiet")
    who = p.add_argument_group("who does the work")
    who.add_argument(
        *both("--n-procs"),
        type=int,
        metavar="N",
        help="processes on this machine (default: as many as cores and memory allow); 0: work inside this one",
    )
    who.add_argument(
        *both("--omp-nthreads"),
        type=int,
        metavar="N",
        help="threads of a process (default: OMP_NUM_THREADS, or the cores, shared evenly)",
    )
    who.add_argument(*both("--mem-gb"), type=amount, metavar="G", help="memory for all processes, 2 GB each or more")
    who.add_argument(
        *both("--scan-timeout"),
        type=from_zero,
        metavar="MIN",
        help="minutes that a scan may be looked at, and be harmonized; one that hangs longer is left out, listed in "
        f"logs/failures.tsv, and tried again by the next run (default: {_SCAN_MINUTES:g}; 0: no limit)",
    )
    who.add_argument(*both("--dask-scheduler"), metavar="ADDRESS", help="Dask workers that run already (tcp://...)")
    who.add_argument("--jobqueue", choices=("slurm", "pbs", "local"), help="start Dask workers as jobs of a queue")
    who.add_argument("--jobs", type=int, metavar="N", help="how many jobs")
    who.add_argument(*both("--job-memory"), type=amount, metavar="G", help="memory of a job, GB (default: 4 or more)")
    who.add_argument(*both("--job-walltime"), metavar="TIME", help="time limit of a job, as the queue writes it")
    who.add_argument(*both("--job-queue"), metavar="NAME", help="queue or partition")
    who.add_argument(*both("--job-account"), metavar="NAME", help="account of the jobs")
    who.add_argument(
        "--array",
        type=int,
        metavar="N",
        help="this is one of N jobs of an array (SLURM, PBS, SGE, LSF, AWS Batch, Kubernetes); it takes its "
        "share of the participants, with --scanner-grouping none",
    )
    who.add_argument(
        "--estimate",
        action="store_true",
        help="harmonize up to three scans in a folder that is removed again, say what time, memory and disk all will "
        "take, and stop",
    )
    p.set_defaults(run=run, unused_by_group=lambda arguments: _unused(p, arguments))


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Harmonize the cohort, or describe it."""
    if not arguments.bids_dir.is_dir():
        raise UsageError(f"{arguments.bids_dir}: no such folder", remedy="give a BIDS data set")
    check_output(arguments.bids_dir, arguments.output_dir)
    if arguments.level == "group":
        if unused := arguments.unused_by_group(arguments):
            screen.problem(f"blindharmony: warning: without effect at the group level: {', '.join(unused)}")
        return run_group(arguments, screen)
    _check_workers(arguments)
    if arguments.scanner_column and (how := arguments.scanner_grouping) != "auto":
        raise UsageError(f"--scanner-column and --scanner-grouping {how} exclude each other", remedy="use one of them")
    if arguments.mask_dir and not arguments.mask_dir.is_dir():
        raise UsageError(f"{arguments.mask_dir}: no such folder", remedy="check --mask-dir")
    if arguments.mask_dir and arguments.mask_dir.resolve() == arguments.output_dir.resolve():
        raise UsageError("--mask-dir is the output folder: masks would be replaced", remedy="choose another folder")
    if arguments.lesion_dir and not arguments.lesion_dir.is_dir():
        raise UsageError(f"{arguments.lesion_dir}: no such folder", remedy="check --lesion-dir")
    if arguments.array is not None:
        arguments.participant_label = _share(arguments)
        if not arguments.participant_label:
            screen.note(f"nothing to do: {arguments.array} jobs are more than there are participants")
            return 0
    if not arguments.skip_bids_validation:
        check_input(arguments.bids_dir)
        # It reads the whole data set: no job of an array does.
        if not _apart(arguments):
            check_with_validator(arguments.bids_dir)
    return _participant(arguments, screen)


def _unused(grammar: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[str]:
    """Options that were given and that the group level, which shows every scan of the output folder, has no use for."""
    read = {"bids_dir", "output_dir", "level", "json", "quiet", "skip_bids_validation", "help"}
    options = {a.dest: a.option_strings[0] for a in grammar._actions if a.option_strings and a.dest not in read}
    return [option for dest, option in options.items() if getattr(arguments, dest, None) != grammar.get_default(dest)]


def _check_workers(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense, before any work.

    Raises:
        UsageError: If options contradict each other.
    """
    ways = ("n_procs", "dask_scheduler", "jobqueue")
    if sum(getattr(arguments, w) is not None for w in ways) > 1:
        raise UsageError("--n-procs, --dask-scheduler and --jobqueue exclude each other", remedy="use one of them")
    if bool(arguments.jobqueue) != bool(arguments.jobs):
        raise UsageError("--jobqueue and --jobs go together", remedy="say which queue and how many jobs")
    for name in ("job_memory", "job_walltime", "job_queue", "job_account"):
        if getattr(arguments, name) is not None and not arguments.jobqueue:
            raise UsageError(f"--{name.replace('_', '-')} is for jobs of a queue", remedy="use --jobqueue with it")
    if arguments.n_procs == 0 or arguments.dask_scheduler or arguments.jobqueue:
        for name in ("omp_nthreads", "mem_gb"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is for worker processes on this machine", remedy="use --n-procs N with it")
    if arguments.n_procs == 0 and arguments.scan_timeout:
        raise UsageError("--scan-timeout needs a process that can be ended", remedy="use --n-procs 1 or more with it")
    for name, least in (("n_procs", 0), ("omp_nthreads", 1), ("jobs", 1), ("mem_gb", memory_gb(0)), ("job_memory", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value:g} is too small", remedy=f"use at least {least:g}")


# Where queues say which job of an array this is; Kubernetes says it to indexed jobs.
_ARRAY_INDEX = (
    "SLURM_ARRAY_TASK_ID",
    "PBS_ARRAY_INDEX",
    "PBS_ARRAYID",
    "SGE_TASK_ID",
    "LSB_JOBINDEX",
    "AWS_BATCH_JOB_ARRAY_INDEX",
    "JOB_COMPLETION_INDEX",
)


def _share(arguments: argparse.Namespace) -> list[str]:
    """The participants of this job of an array: every N-th, from a place that its number gives.

    Whether the queue counts from 0 or from 1 makes no difference.

    Raises:
        UsageError: If no queue says which job this is, or scans would have to wait for those of other jobs.
    """
    from blindharmony.io.bids import participants_of

    if arguments.scanner_grouping != "none":
        raise UsageError(
            "jobs of an array harmonize every scan alone: a scanner's scans cannot be in several jobs",
            remedy="pass --scanner-grouping none, or use --dask-scheduler or --jobqueue",
        )
    if arguments.array < 1:
        raise UsageError(f"--array {arguments.array} is too small", remedy="say how many jobs the array has")
    numbers = [text for name in _ARRAY_INDEX if (text := os.environ.get(name, "")).isdecimal()]
    if not numbers:
        remedy = f"start it as a job of an array, or set {_ARRAY_INDEX[0]}"
        raise UsageError("no queue says which job of the array this is", remedy=remedy)
    labels = arguments.participant_label or participants_of(arguments.bids_dir)
    first, jobs = int(numbers[0]) % arguments.array, arguments.array
    return sorted({label.removeprefix("sub-") for label in labels})[first::jobs]


def _participant(arguments: argparse.Namespace, screen: Screen) -> int:
    from blindharmony.device import resolved_device
    from blindharmony.models.card import read_card
    from blindharmony.study.cohort import keep_target
    from blindharmony.study.run import failures_told, held, make_plan, run_study
    from blindharmony.study.work import StudySettings

    harmonize = settings_of(arguments, HarmonizeSettings)
    device = resolved_device(harmonize.device)
    harmonize = harmonize.updated(device=device)
    target = read_card(arguments.target)
    settings = StudySettings(
        target=for_workers(arguments.target),
        digest=target.digest,
        harmonize=harmonize,
        uncertainty=arguments.uncertainty,
        report=not arguments.no_report,
    )
    groups = _groups(arguments, target.suffix, screen)
    if harmonize.method != "curve" and any(len(group.scans) > 1 for group in groups):
        raise UsageError(
            f"the method '{harmonize.method}' has no scanner model, and several scans are of one scanner",
            remedy="use --scanner-grouping none, or the method curve",
        )
    if arguments.estimate:
        return _estimate(arguments, screen, settings, groups)
    apart = _apart(arguments)
    with held(Ledger(arguments.output_dir.resolve()), apart or ()) as ledger:
        describe(arguments.bids_dir, ledger.out, target.name, target.suffix)
        keep_target(ledger, target)
        screen.note(f"reading {counted(sum(len(g.scans) for g in groups))}")
        masks, lesions = (d and d.resolve() for d in (arguments.mask_dir, arguments.lesion_dir))
        with failures_told(ledger, wanted=not apart):
            plan = make_plan(groups, ledger, masks=masks, lesions=lesions)
        check_outputs(_places(plan, ledger), _inputs(arguments, plan))
        if masks and plan.without_mask:
            screen.problem(f"blindharmony: warning: no mask for {counted(plan.without_mask)}; the brain will be found")
        voxels = largest(item.scan.path for item in plan.items.values())
        workers, who = engine(arguments, device, ledger.home / "logs", len(plan.items), voxels)
        screen.note(f"harmonizing to {target.name} with {who}")
        try:
            with screen.progress("", left=False) as stage:
                at_once = getattr(workers, "size", arguments.jobs or 1)
                study_screen = StudyScreen(screen, stage, as_json=arguments.json, workers=at_once)
                tally = run_study(
                    plan,
                    settings,
                    ledger,
                    workers,
                    scratch=int(arguments.scratch_gb / kept_gb(voxels)),
                    seconds=60 * minutes if (minutes := _scan_minutes(arguments)) else math.inf,
                    refit=arguments.refit,
                    table=not apart,
                    first=lambda: _load(arguments.target),
                    say=study_screen,
                )
        except KeyboardInterrupt:
            if ledger.left_prepared():
                screen.problem(
                    f"blindharmony: prepared brains of unfinished scans are in {ledger.home / 'scans'}: the next run "
                    "goes on with them, and 'blindharmony bids ... group' removes them"
                )
            raise
        finally:
            workers.close()
    study_screen.end(tally)
    _end(arguments, screen, tally, ledger.out, table=not apart)
    return 1 if tally.finished < tally.total or tally.failed else 0


def _estimate(arguments: argparse.Namespace, screen: Screen, settings: StudySettings, groups: Sequence[Group]) -> int:
    """Say what the study will take, from a few of its scans; nothing stays of them."""
    from blindharmony.jobs.processes import ProcessEngine
    from blindharmony.study.estimate import estimate, measure, sample

    _load(arguments.target)
    voxels = largest(scan.path for group in groups for scan in group.scans)
    few, scans = sample(groups), sum(len(group.scans) for group in groups)
    elsewhere = arguments.dask_scheduler or arguments.jobqueue or arguments.n_procs == 0
    device = settings.harmonize.device
    # What others do, one process does here.
    environments = [_environment(1)] if elsewhere else _environments(arguments, device, scans, voxels)
    workers = arguments.jobs or 1 if elsewhere else len(environments)
    here = environments[: sum(len(group.scans) for group in few)]
    screen.note(f"harmonizing {sum(len(group.scans) for group in few)} of {counted(scans)} to see what all will take")
    kept = int(arguments.scratch_gb / kept_gb(voxels))
    masks, lesions = (d and d.resolve() for d in (arguments.mask_dir, arguments.lesion_dir))
    with tempfile.TemporaryDirectory(prefix="blindharmony-estimate-") as folder:
        processes = ProcessEngine(here)
        try:
            measured = measure(
                few,
                settings,
                processes,
                Path(folder).resolve(),
                workers=len(here),
                keep=max(len(group.scans) for group in groups) <= kept,
                masks=masks,
                lesions=lesions,
            )
        finally:
            processes.close()
    cost = estimate(groups, measured, workers=workers, voxels=voxels, scratch_gb=arguments.scratch_gb)
    if arguments.json:
        screen.result(json.dumps(cost.as_json(measured)))
        return 0
    scanners = f"{counted(cost.scanners, 'scanner')} with several"
    screen.result(f"{counted(cost.scans)}: {scanners}, {cost.alone} alone; measured: {measured.scans}")
    who = "a job" if arguments.jobqueue else "a process"
    time_of_all = f"{duration(3600 * cost.process_hours)} of {who}"
    if cost.core_hours:
        time_of_all += f", {duration(3600 * cost.core_hours)} of a core"
    screen.result(f"time: {duration(cost.seconds_a_scan)} a scan, {time_of_all}")
    many = counted(workers, "job" if arguments.jobqueue else "process")
    screen.result(f"with {many}: {duration(3600 * cost.hours)}, if they do not hinder each other")
    screen.result(f"memory: {cost.memory_gb:.1f} GB {who}, {workers * cost.memory_gb:.1f} GB in all")
    screen.result(
        f"disk: {_size(cost.results_gb)} of results, {_size(cost.records_gb)} of records, {cost.files} files; until a "
        f"scanner's scans are done up to {_size(cost.scratch_gb)} more"
    )
    return 0


def _size(gigabytes: float) -> str:
    return f"{1000 * gigabytes:.0f} MB" if gigabytes < 1 else f"{gigabytes:.1f} GB"


def _scan_minutes(arguments: argparse.Namespace) -> float:
    return _SCAN_MINUTES if arguments.scan_timeout is None else float(arguments.scan_timeout)


def _apart(arguments: argparse.Namespace) -> Sequence[str]:
    """The participants of a job of an array: it has some of its own, and no scan waits for one of another job."""
    alone = arguments.scanner_grouping == "none" and not arguments.scanner_column
    return arguments.participant_label or () if alone else ()


def _load(target: str) -> None:
    """Load the model before any work, so that a damaged one is said once, and not of every scan."""
    from blindharmony.models.file import load_target

    load_target(target)


def _places(plan: Plan, ledger: Ledger) -> list[Path]:
    """What a run may replace: results and tables that are there already, and may be another name of an input."""
    failures = ledger.table("failures")
    places = [*(ledger.out / name for name in TOP_FILES), failures, failures.with_suffix(".json")]
    for item in plan.items.values():
        folder = ledger.out / item.scan.folder
        if folder.is_dir():  # in a first run of thirty thousand scans it is not
            names = result_names(item.scan.path)
            places += [folder / name for name in (*names.values(), sidecar_name(names["mask"]))]
    return [place for place in places if os.path.lexists(place)]


def _inputs(arguments: argparse.Namespace, plan: Plan) -> list[str | Path | None]:
    files = [file for item in plan.items.values() for file in (item.scan.path, item.mask, item.lesions)]
    return [arguments.target, arguments.bids_filter_file, arguments.config, *files]


def _groups(arguments: argparse.Namespace, suffix: str, screen: Screen) -> list[Group]:
    from blindharmony.io.bids import bids_scans, read_filter, summarized
    from blindharmony.io.tables import column_of
    from blindharmony.study.groups import alone, by_label, by_metadata, together, visits_together

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
    if arguments.longitudinal:
        groups = visits_together(groups)
    for group in groups:
        if len(group.scans) > 1:
            screen.note(f"scanner {group.name}: {len(group.scans)} scans, {group.why}")
    fitted = Ledger(arguments.output_dir.resolve()).fit
    if single := sum(len(group.scans) == 1 and not fitted(group.name).exists() for group in groups):
        screen.note(f"alone: {counted(single)}")
        if not arguments.scanner_column and arguments.scanner_grouping == "auto" and single == len(scans) > 1:
            screen.problem(
                "blindharmony: warning: no scanner was found to have made several scans, so each is harmonized alone, "
                "which is less exact; pass --scanner-grouping one if one scanner made all, or name a column of "
                "participants.tsv with --scanner-column"
            )
    return groups


def _end(arguments: argparse.Namespace, screen: Screen, tally: Tally, out: Path, *, table: bool) -> None:
    parts = [f"{counted(tally.done)} harmonized", *([f"{tally.kept} done before"] if tally.kept else [])]
    if not arguments.json:
        screen.result(f"{out}: {', '.join(parts)}")
    if tally.failed:
        where = f"see {Ledger(out).table('failures')}" if table else "the group level lists them in logs/failures.tsv"
        screen.problem(f"blindharmony: {len(tally.failed)} of {counted(tally.total)} failed; {where}")


def run_group(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write table and page and say where they are.

    Raises:
        NothingFoundError: If nothing was ever harmonized into the output folder.
    """
    from blindharmony.study.cohort import cohort_rows, write_cohort_page, write_table
    from blindharmony.study.run import write_failures

    ledger = Ledger(arguments.output_dir.resolve())
    rows = cohort_rows(ledger)
    if not rows:
        raise NothingFoundError("no run has been here", remedy="run the participant level first", path=ledger.out)
    _remove_prepared(ledger, screen)
    title = str((read_json(arguments.bids_dir / "dataset_description.json") or {}).get("Name", arguments.bids_dir.name))
    files = {
        "table": write_table(ledger, rows),
        "page": write_cohort_page(ledger, rows, title),
        "failures": write_failures(ledger),
    }
    if arguments.json:
        states = Counter(str(row["status"]) for row in rows)
        screen.result(json.dumps({**{k: str(v) for k, v in files.items()}, "scans": len(rows), "status": states}))
        return 0
    for file in files.values():
        screen.result(str(file))
    screen.note(f"open {files['page'].as_uri()} in a browser")
    return 0


def _remove_prepared(ledger: Ledger, screen: Screen) -> None:
    """Remove prepared brains that a killed run left, unless a run works here, whose they are."""
    from blindharmony.study.run import held

    if not ledger.left_prepared():
        return
    with suppress(OutputError), held(ledger):
        left = ledger.left_prepared()
        for place in left:
            shutil.rmtree(place, ignore_errors=True)
        screen.note(
            f"removed prepared brains of {counted(len(left))} that a killed run left in {ledger.home / 'scans'}"
        )


_JOB_GB = 4.0  # of a job that no option gives another memory


def engine(arguments: argparse.Namespace, device: str, logs: Path, scans: int, voxels: int = 0) -> tuple[Engine, str]:
    """The engine that the options choose, and what it is in words.

    Args:
        arguments: The command line.
        device: Where workers compute.
        logs: Folder for what workers print.
        scans: More workers than scans are not started.
        voxels: Of the largest scan; a worker gets memory for it.

    Raises:
        UsageError: If an extra package is needed and missing.
    """
    each_gb = memory_gb(voxels)
    if arguments.dask_scheduler:
        from blindharmony.jobs.cluster import connect

        return connect(arguments.dask_scheduler), f"the Dask scheduler {arguments.dask_scheduler}"
    if arguments.jobqueue:
        from blindharmony.jobs.cluster import start_jobs

        words = {"walltime": arguments.job_walltime, "queue": arguments.job_queue, "account": arguments.job_account}
        jobs = start_jobs(
            arguments.jobqueue, arguments.jobs, memory_gb=arguments.job_memory or max(_JOB_GB, each_gb), **words
        )
        return jobs, f"{arguments.jobs} jobs ({arguments.jobqueue})"
    if arguments.n_procs == 0:
        from blindharmony.jobs.engine import SerialEngine

        return SerialEngine(), "this process"
    from blindharmony.jobs.processes import ProcessEngine

    environments = _environments(arguments, device, scans, voxels)
    count, threads = len(environments), int(environments[0][THREADS[0]])
    description = f"{count} process{'es' if count > 1 else ''}, {threads} thread{'s' if threads > 1 else ''} each"
    gpus = len({each["CUDA_VISIBLE_DEVICES"] for each in environments if "CUDA_VISIBLE_DEVICES" in each})
    return ProcessEngine(environments, logs=logs), description + (f", {gpus} GPUs" if gpus else "")


def _environments(arguments: argparse.Namespace, device: str, scans: int, voxels: int) -> list[dict[str, str]]:
    """What the environment of each process on this machine has beyond this one's."""
    each_gb = memory_gb(voxels)
    count = processes(arguments.n_procs, arguments.mem_gb, cores(), _free_gb() or each_gb, scans, each_gb)
    threads = arguments.omp_nthreads or threads_asked() or max(1, cores() // count)
    gpus = _gpus(device)
    return [_environment(threads, gpus[i % len(gpus)] if gpus else None) for i in range(count)]


def _environment(threads: int, gpu: str | None = None) -> dict[str, str]:
    return {**dict.fromkeys(THREADS, str(threads)), **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}


def processes(
    n_procs: int | None, memory: float | None, cores: int, free: float, scans: int, each_gb: float = 2.0
) -> int:
    """How many: as ``n_procs`` says, or as cores and free memory allow; never more than ``--mem-gb`` has room for.

    Example:
        >>> processes(None, None, 16, 13.0, 100), processes(8, 5.0, 16, 64.0, 100), processes(8, None, 2, 1.0, 3)
        (6, 2, 3)
        >>> processes(None, None, 16, 13.0, 100, each_gb=3.1)
        4
    """
    most = min(cores, int(free / each_gb)) if n_procs is None else n_procs
    if memory is not None:
        most = min(most, int(memory / each_gb))
    return max(1, min(most, scans))


def _free_gb() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return 0.0
    return kilobytes / 1e6


def _gpus(device: str) -> list[str]:
    """Names of the GPUs that workers take turns with."""
    if not device.startswith("cuda"):
        return []
    if ":" in device:
        raise UsageError(f"'{device}' names one GPU", remedy="use --device cuda and set CUDA_VISIBLE_DEVICES")
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


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
        workers: How many work at the same time, as far as is known.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        screen: Screen,
        stage: Stage,
        *,
        as_json: bool = False,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.screen, self.stage, self.as_json, self.clock, self.workers = screen, stage, as_json, clock, workers
        self.start = clock()
        self.done = 0
        self.failed: set[str] = set()

    def __call__(self, line: str, tally: Tally, *, problem: bool = False) -> None:
        """Show where the run stands, and a line if there is one."""
        now, left = f"{tally.finished} of {counted(tally.total)}{self._failures(tally)}", self._left(tally)
        self.stage(f"{_STAGES[tally.stage]}, {now}", tally.finished / max(1, tally.total), left=left)
        if self.as_json:
            self._objects(tally)
        if problem:
            self.screen.problem(f"blindharmony: {line}")
        elif line:
            more = f"{self._failures(tally)}{f', about {duration(left)} left' if left else ''}"
            more = "" if self.screen.err.is_terminal else more
            self.screen.note(f"[{tally.finished}/{tally.total}] {line}{more}")

    def _failures(self, tally: Tally) -> str:
        return f", {len(tally.failed)} failed" if tally.failed else ""

    def _left(self, tally: Tally) -> float | None:
        """Seconds, at the pace of what is done; before that by a guess. None if nothing is left or known."""
        if tally.ahead <= 0:
            return None
        spent = self.clock() - self.start
        # The first answers of several workers come together, after all of them have worked.
        if tally.pieces < max(2, self.workers) or not tally.spent:
            return max(0.0, tally.ahead / self.workers - spent) or None
        return spent / tally.spent * tally.ahead

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
