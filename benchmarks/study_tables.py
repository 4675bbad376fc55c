"""The tables of docs/measured_study.md: damaged files, what steps cost, throughput of cohorts, and of 30,000 scans.

python benchmarks/study_tables.py docs/
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tables import table

_HEAD = """# Studies, measured

Made by `python benchmarks/study_tables.py docs/` from the files beside it; nothing here is typed by hand.
"""

_MANY, _CORES = 30_000, 64


def fuzz(content):
    rows = [[r["kind"], r.get("accepted", 0), r["refused"], r["seconds"], r["MiB"]] for r in content["rows"]]
    cases = sum(r[1] + r[2] for r in rows) + len(content["bad"])
    return "\n\n".join(
        [
            "## Damaged files",
            f"`python benchmarks/fuzz.py --cases 10000 --seed {content['seed']}`: {cases} cases, {len(content['bad'])} "
            "bad. *refused*: one error that names the file. Longest time and most memory of a case.",
            table(["file", "read", "refused", "s", "MiB"], rows),
        ]
    )


def trees(content):
    codes = sorted({code for row in content["rows"] for code in row["exit codes"]}, key=int)
    rows = [[r["command"], r["trees"], *(r["exit codes"].get(c, 0) for c in codes)] for r in content["rows"]]
    number = sum(r["trees"] for r in content["rows"])
    layouts = ", ".join(f"{count} {name}" for name, count in content["layouts"].items())
    return "\n\n".join(
        [
            "## Odd data sets",
            f"`python benchmarks/fuzz.py --trees {number} --seed {content['seed']}`: {number} data sets through "
            f"commands, {len(content['bad'])} bad. Layouts: {layouts}. Longest time of the processor: "
            f"{content['seconds']} s. How often each exit code came out:",
            table(["command", "data sets", *codes], rows),
        ]
    )


def faults(content):
    words = {"fake": "without voxels", "real": "harmonized"}
    columns = ("before", "kind", "calls", "every", "faults")
    rows = [
        [words[r["work"]], *(r[c] for c in columns), *(r["exit codes"].get(c, 0) for c in "01")]
        for r in content["rows"]
    ]
    total = sum(r["faults"] for r in content["rows"])
    head = ["scans", "in the folder before", "error", "calls", "every n-th", "faults", "exit code 0", "exit code 1"]
    return "\n\n".join(
        [
            "## A disk that fails once",
            f"`python benchmarks/faults.py`: {total} runs of `bids` over two scans, each with one call that fails, "
            f"{len(content['bad'])} bad. {content.get('note', '')} *calls*: of one run without a fault. "
            "*every n-th*: which of them failed, one after another. *short*: half a write. Exit code 0: the run did "
            "without the call; 1: it ended with a message. After each, "
            "the same command without a fault gave the bytes of a run that had met none.",
            table(head, rows),
        ]
    )


def bias_field(content):
    """A row for each estimator: made-up heads whose field is known, and real ones with a known field added."""
    heads, scans = content["labels"].values(), content["scans"].values()
    rows = []
    for name in next(iter(heads)):
        errors = [head[name]["error"] for head in heads]
        added = [scan[name]["consistent"] for scan in scans]
        seconds = [found[name]["seconds"] for found in (*heads, *scans)]
        rows.append([name, *(f"{x:.4f}" for x in (np.mean(errors), max(errors), np.mean(added), max(added)))])
        rows[-1].append(f"{np.mean(seconds):.2f}")
    return "\n\n".join(
        [
            "## The bias field",
            f"`python benchmarks/bias_field.py`: {len(heads)} heads made of manual labels in five contrasts "
            "(gray/white 0.55 to 0.85, gamma 0.7 to 1.5) with noise, each times a known smooth field of spread 0.25; "
            f"and the same field added to {len(scans)} real scans, where only the difference of the two fields that "
            "are found can be compared with it. Root mean square error of the field's logarithm in the brain, lower is "
            "better. The made-up heads have three levels and nothing between, which is easier than a real one. "
            "*n4-itk*: N4 as ITK has it; *n4*: our own on clean cells; *entropy*: what `train` uses.",
            table(["estimator", "error, mean", "worst", "added field, mean error", "worst", "processor s"], rows),
        ]
    )


def cohort(content):
    runs = content["runs"]
    rows = [
        [
            r["processes"],
            r["cores"],
            r["wall_s"],
            r["scans_an_hour"],
            f"{r['scans_an_hour'] / runs[0]['scans_an_hour']:.2f}",
            r["second_run_s"],
            r["most_memory_of_a_process_gb"],
            "yes" if r["same_bytes"] else "**no**",
        ]
        for r in runs
    ]
    columns = ["processes", "cores", "s", "scans an hour", "ratio", "s, nothing to do", "GB a process", "same bytes"]
    return "\n\n".join(
        [
            "## Throughput",
            f"`python benchmarks/cohort.py`: {content['scans']} whole heads of one scanner, fitted together. Load of "
            f"the machine before and after: {', '.join(f'{load:.1f}' for load in content['load_before_and_after'])}.",
            table(columns, rows),
            plan(runs[0]),
        ]
    )


def plan(run):
    hours = _MANY / run["scans_an_hour"]
    rows = [
        ["core hours", f"{hours:,.0f}"],
        [
            f"days on {_CORES} cores, if they scale as workers that share nothing but the disk",
            f"{hours / _CORES / 24:.1f}",
        ],
        ["memory of such a machine, GB", f"{_CORES * run['most_memory_of_a_process_gb']:.0f}"],
        ["results, GB", f"{_MANY * run['results_mb_a_scan'] / 1000:,.0f}"],
        ["records, GB", f"{_MANY * run['records_kb_a_scan'] / 1e6:.1f}"],
    ]
    return f"## {_MANY:,} scans, reckoned from one process on one core\n\n" + table(["what", "how much"], rows)


def thousands(content):
    """A column for each size."""
    rows = content["rows"]
    spent = [row.get("processor_s", row.get("seconds")) for row in rows]
    sizes = [f"{row['scans']:,}" + ("" if "processor_s" in row else " *") for row in rows]
    lines = [[f"{step}, s", *(f"{s[step]:.3g}" if step in s else "" for s in spent)] for step in spent[0]]
    lines.append(
        ["of the run, ms a scan", *(f"{1e3 * s['run'] / r['scans']:.1f}" for s, r in zip(spent, rows, strict=True))]
    )
    for words, name in (
        ("most memory, MB", "memory_mb"),
        ("files of results", "result_files"),
        ("files of records", "record_files"),
        ("folders", "folders"),
        ("records, kB a scan", "records_kb_a_scan"),
        ("`cohort.html`, kB", "page_kb"),
        ("its first picture in Chromium, s", "first_paint_s"),
        ("its whole list, s", "list_ready_s"),
    ):
        if all(name in r for r in rows):
            lines.append([words, *(f"{r[name]:,}" for r in rows)])
    return "\n\n".join(
        [
            "## Three scans to thirty thousand, without their computing",
            "`python benchmarks/thousands.py`: data set, plan, records, engine, table and page are real, the work is "
            "made up; one process. Every fifth scan goes alone, the others are of four scanners; every hundredth "
            f"fails. Seconds are the processor's. {content['note'] + ' ' if 'note' in content else ''}Files lie on "
            f"{'a disk in memory' if content['disk'] == 'in memory' else 'a disk'}: a real one "
            "adds four `fsync` a scan. Most of the memory is torch, which the page needs for one limit. The seconds of "
            "Chromium go by the clock, which other work stretches: load "
            f"{', '.join(f'{load:.1f}' for load in content['load_before_and_after'])} on two cores. Version 0.1, "
            "at 30,000: 8 s for a job with nothing to do, 0.75 s more in each for the plan, one job after another, a "
            "page of 33 MB, and 106 kB of sidecar a grouped scan.",
            table(["scans", *sizes], lines),
        ]
    )


def jobs(content):
    """What became of jobs that were ended, and of the results."""
    words = {
        "0": "ended well",
        "1": "refused beside their doubles",
        "130": "SIGTERM",
        "-9": "killed",
        "-15": "SIGTERM",
    }

    def told(ended):
        counts = Counter()
        for code, count in ended["exit codes"].items():
            counts[words.get(code, f"exit code {code}")] += count
        return f"{ended['jobs']}: " + ", ".join(f"{count} {word}" for word, count in counts.items())

    lines = [
        [
            row["disk"],
            "; ".join(told(ended) for ended in row["rounds"]),
            ", ".join(f"{count} {state}" for state, count in row["scans"].items()),
            row["images that are not as undisturbed"],
            f"{row['left by those that were killed']} → {row['left after the next run']}",
        ]
        for row in content["rows"]
    ]
    return "\n\n".join(
        [
            "## Jobs on one folder, killed and started again",
            f"`python benchmarks/jobs.py`: {content['people']} jobs of an array and ten doubles start at the same "
            "time; real scans of 6 mm, a small target. Jobs whose turn it is to compute are ended at a moment drawn by "
            "chance, and what has not ended well is started again, in rounds.",
            table(["disk", "jobs of each round", "scans", "images that differ", "unfinished files, then"], lines),
        ]
    )


def bill(content):
    """What was said before, and what it was."""
    cost, truth = content["estimate"], content["truth"]
    rows = [
        ["hours of a core", f"{cost['core_hours']:.3f}", f"{truth['worker_s'] / 3600:.3f}"],
        ["hours of one process by the clock", f"{cost['process_hours']:.3f}", f"{truth['hours']:.3f}"],
        ["memory of a process, GB", f"{cost['memory_gb']:.2f}", f"{truth['memory_gb']:.2f}"],
        ["results, GB", f"{cost['results_gb']:.3f}", f"{truth['results_gb']:.3f}"],
        ["records, MB", f"{1e3 * cost['records_gb']:.2f}", f"{1e3 * truth['records_gb']:.2f}"],
        ["files", cost["files"], truth["files"]],
    ]
    made = f" This estimate was made {content['estimate_made']}." if "estimate_made" in content else ""
    return "\n\n".join(
        [
            "## The bill before and after",
            f"`python benchmarks/bill.py`: what `bids --estimate` said of {cost['scans']} scans of one scanner after "
            f"harmonizing {cost['measured']['scans']} of them, and what the run took. Load of the machine before and "
            f"after: {', '.join(f'{load:.1f}' for load in content['load_before_and_after'])}; hours by the clock "
            f"depend on it, hours of a core hardly do.{made} The run itself, beside its workers, took "
            f"{100 * truth['own_s'] / (truth['own_s'] + truth['worker_s']):.1f} % of the processor time.",
            table(["what", "said before", "was"], rows),
        ]
    )


def speed(content):
    """Processor seconds of each step, before → after where an older version was measured too."""
    rows = {}
    for row in content["rows"]:
        rows.setdefault(row["case"], {})[row["version"]] = row
    steps = list(dict.fromkeys(step for row in content["rows"] for step in row["steps"]))
    columns, lines = ["case", *steps, "s that went by", "MiB"], []
    for case, versions in rows.items():
        order = [versions[v] for v in ("before", "after") if v in versions]
        cells = [" → ".join(f"{row['steps'].get(step, [0])[0]:.1f}" for row in order) for step in steps]
        wall = " → ".join(f"{row['steps']['all'][1]:.0f}" for row in order)
        scans = f" ({order[0]['scans']} scans)" if order[0]["scans"] > 1 else ""
        lines.append([case + scans, *cells, wall, " → ".join(str(row["MiB"]) for row in order)])
    return "\n\n".join(
        [
            "## What each step costs",
            "`python benchmarks/speed.py`: seconds of processor, version 0.1 → now, each case in a Python of its own, "
            f"with OMP_NUM_THREADS={content['threads'] or 'unset'} on {content['cores']} cores; *fine* is a head of "
            f"0.7 mm. Other work shared the machine (load {content['load']:.0f}), which stretches the seconds "
            "that went by, and processor seconds a little. Both versions of a case were run one after the other, but "
            "for *group* and *training*, whose version 0.1 is of an earlier run. Some steps contain others, so *all* "
            "is not their sum. "
            "[Function by function](measured.md#time-and-memory): a picture by `python benchmarks/flame.py`.",
            table(columns, lines),
        ]
    )


def main():
    folder = Path(sys.argv[1])
    parts = [_HEAD.strip()]
    tables = (
        ("fuzz", fuzz),
        ("trees", trees),
        ("faults", faults),
        ("speed", speed),
        ("bias_field", bias_field),
        ("cohort", cohort),
        ("bill", bill),
        ("thousands", thousands),
        ("jobs", jobs),
    )
    for name, part in tables:
        file = folder / f"measured_{name}.json"
        if file.exists():
            parts.append(part(json.loads(file.read_text())))
    (folder / "measured_study.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
