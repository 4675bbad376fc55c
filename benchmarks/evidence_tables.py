"""docs/measured_evidence.md, made from the results.json of benchmarks that were kept beside it.

python benchmarks/evidence_tables.py docs/
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import bootstrap, spearmanr

from blindharmony.models.file import load_target
from blindharmony_benchmark.report import TITLES, document, table
from blindharmony_benchmark.results import interval, sign_flip
from blindharmony_benchmark.scanners import near_real_site
from blindharmony_benchmark.simulation.sites import WITHOUT

mpl.use("Agg")
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "evidence"})

_HEAD = """# Evidence, measured

Made by `python benchmarks/evidence_tables.py docs/` from the `measured_evidence_*.json` beside it, each the
`results.json` of a `blindharmony benchmark`; nothing here is typed by hand. What the legs and the systems are:
[evidence.md](evidence.md). Targets were trained on training subjects only; all figures are of test subjects. Each part
names its model; the included one is `{included}`, with today's defaults. In names and notes "n4" is the bias field of
the target's own recipe, for all systems alike: least entropy in this model, N4 in older ones. Rows `curve` and `group`
are without *do no harm*, which by default returns a scan that is not brought nearer to the target. In parts of older
models these two rows were made with that model, and other systems' rows of simulated scanners and segmentation with
earlier ones, of which they see the quantile curves alone: those are the same to the byte. `fourier-adaptation` was
called spectrum analysis by version 0.1. Each part says how many minutes of a core its
networks were trained. The published iteration (`latent-published`) was run for one scanner, on one core. Seconds a
scan of `curve` and `group` were taken on a machine shared with other work: two to four times what they are alone."""


def longer(content):
    keys = ("source", "system", "where", "steps", "seconds", "psnr", "worst")
    rows = [f"| {' | '.join(str(r[k]) for k in keys)} |" for r in content["rows"]]
    head = ["source", "system", "trained on", "steps", "seconds", "PSNR", "worst scan"]
    return "\n".join(
        [
            "# What trained systems gain from more training",
            "",
            "`benchmarks/longer.py`: `oasis`, the same scans, systems and seed, networks trained on a busy core and on "
            "a graphics card (NVIDIA H200). With pairs there was much to gain; without them three times the steps "
            "brought no network near to a curve.",
            "",
            f"| {' | '.join(head)} |",
            f"|{'---|' * len(head)}",
            *rows,
        ]
    )


def reachable(record, content):
    """What one curve, and one curve for each tissue, could reach at best, beside what was reached."""
    lines, gaps = [], {"curve": [], "group": []}
    for source, best in record[content["target"]["set"]].items():
        rows = {r["system"]: r["psnr"] for r in content["rows"] if r["leg"] == "simulated" and r["source"] == source}
        cells = [rows["n4-match"], *(rows[system] for system in gaps), *(b["psnr"] for b in best.values())]
        lines.append([source, *(f"{cell:.1f}" for cell in cells)])
        for system, gap in gaps.items():
            ours = [r["psnr"] for r in content["scans"] if r["source"] == source and r["system"] == system]
            gap.append(np.subtract(ours, best["curve"]["scans"]))  # both in the order of the test people
    words = (
        "`python benchmarks/limits.py --tissues`, fitted to the truth of every scan: the best increasing curve, the "
        "best curve for each tissue after it (tissues as the tissue network sees them in the scan), and the best "
        "function of a voxel and of the means around it (1 and 3 mm). The first two are bounds for methods of their "
        "kind that leave noise and blur as they are; the third is a guide."
    )
    said = []
    for name, gap in zip(("one scan", "a group"), gaps.values(), strict=True):
        each = np.mean(gap, 0)
        low, high = interval(each)
        said.append(f"{name} {each.mean():+.1f} dB [{low:+.1f}, {high:+.1f}] (p {sign_flip(each):.2g})")
    over = f"Over the best increasing curve, mean over these scanners: {', '.join(said)}.".replace("-", "−")
    head = ["source", "n4-match", "one scan", "a group", "best curve", "best curve for each tissue", "best around"]
    return "\n\n".join(["### Distance from the limit", words, table(head, lines), over])


def _signed(value, digits=1):
    return f"{value:+.{digits}f}".replace("-", "−")


def by_scanner(content):
    """Ours beside the best other system of every scanner; the scanners, not the people, are drawn from many."""
    lines, gaps = [], {}
    for source in filter(near_real_site, dict.fromkeys(r["source"] for r in content["rows"])):
        psnr = {r["system"]: r["psnr"] for r in content["rows"] if r["leg"] == "simulated" and r["source"] == source}
        others = {s: v for s, v in psnr.items() if not s.startswith(("curve", "group")) and s != "match-refined"}
        best = max(others, key=others.__getitem__)
        for name, system in (("one scan", "curve"), ("a group", "group")):
            for what, other in (("matching", "n4-match"), ("the best other", best)):
                gaps.setdefault(f"{name} minus {what}", []).append(psnr[system] - psnr[other])
        cells = (f"{psnr[system]:.1f}" for system in ("n4-match", "curve", "group", best))
        lines.append([source, *cells, best])
    said = []
    for name, gap in gaps.items():
        low, high = interval(np.array(gap))
        mean, low, high, least, most = map(_signed, (np.mean(gap), low, high, min(gap), max(gap)))
        said.append(f"{name} {mean} dB [{low}, {high}] (p {sign_flip(np.array(gap)):.2g}; {least} to {most})")
    words = (
        "Means over people at every scanner. *Best other*: the other system that is best *at that scanner*, which "
        f"nobody can know beforehand. Mean over the {len(lines)} scanners; interval and p are over scanners, not "
        "people, and tell of scanners drawn like these: "
    )
    head = ["scanner", "n4-match", "one scan", "a group", "best other", "which"]
    return "\n\n".join(["### Scanner by scanner", words + "; ".join(said) + ".", table(head, lines)])


def of_twelve(content):
    """The means over all scanners of the systems that ran on every one of them."""
    lines = []
    for row in (r for r in content["rows"] if r["source"] == "near real sites"):
        cells = [row["system"], f"{row['psnr']:.1f} [{row['psnr_low']:.1f}, {row['psnr_high']:.1f}]"]
        for against in ("baseline", "rival"):
            if row.get(f"over_{against}_low") is None:
                cells.append("–")
                continue
            gap, low, high = (_signed(row[f"over_{against}{end}"]) for end in ("", "_low", "_high"))
            cells.append(f"{gap} [{low}, {high}] (p {row[f'p_{against}']:.2g})")
        lines.append([*cells, f"{row['people']:.2f}".replace("-", "−")])
    words = (
        "The systems of the four scanners above that need no training, as far as they were run, through eight more "
        "scanners drawn in the same way; mean over all twelve, intervals and p over eight people. *The best other*: "
        "the one system that is best in this mean."
    )
    head = ["system", "PSNR [95 %]", "minus n4-match", "minus the best other", "people kept"]
    title = f"## Target `{content['target']['set']}`, twelve scanners near real sites"
    return "\n\n".join([title, f"Model `{content['target']['digest']}`. {words}", table(head, lines)])


def of_parts(record):
    """PSNR of the default through each scanner, and through it without one of its effects."""
    names = {"nothing": "as it is", **{part: f"without {part}" for part in WITHOUT}}
    lines = []
    for domain, rows in record["domains"].items():
        best = [np.mean(rows[part]["curve"]) for part in names]
        plain = [np.mean(rows[part]["curve-unrefined"]) for part in names]
        lines.append([domain, *(f"{a:.1f} ({b:.1f})" for a, b in zip(best, plain, strict=True))])
    words = (
        f"`python benchmarks/parts.py`, model `{record['target']}`, {record['people']} of the test people: PSNR of one "
        "scan harmonized alone, without refinement in brackets, where the scanner lacks one of its effects. What a "
        "column has more than the first is what taking that effect out without a trace would bring."
    )
    return "\n\n".join(["### What of a scanner costs what", words, table(["source", *names.values()], lines)])


def of_ages(record):
    """How the shares of the tissues change with age after each system, beside the manual labels."""
    people = list(record["truth"])
    decades = np.array([record["age"][p] for p in people]) / 10
    lines = []
    for name, found in {"manual labels": record["truth"], **record["systems"]}.items():
        cells = []
        for tissue in ("csf", "grey", "white"):
            share, truth = (100 * np.array([one[p][tissue] for p in people]) for one in (found, record["truth"]))
            slope = _with_interval(_slope, decades, share, "+.2f")
            order = "" if name == "manual labels" else f"; {_with_interval(_order, share, truth, '.2f')}"
            cells.append(f"{slope}{order}".replace("-", "−"))
        lines.append([name, *cells])
    words = (
        f"`python benchmarks/ages.py`, model `{record['target']}`: {len(people)} people of `{record['source']}`, "
        f"{10 * decades.min():.0f} to {10 * decades.max():.0f} years old ({(decades > _OLD).sum()} of them above 44), "
        f"scans as they came and after each system. A U-Net that was taught on people of `{record['set']}` alone (axial"
        " slices) finds the tissues. Told is how much the share of a tissue among the three changes in a decade, in "
        "percentage points [95 %], and whether people keep their order in it: rank correlation with the manual labels "
        "[95 %], 1 is best. The labels count fluid in sulci as gray matter, so that only order and sign of a slope "
        "compare with theirs, and those of fluid best."
    )
    head = ["system", "fluid", "gray matter", "white matter"]
    return "\n\n".join(["### Age", words, table(head, lines)])


_OLD = 4.4  # decades


def _slope(x, y):
    return float(np.polyfit(x, y, 1)[0])


def _order(x, y):
    return float(spearmanr(x, y).statistic)


def _with_interval(statistic, x, y, digits):
    """A statistic of pairs and its bootstrap interval over people."""
    drawn = bootstrap((x, y), statistic, paired=True, vectorized=False, method="BCa", n_resamples=2000, rng=0)
    low, high = drawn.confidence_interval
    return f"{statistic(x, y):{digits}} [{low:{digits}}, {high:{digits}}]"


OURS, THEIRS, SOURCE = "#cc6622", "#2266aa", "#888888"


def figure(content, path):
    """The one figure: what scanners still differ by in one person, against whether people still differ."""
    rows = [r for r in content["rows"] if r["leg"] == "travelers" and r.get("difference") is not None]
    drawn, axes = plt.subplots(figsize=(7.2, 4.6))
    # Names in a column beside the axes, in the order of their points: beside the points they would cover each other.
    rows = sorted(rows, key=lambda row: (row["people"], -row["difference"]))
    for place, row in zip(np.linspace(0.02, 0.98, len(rows)), rows, strict=True):
        name = row["system"]
        color = OURS if name.startswith(("curve", "group")) else SOURCE if name == "nothing" else THEIRS
        x, y = row["difference"], row["people"]
        across = [[x - row["difference_low"]], [row["difference_high"] - x]]
        up = [[max(y - row["people_low"], 0)], [max(row["people_high"] - y, 0)]]
        axes.errorbar(x, y, yerr=up, xerr=across, fmt="o", color=color, lw=0.8, ms=5, alpha=0.85)
        line = {
            "arrowstyle": "-",
            "color": color,
            "lw": 0.5,
            "alpha": 0.6,
            "shrinkA": 2,
            "shrinkB": 3,
            "relpos": (0, 0.5),
        }
        axes.annotate(
            f"{name} ({x:.1f} %, {y:.2f})",
            (x, y),
            (1.03, place),
            textcoords=axes.transAxes,
            fontsize=8,
            color=color,
            va="center",
            arrowprops=line,
        )
    axes.set(
        xlabel="difference between scanners left in the volumes of one person, % (left is better)",
        ylabel="differences between people kept\n(rank correlation with the truth, up is better)",
    )
    axes.set(xscale="log", xlim=(1, 40), xticks=(1, 2, 5, 10, 20, 40), xticklabels=("1", "2", "5", "10", "20", "40"))
    axes.minorticks_off()
    path.parent.mkdir(exist_ok=True)
    drawn.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(drawn)


_LOSSES = """# What we lose, and to whom

Made by `python benchmarks/evidence_tables.py docs/` from the same records as [all systems](measured_evidence.md):
every source on which one of this package's two rows (`curve`: one scan at a time, `group`: all scans of a scanner
together) is worse than another blind system, the best of those that were run. Only the main measure of each leg counts
here; the others (contrast, new edges, people kept) are in the tables of [all systems](measured_evidence.md). p is that
of one row, not corrected; with four people it cannot be below 0.125: look at the interval. Systems that see both
scanners with pairs are not blind, and are left out. Names of rows with "n4": the bias field of the target's own
recipe, for all systems alike. The included model is `{included}`.

Who should take something else:

- **One scan alone, no others of its scanner, and the scanner differs by its intensity curve and field only.** Scans of
  several people of one scanner tell more than any prior: pooled matching of a group is better than our single scan.
  By [folds over people](measured_folds.md) through random scanners our group is not measurably worse than pooled
  matching at any size; where it is elsewhere, the tables below show.
- **You want everybody to have the target's mean histogram.** Histogram matching reaches it exactly, and takes part of
  the differences between people with it. The measures of real scans below are distances from the target's mean person,
  so they reward that; the figure for the target's own people beside each table says how far people lie from it.
- **You measure the contrast between tissues of one person on several scanners.** One scan alone leaves more of a
  difference than matching does: on four simulated scanners 1.2 % (matching 0.6, pooled matching 0.7, our group 0.8 %).
- **Your target is known in pairs** (the same people on both scanners). A network trained on pairs is far better.
- **You harmonize scans one by one and study what differs between people, such as age.** One scan alone loses most of
  it (fluid 0.19 of 1.31 points a decade in `oasis`), a group and pooled matching do not (1.25, 1.29).
- **You cannot spend a quarter of a minute on a scan.** Histogram matching takes a second.
"""
#: What a model is, beside its digest.
_MODELS = {
    "41feb51c7f18": "38 people, today's defaults",
    "bf33283b501b": "version 0.1, 22 people",
    "1bf3c0853d45": "version 0.1, 19 people",
}
_MEASURES = {
    "psnr": "PSNR, dB, higher is better",
    "tissue": "distance of tissue intensities, lower is better",
    "dice": "Dice of white matter, higher is better",
    "difference": "difference between scanners, %, lower is better",
}


def losses(contents):
    """Every row of ours that is worse than the best blind rival."""
    parts = [_LOSSES.format(included=load_target("ds002748").digest)]
    for content in contents:
        lines = []
        for row in content["rows"]:
            name = content["main"].get(row["leg"])
            gap = row.get("over_rival")
            worse = gap is not None and (gap < 0 if row["leg"] in ("simulated", "segmentation") else gap > 0)
            if row["system"] in ("curve", "group") and worse and row["rival"] != "deepharmony":
                digits = 1 if name == "psnr" else 3
                gap, *ends = (
                    _signed(x, digits)
                    for x in (gap, row.get("over_rival_low"), row.get("over_rival_high"))
                    if x is not None
                )
                gap += f" [{', '.join(ends)}]" if ends else ""
                p = f"{row['p_rival']:.2g}"
                lines.append([row["leg"], row["source"], row["system"], row["rival"], gap, p, _MEASURES[name]])
        if lines:
            target = content["target"]
            legs = dict.fromkeys(TITLES[r["leg"]].lower() for r in content["rows"])
            parts.append(f"## Target `{target['set']}`, model `{target['digest']}`")
            parts.append(f"{', '.join(legs).capitalize()}; model: {_MODELS.get(target['digest'], 'another one')}.")
            parts.append(table(["leg", "source", "ours", "loses to", "by [95 %]", "p", "measure"], lines))
    return "\n\n".join(parts) + "\n"


def read(file):
    """A record; of one that was made for SAMSEG's labels only what was measured with them."""
    content = json.loads(file.read_text())
    if file.name.endswith("_samseg.json"):
        labelled = [name for name, by in content["labels"].items() if "samseg" in by]
        for part in ("rows", "scans"):
            content[part] = [row for row in content[part] if row["source"] in labelled]
    return content


def main():
    folder = Path(sys.argv[1])
    files = sorted(folder.glob("measured_evidence_*.json"))
    parts = [_HEAD.format(included=load_target("ds002748").digest)]
    best, ages = (json.loads((folder / f"measured_{name}.json").read_text()) for name in ("limits_sites", "ages"))
    for file in files:
        content = read(file)
        parts.append(of_twelve(content) if file.name.endswith("_sites12.json") else document(content))
        if file.name.endswith("_segmentation.json") and content["target"]["digest"] == ages["target"]:
            parts.append(of_ages(ages))
        if "_sites" in file.name:
            parts.append(by_scanner(content))
        if file.name.endswith("_sites.json"):
            parts.append(reachable(best, content))
            parts.append(of_parts(json.loads((folder / "measured_parts.json").read_text())))
    parts.append(longer(json.loads((folder / "measured_longer.json").read_text())))
    (folder / "measured_evidence.md").write_text("\n\n".join(parts) + "\n")
    contents = [read(file) for file in files]
    (folder / "what-we-lose.md").write_text(losses(contents))
    for content in contents:
        if any(r["leg"] == "travelers" for r in content["rows"]):
            figure(content, folder / "pictures" / "evidence.svg")


if __name__ == "__main__":
    main()
