"""The tables of docs/measured_harmonization.md, made from the JSON files that the benchmarks wrote.

python benchmarks/tables.py docs/
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from blindharmony.models.file import load_target
from blindharmony_benchmark.results import sign_flip

_HEAD = """# Harmonization, measured

Made by `python benchmarks/tables.py docs/` from the files beside it; nothing here is typed by hand. Targets were
trained on training subjects only; all figures are of test subjects, or of people left out of the model. PSNR in dB
inside the brain, against the prepared scan, data range its 99th percentile; mean over subjects / worst subject. Every
source and every system: [measured_evidence.md](measured_evidence.md).
"""

_OLD = "The parts below are of version 0.1, its models and settings; they were not measured again."

_OURS = ("curve", "curve-unrefined", "group", "group-unrefined")
_TAUGHT = ("deepharmony", "cyclegan", "style-gan", "target-unet", "harmonizing-flows")


def table(header, rows):
    """A markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def cell(found):
    return f"{found['psnr']:.1f} / {found['worst']:.1f}"


def aims(read):
    """What was aimed at with today's model, and what came out, from the records of the other pages."""
    rows, target = [], load_target("ds002748")
    peak = float(target.quantiles[:, np.searchsorted(target.levels, 0.99)].mean())

    def line(aim, found, met):
        rows.append([aim, re.sub(r"(?<!\w)-(?=[.\d])", "−", found), "yes" if met else "**no**"])

    def decibels(error):
        return float(20 * np.log10(peak / error))

    studies = read("folds")["studies"]
    own = np.array(studies["ds002748"]["sizes"]["1"]["as they are"]["this package"]["errors"])
    line("the target's own people, one scan: ≥ 44 dB", f"{decibels(own.mean()):.1f}", decibels(own.mean()) >= 44)
    known = read("smooth")[target.info.name]["rows"]
    for size, least, worst in (("1", decibels(0.0095), 36), ("4", 48, 43), ("8", 50, 43)):
        words = "one scan" if size == "1" else f"a group of {size}"
        through = [
            v for k, v in known.items() if k.startswith(f"{size}, ") and k.endswith("smooth") and "none" not in k
        ]
        mean, low = float(np.mean([m for m, _ in through])), min(w for _, w in through)
        aim = f"people through {len(through)} increasing intensity curves, {words}: ≥ {least:.1f} dB, worst ≥ {worst}"
        line(aim, f"{mean:.1f} / {low:.1f}", mean >= least and low >= worst)
        for study, content in studies.items():
            errors = np.array(content["sizes"][size]["other scanners"]["this package"]["errors"])
            mean, low = decibels(errors.mean()), decibels(errors.max())
            aim = f"the same through random scanners, tissue contrast too (more than was aimed at), {words}, `{study}`"
            line(aim, f"{mean:.1f} / {low:.1f} (error {errors.mean():.4f})", mean >= least and low >= worst)
    lost = [
        f"{source}, {size} ({study})"
        for study, content in studies.items()
        for size, sources in content["sizes"].items()
        for source, systems in sources.items()
        if _surely_worse(*(np.array(systems[s]["errors"]) for s in ("this package", "pooled match")))
    ]
    cells = sum(len(sources) for content in studies.values() for sources in content["sizes"].values())
    words = f"in {len(lost)} of {cells} cells worse with p < .05, not corrected"
    line("at no size and distance worse than pooled matching", words, not lost)
    for size, least in (("1", 0.8), ("8", 0.98)):
        kept = [content["sizes"][size]["other scanners"]["this package"]["kept"] for content in studies.values()]
        words = "one scan" if size == "1" else f"a group of {size}"
        aim = f"differences between people kept through random scanners, {words}: ≥ {least}"
        line(aim, ", ".join(f"{k:.2f} (`{study}`)" for k, study in zip(kept, studies, strict=True)), min(kept) >= least)
    scanners = {(r["source"], r["system"]): r for r in read("evidence_ds002748_sites12")["rows"]}
    for system, words, least in (("curve", "one scan", 2), ("group", "a group of 8", 3)):
        row = scanners["near real sites", system]
        gain, low, high = (row[f"over_rival{end}"] for end in ("", "_low", "_high"))
        aim = f"twelve scanners simulated after real sites, {words}: best rival + {least} dB"
        line(aim, f"{gain:+.1f} [{low:.1f}, {high:.1f}] over `{row['rival']}`", gain >= least)
    told = read("score")["left out"]["random scanners"]
    line(
        "the flow's score, as further features, makes the expected curve nearer through random scanners (p < .05)",
        f"error {told['ranks']:.4f} → {told['score']:.4f}, p {told['p']:.2f}; not used",
        told["score"] < told["ranks"] and told["p"] < 0.05,
    )
    rows += _recovered(read)
    for row in read("evidence_ds002748_real")["rows"]:
        if row["system"] == "curve":
            aim = f"real `{row['source']}`, one scan: tissue intensities nearer to the target's people than by matching"
            gap, low, high = (row[f"over_baseline{end}"] for end in ("", "_low", "_high"))
            line(aim, f"{gap:+.3f} [{low:.3f}, {high:.3f}] (negative is nearer)", gap <= 0)
            aim = f"real `{row['source']}`, one scan: sharpness within 1 SD of the target's people"
            line(aim, f"{row['width']:+.1f} SD", abs(row["width"]) <= 1)
    bars = read("bars")
    covered = {
        f"{size if size != 'voxels' else 'voxels before refinement'} (`{study}`)": case["shared"]
        for study, content in bars["studies"].items()
        for size, case in content["sizes"].items()
    }
    covered |= {f"voxels (`{study}`)": case["random scanners"] for study, case in bars["refined"].items()}
    off = [name for name, c in covered.items() if not (0.63 <= c["68"] <= 0.73 and 0.92 <= c["95"] <= 0.98)]
    words = f"{len(covered) - len(off)} of {len(covered)}; not: {', '.join(off)}" if off else "all"
    line("error bars of people, groups of 2 to 16 and voxels cover 63 to 73 % and 92 to 98 %", words, not off)
    places = read("places")
    alarms = sum(bool(scan["alarm"]) for scan in places["healthy"])
    scans = len(places["healthy"])
    line("healthy scans with a false alarm of a place: ≤ 5 %", f"{alarms} of {scans}", alarms <= 0.05 * scans)
    changes = [row["change (%)"] for row in read("lesions")["rows"] if not row["lesion mask given"]]
    words = ", ".join(f"{change:+.1f} %" for change in changes)
    aim = "contrast of the lesions of two patients, four scans: within 10 % of what it was"
    line(aim, words, max(map(abs, changes)) <= 10)
    words = (
        f"Model `{target.digest}`, and folds over people with everything learned in the fold. dB: beside the "
        f"brightest hundredth of the target's brains ({peak:.2f} flow units). What version 0.1 aimed at and reached "
        "stands in its own release."
    )
    return "\n\n".join(["## Aims and what was reached", words, table(["aim", "measured", "met"], rows)])


def _surely_worse(ours, theirs):
    gap = ours - theirs
    return gap.mean() > 0 and sign_flip(gap) < 0.05


def _recovered(read):
    """How much of what a segmenter of the target loses comes back, on real scans at least as much as by matching."""
    rows = []
    found = {(r["source"], r["system"]): r["dice"] for r in read("evidence_ds002748_segmentation")["rows"]}
    own = found["none", "nothing"]
    for source in dict.fromkeys(source for source, _ in found if source != "none"):
        lost = own - found[source, "nothing"]
        if lost <= 0 or source.startswith("site"):
            continue
        back = {s: (found[source, s] - found[source, "nothing"]) / lost for s in ("curve", "group", "n4-match")}
        real = source != "near real sites"
        met = back["curve"] >= 0.6 and not (real and back["curve"] < back["n4-match"])
        where = f"real `{source}`" if real else "four scanners near real sites"
        aim = f"white-matter Dice that a U-Net of the target loses through {where}: ≥ 60 % comes back"
        aim += ", and as much as by matching" if real else ""
        shown = ", in a group ".join(f"{100 * back[s]:.0f} %" for s in ("curve", "group"))
        rows.append([aim, f"{shown}; matching {100 * back['n4-match']:.0f} %", "yes" if met else "**no**"])
    return rows


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


def score(content):
    """What the flow's score would add to ranks."""
    rows = []
    new = content["new"]
    for who, name, found in (
        *(
            (f"{content['teachers']} people left out", k, v)
            for k, v in content["left out"].items()
            if "groups" not in k
        ),
        *((f"{new['as they are']['people']} people never seen", k, v) for k, v in new.items()),
    ):
        gap = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*found["difference"]).replace("-", "−")
        group = found.get("group")
        if group is None and name == "as they are":
            group = content["left out"]["groups as they are"]
        rows.append(
            [
                who,
                "all sites" if name == "all of them" else name,
                f"{found['ranks']:.4f} / {found['worst ranks']:.4f}",
                f"{found['score']:.4f} / {found['worst score']:.4f}",
                gap,
                f"{found['p']:.3f}",
                f"{found['better']} of {found['people']}",
                "{:.4f} → {:.4f}".format(*group) if group else "",
            ]
        )
    header = ["people", "seen", "ranks", "ranks and score", "difference", "p", "better for", "groups of 8"]
    return "\n\n".join(
        [
            "## What the flow's score would contribute",
            "`python benchmarks/score.py`: the derivatives of the flow's log-density (details of 2 and 4 mm) by the "
            "intensities of the matched scan, as further features of the person model; flows that never saw the person "
            "are asked. Each cell: root mean square error of the expected quantile curve over people (flow units) / "
            "worst person; lower is better. Difference: mean over people [95 %, BCa], negative is better; p: "
            "Wilcoxon, not corrected. *Left out*: of the regression as it is; the flows of half of the others did "
            "see them, and levels were chosen on them. *Never seen*: as the program asks, nearer to the mean curve "
            "where features leave much open, with the mean of two flows, which is less noisy than what the "
            "regression was taught with. Groups: error of the plain mean of eight curves through one scanner (left "
            "out: drawn at random, as they are), ranks → ranks and score. The flow is not used in this way: "
            "[why](concepts/harmonization.md#what-the-flow-does).",
            table(header, rows),
        ]
    )


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
    parts = [_HEAD.strip(), aims(read), score(read("score")), smooth(read("smooth")), _OLD]
    parts += [limits(read("limits"), evidence), people(known), latent(iteration)]
    (folder / "measured_harmonization.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
