"""The tables of docs/measured_harmonization.md, made from the JSON files that the other benchmarks wrote.

python benchmarks/tables.py docs/
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

PAPER = ("exp", "log", "gamma0.7", "gamma0.8", "gamma0.9", "gamma1.2", "gamma1.3", "gamma1.5")
HARD = ("raw gamma1.5", "bias", "noise", "thick", "blur", "tissue", "gre", "ir", "all")
SINGLE = ("source", "match", "nyul", "n4 + match", "curve", "curve + refinement")
GROUP = ("group: pooled matching", "group: curve", "group: curve + refinement")
RIVALS = ("match", "nyul", "n4 + match")

_HEAD = """# Harmonization, measured

Made by `python benchmarks/tables.py docs/` from the files beside it; nothing here is typed by hand. Targets were
trained on training subjects only; all figures are of test subjects. PSNR in dB inside the brain, against the prepared
scan, data range its 99th percentile; mean over subjects / worst subject. Recorded before
`blindharmony benchmark` took the place of the scripts for simulated and real scanners; its own, with more systems, is
[measured_evidence.md](measured_evidence.md).

**All but "People left out" was recorded with targets of format 2**, which let all versions of a head speak for every
scan. With format 3 single scans have better worst heads, and the group of eight misses its aim on `ds002748` too
(45 dB): see [measured_evidence.md](measured_evidence.md), and the last rows of
[roads not taken](concepts/harmonization.md#roads-not-taken) for why.
"""


def table(header, rows):
    """A markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def cell(found):
    return "–" if found is None else f"{found['psnr']:.1f} / {found['worst']:.1f}"


def simulated(name, content):
    domains = content["table"]
    methods = [m for m in (*SINGLE, *GROUP) if any(m in d for d in domains.values())]
    paper = [domains[d] for d in PAPER if d in domains]
    subjects = len({r["subject"] for r in content["rows"]})
    rows = []
    for method in methods:
        own = [d[method] for d in paper if method in d]
        if own:
            mean, worst = np.mean([o["psnr"] for o in own]), np.min([o["worst"] for o in own])
            ssim, people = np.mean([o["ssim"] for o in own]), np.mean([o["people"] for o in own])
            kept = [o for o in own if "local_spearman" in o]
            order = f"{np.median([o['local_spearman'] for o in kept]):.4f}" if kept else "–"
            edges = [np.mean([o[f"{k}new_edges_percent"] for o in kept]) for k in ("", "truth_")] if kept else None
            edges = f"{edges[0]:.2f} % ({edges[1]:.2f} %)" if kept else "–"
            rows.append([method, f"{mean:.1f} / {worst:.1f}", f"{ssim:.4f}", f"{people:.2f}", order, edges])
    header = ["method", "PSNR", "SSIM", "people", "local order", "new edges"]
    parts = [
        f"## Simulated scanners, `{name}` → `{name}` ({subjects} test scans)",
        "The paper's eight monotone domains. *people*: rank correlation of grey/white contrast over subjects with the "
        "truth; *local order*: median rank correlation with the source in 9 mm windows; *new edges*: edges found only "
        "in the output (in the truth).",
        table(header, rows),
        "Hard domains, and no change at all (`none`):",
        table(
            ["domain", *methods, "gain over the best rival"],
            [
                [d, *(cell(domains[d].get(m)) for m in methods), gain(domains[d])]
                for d in ("none", *HARD)
                if d in domains
            ],
        ),
    ]
    return "\n\n".join(parts)


def gain(domain):
    """One scan at a time: the default against the best of what people use."""
    ours = domain.get("curve + refinement", domain["curve"])["psnr"]
    return f"{ours - max(domain[m]['psnr'] for m in RIVALS):+.1f}"


def real(content):
    rows = []
    for study, methods in content["table"].items():
        if study != "own":
            rows += [[study, m, v["contrast"], v["tissue"], v["probe"], v["rank"]] for m, v in methods.items()]
    own = content["table"]["own"]
    return "\n\n".join(
        [
            "## Real scans of other scanners → `oasis`",
            "*contrast*: grey/white contrast minus that of the target's test scans, whose spread is "
            f"{own['contrast sd']}; *tissue*: mean Wasserstein distance of tissue intensities (flow units), "
            f"{own['tissue']} for one of the target's own scans; *probe*: balanced accuracy of a classifier retrained "
            "for each row (0.5: chance; few scans, so steps are coarse); *rank*: rank correlation with the source.",
            table(["site", "method", "contrast", "tissue", "probe", "rank"], rows),
        ]
    )


def targets(sets, people):
    """What was aimed at, what came out."""
    rows = []

    def line(aim, name, found, met):
        rows.append([aim, name, found, "yes" if met else "**no**"])

    def of(domains, method):
        rows = [d.get(f"{method} + refinement", d.get(method)) for d in domains]
        return np.mean([r["psnr"] for r in rows]), np.min([r["worst"] for r in rows]), rows

    for name, content in sets.items():
        domains = content["table"]
        paper = [domains[d] for d in PAPER]
        mean, worst, found = of(paper, "curve")
        line("one scan, PSNR ≥ 41, worst ≥ 34", name, f"{mean:.1f} / {worst:.1f}", mean >= 41 and worst >= 34)
        mean, worst, found = of(paper, "group: curve")
        line("group, PSNR ≥ 47, worst ≥ 43", name, f"{mean:.1f} / {worst:.1f}", mean >= 47 and worst >= 43)
        kept = np.mean([r["people"] for r in found])
        line("group, differences between people kept ≥ 0.9", name, f"{kept:.2f}", kept >= 0.9)
        for domain in HARD[1:]:
            if domain in domains:
                line(f"{domain}: best rival + 3", name, gain(domains[domain]), float(gain(domains[domain])) >= 3)
        mean, worst, _ = of([domains["none"]], "curve")
        line("the target's own unseen scan changes little: ≥ 42", name, f"{mean:.1f} / {worst:.1f}", mean >= 42)
        mean, worst, _ = of([domains["none"]], "group: curve")
        line("the same in a group: ≥ 42", name, f"{mean:.1f} / {worst:.1f}", mean >= 42)
        shown = [r for d in domains.values() for m, r in d.items() if "local_spearman" in r and m.startswith("curve")]
        order = np.median([r["local_spearman"] for r in shown])
        farthest = max(shown, key=lambda r: r["new_edges_percent"] - r["truth_new_edges_percent"])
        edges, own = farthest["new_edges_percent"], farthest["truth_new_edges_percent"]
        line("local order kept: median ≥ 0.98", name, f"{order:.4f}", order >= 0.98)
        line(
            "edges in neither source nor, at that rate, in the truth: < 0.5 %, worst domain",
            name,
            f"{edges:.2f} %, truth {own:.2f} %",
            edges - own < 0.5,
        )
    if people:
        heads, pair = people["old heads"], people["pair"]
        ours = heads["curve"]["psnr"] - heads["match"]["psnr"]
        line("heads unlike the target's: matching + 6", "oasis", f"{ours:+.1f}", ours >= 6)
        line(
            "one person twice: not farther apart than before",
            "oasis",
            f"{pair['before']['psnr']} → {pair['group: curve']['psnr']} dB",
            pair["group: curve"]["psnr"] >= pair["before"]["psnr"],
        )
        line(
            "the same in units of their own spread",
            "oasis",
            f"{pair['before']['relative']} → {pair['group: curve']['relative']}",
            pair["group: curve"]["relative"] <= pair["before"]["relative"],
        )
    return "\n\n".join(
        [
            "## Aims and what was reached",
            "PSNR in dB, mean / worst scan; the default method with refinement where it was run. *Edges* are the tenth "
            "of places where an image is steepest; seen from a source of another contrast, the truth has new ones too.",
            table(["aim", "target", "measured", "met"], rows),
        ]
    )


def people(content):
    rows = [[m, cell(v)] for m, v in content["old heads"].items()]
    pair = [[m, v["psnr"], v["relative"], v["curves"]] for m, v in content["pair"].items()]
    return "\n\n".join(
        [
            f"## Old heads, young target (`oasis`: {content['young']} under 40, {content['old']} over 50, gamma 1.5)",
            table(["method", "PSNR"], rows),
            "## One person scanned twice",
            "Between the two scans: PSNR, root mean square difference in units of their spread (*relative*: adding "
            "contrast makes no difference there), and that of their quantile curves (flow units).",
            table(["method", "PSNR", "relative", "curves"], pair),
        ]
    )


def persons(content):
    parts = [
        "## People left out",
        "`python benchmarks/persons.py`: groups drawn from a target's own scans and left out of the person model, root "
        "mean square errors in flow units (white matter is about 1.4). *group*: the group's mean curve, which the "
        "scanner is fitted to. *mean curve*: everybody else's mean, which histogram matching uses. *alike*: a model "
        "that lets all versions of a head speak for every scan.",
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
                *(f"{v[k]:.4f}" for v, k in ((told[case], "group"), (alike[case], "group"))),
                f"{told[case]['mean curve, group']:.4f}",
            ]
            for case in told
        ]
        header = ["people, scans", "one", "one, alike", "one, mean curve", "group", "group, alike", "group, mean curve"]
        parts.append(f"`{name}`, {found['scans']} people:\n\n" + table(header, rows))
    return "\n\n".join(parts)


def smooth(content):
    parts = [
        "## Smooth scanners",
        "`python benchmarks/smooth.py`: people left out of the person model, put through known curves; the scanner "
        "fitted as their expected intensities ask (*plain*), and as a parabola in logarithms where it fits. PSNR in dB.",
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
    rows = [[m, v["psnr"], v["seconds"]] for m, v in content["rows"].items()]
    title = f"## The published iteration and its ablation ({', '.join(content['subjects'])}, {content['domain']})"
    return "\n\n".join([title, table(["method", "PSNR", "seconds a scan"], rows)])


def main():
    folder = Path(sys.argv[1])

    def read(name):
        path = folder / f"measured_{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    parts = [_HEAD.strip()]
    sets = {name: read(f"simulated_{name}") for name in ("ds002748", "oasis")}
    if all(sets.values()):
        parts.append(targets(sets, read("people")))
    parts += [simulated(name, content) for name, content in sets.items() if content]
    for name, show in (
        ("persons", persons),
        ("smooth", smooth),
        ("real", real),
        ("people", people),
        ("latent", latent),
    ):
        if content := read(name):
            parts.append(show(content))
    (folder / "measured_harmonization.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
