"""The tables of docs/measured_harmonization.md, made from the JSON files that the benchmarks wrote.

python benchmarks/tables.py docs/
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from blindharmony_benchmark.scanners import HARD

_HEAD = """# Harmonization, measured

Made by `python benchmarks/tables.py docs/` from the files beside it; nothing here is typed by hand. Targets were
trained on training subjects only; all figures are of test subjects, or of people left out of the model. PSNR in dB
inside the brain, against the prepared scan, data range its 99th percentile; mean over subjects / worst subject. Every
source and every system: [measured_evidence.md](measured_evidence.md).
"""

_OURS = ("curve", "curve-unrefined", "group", "group-unrefined")
_RIVALS = ("match", "nyul", "n4-match")
_TAUGHT = ("deepharmony", "cyclegan", "style-gan", "target-unet", "harmonizing-flows")


def table(header, rows):
    """A markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def cell(found):
    return f"{found['psnr']:.1f} / {found['worst']:.1f}"


def aims(evidence, people, latent):
    """What was aimed at, what came out; a source that was not run has no row."""
    rows = []

    def line(aim, name, found, met):
        rows.append([aim, name, found, "yes" if met else "**no**"])

    for name, content in evidence.items():
        found = {(r["source"], r["system"]): r for r in content["rows"] if r["leg"] == "simulated"}
        paper = "paper's eight" if ("exp", "curve") in found else "gamma1.5"
        for system, aim, mean, worst in (("curve", "one scan", 41, 34), ("group", "a group", 47, 43)):
            own = found[paper, system]
            aim = f"{aim}, {paper}: ≥ {mean}, worst ≥ {worst}"
            got = f"{own['psnr']:.1f} / {own['psnr_worst']:.1f}"
            line(aim, name, got, own["psnr"] >= mean and own["psnr_worst"] >= worst)
        kept = found[paper, "group"]["people"]
        line("a group, differences between people: ≥ 0.9", name, f"{kept:.2f}", kept >= 0.9)
        for source in (*HARD, "raw gamma1.5"):
            if (source, "curve") in found:
                gains = []
                for system in ("curve", "group"):
                    best = max(found[source, r]["psnr"] for r in _RIVALS)
                    gains.append(found[source, system]["psnr"] - best)
                got = f"{gains[0]:+.1f}, in a group {gains[1]:+.1f}"
                line(f"{source}: best of matching, Nyúl, N4 + matching, + 3", name, got, gains[0] >= 3)
        for system, aim in (("curve", "one scan"), ("group", "a group")):
            own = found["none", system]
            got = f"{own['psnr']:.1f} / {own['psnr_worst']:.1f}"
            line(f"the target's own unseen scans, {aim}: ≥ 42", name, got, own["psnr"] >= 42)
        ours = [r for (s, m), r in found.items() if m in _OURS and s in (*HARD, "gamma1.5")]
        order = float(np.median([r["order"] for r in ours]))
        line("local order kept, median over sources: ≥ 0.98", name, f"{order:.4f}", order >= 0.98)
        far = max(ours, key=lambda r: r["edges"] - r["truth_edges"])
        line(
            "edges that neither source nor, at that rate, truth has, worst source: < 0.5 %",
            name,
            f"{far['edges']:.2f} %, truth {far['truth_edges']:.2f} %",
            far["edges"] - far["truth_edges"] < 0.5,
        )
    heads, pair = people["old heads"], people["pair"]
    ours = heads["curve"]["psnr"] - heads["match"]["psnr"]
    line("heads unlike the target's: matching + 6", "oasis", f"{ours:+.1f}", ours >= 6)
    for aim, measure, sign in (("", "psnr", 1), (", in units of their own spread", "relative", -1)):
        before, after = pair["before"][measure], pair["group: curve"][measure]
        line(f"one person twice: not farther apart{aim}", "oasis", f"{before} → {after}", sign * (after - before) >= 0)
    times = {name: row["seconds"] for name, row in latent["rows"].items()}
    faster = 10 * times["one turn of ten at published size"] / times["curve"]
    line("faster than the published iteration at its size: ≥ 30 times", "ds002748", f"{faster:.0f} times", faster >= 30)
    models = " and ".join(f"`{content['target']['digest']}`" for content in evidence.values())
    words = f"All rows are of version 0.1's models ({models}); today's: [measured_evidence.md](measured_evidence.md)."
    return "\n\n".join(["## Aims and what was reached", words, table(["aim", "target", "measured", "met"], rows)])


def limits(content, evidence):
    rows = []
    for name, sources in content.items():
        found = {(r["source"], r["system"]): r for r in evidence[name]["rows"] if r["leg"] == "simulated"}
        for source, best in sources.items():
            if (source, "curve") in found:
                psnr = {s: r["psnr"] for (where, s), r in found.items() if where == source}
                blind = {s: v for s, v in psnr.items() if s not in (*_OURS, *_TAUGHT)}
                rival = max(blind, key=blind.get)
                ours = [f"{psnr[s]:.1f}" for s in ("curve", "group")]
                rows.append([source, name, *ours, f"{blind[rival]:.1f} {rival}", *map(cell, best.values())])
    return "\n\n".join(
        [
            "## What could be reached",
            "`python benchmarks/limits.py`: the best increasing curve, and the best function of a voxel and the means "
            "around it (1 and 3 mm), fitted to the truth of every scan. The first is a bound for whoever gives a scan "
            "one curve after the same preparation; the second a guide to what its neighbourhood adds. Ours passes the "
            "first by refinement, and from raw scans by finding the bias field again.",
            table(["source", "target", "one scan", "a group", "best blind rival", "best curve", "best around"], rows),
        ]
    )


def people(content):
    rows = [[m, cell(v)] for m, v in content["old heads"].items()]
    pair = [[m, v["psnr"], v["relative"], v["curves"]] for m, v in content["pair"].items()]
    return "\n\n".join(
        [
            f"## Old heads, young target (`oasis`: {content['young']} under 40, {content['old']} over 50, gamma 1.5)",
            "`python benchmarks/people.py`.",
            table(["method", "PSNR"], rows),
            "## One person scanned twice",
            "`python benchmarks/people.py`. Between the two scans: PSNR, root mean square difference in units of their "
            "spread (*relative*: adding contrast makes no difference there), and that of their quantile curves (flow "
            "units).",
            table(["method", "PSNR", "relative", "curves"], pair),
        ]
    )


def persons(content):
    parts = [
        "## People left out",
        "`python benchmarks/persons.py`: groups drawn from a target's own scans and left out of the person model, root "
        "mean square errors in flow units (white matter is about 1.4). *group*: the group's mean curve, which the "
        "scanner is fitted to; heads of which more is known count more, or (*equal*) all the same. *mean curve*: "
        "everybody else's mean, which histogram matching uses. *alike*: a model that lets all versions of a head speak "
        "for every scan.",
    ]
    for name, found in content.items():
        told, alike = found["versions told apart"], found["versions all alike"]
        rows = [
            [
                case,
                *(
                    f"{v[k]:.4f}"
                    for v, k in ((told[case], "one"), (alike[case], "one"), (told[case], "mean curve, one"))
                ),
                *(f"{told[case][k]:.4f}" for k in ("group", "group, equal weights")),
                *(f"{v[k]:.4f}" for v, k in ((alike[case], "group"), (told[case], "mean curve, group"))),
            ]
            for case in told
        ]
        header = ["people, scans", "one", "one, alike", "one, mean curve"]
        header += ["group", "group, equal", "group, alike", "group, mean curve"]
        parts.append(f"`{name}`, {found['scans']} people:\n\n" + table(header, rows))
    return "\n\n".join(parts)


def smooth(content):
    parts = [
        "## Smooth scanners",
        "`python benchmarks/smooth.py`: people left out of the person model, put through known curves; the scanner "
        "fitted as their expected intensities ask, all heads alike (*plain*), and as the program does it: heads of "
        "which more is known count more, and a parabola in logarithms where it fits (*smooth*). PSNR in dB.",
    ]
    for name, found in content.items():
        cases = dict.fromkeys(tuple(k.split(", ")[:2]) for k in found["rows"])
        rows = [
            [n, s, *("{:.1f} / {:.1f}".format(*found["rows"][f"{n}, {s}, {k}"]) for k in ("plain", "smooth"))]
            for n, s in cases
        ]
        parts.append(f"`{name}`:\n\n" + table(["people together", "scanner", "plain", "smooth"], rows))
    return "\n\n".join(parts)


def latent(content):
    columns = {"psnr": "PSNR", "slices": "single slices", "best": "best turn", "turn": "which", "z2": "‖z‖² a value"}
    known = {k: v for k, v in columns.items() if any(k in row for row in content["rows"].values())}

    def shown(row, key):
        digits = {"turn": 0, "z2": 2}.get(key, 1)
        return "–" if row.get(key) is None else f"{row[key]:.{digits}f}"

    rows = [[name, *(shown(row, k) for k in (*known, "seconds"))] for name, row in content["rows"].items()]
    scans = "one test scan" if len(content["subjects"]) == 1 else f"{len(content['subjects'])} test scans"
    turns = (
        " PSNR of the volume after the last turn, mean PSNR of its slices, the volume's after the turn where it is "
        "highest, and which that is; ‖z‖² a value in the first turn would be 1 for an image of the target's. *One "
        "scale*: that of the flow, where the paper stretches each slice."
    )
    return "\n\n".join(
        [
            "## The published iteration and its ablation",
            f"`python benchmarks/latent.py`: {scans} of `ds002748` through {content['domain']}; seconds a scan on a "
            "core that other programs used too, preparation not counted (–: not known, the machine was paused). "
            "*identity*: the flow replaced by nothing, which costs the iteration little. The last row is one turn of "
            f"ten with a flow of the published size, untrained: only its cost is true.{turns if 'z2' in known else ''}",
            table(["method", *known.values(), "s a scan"], rows),
        ]
    )


def main():
    folder = Path(sys.argv[1])

    def read(name):
        return json.loads((folder / f"measured_{name}.json").read_text())

    evidence = {name: read(f"evidence_{name}") for name in ("ds002748", "oasis")}
    known, iteration = read("people"), read("latent")
    parts = [_HEAD.strip(), aims(evidence, known, iteration), limits(read("limits"), evidence)]
    parts += [persons(read("persons")), smooth(read("smooth")), people(known), latent(iteration)]
    (folder / "measured_harmonization.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
