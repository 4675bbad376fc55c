"""The tables of docs/measured_flow.md, made from the JSON files that the flow's benchmarks wrote.

python benchmarks/flow_tables.py docs/
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from tables import table

from blindharmony.models.file import load_target

_HEAD = """# The flow, measured

Made by `python benchmarks/flow_tables.py docs/` from the files beside it; nothing here is typed by hand. How each
figure was made stands at the top of its script. Parts name the model they were measured with. The included one is
`{included}`. `e0c4411a32b3` is an earlier one: its flow is that of version 0.1's included target (`bf33283b501b`) to
the byte, not today's, which was trained anew on 34 scans. The cost was measured on a slow, busy machine (an
earlier model took 0.88 s where a 3-D Glow took 0.59 s); only ratios of one run compare.
"""


def honesty(name, content):
    rows = []
    for mm, families in content["table"].items():
        for family, found in families.items():
            met = abs(found["mean"]) <= 0.01 + found["error of the mean"] and found["worst"] <= 0.05
            rows.append(
                [
                    mm,
                    family,
                    f"{100 * found['mean']:+.1f} ± {100 * found['error of the mean']:.1f} %",
                    f"{100 * found['worst']:.1f} %",
                    f"{100 * found['worst'] * found['moves']:.1f} %",
                    "yes" if met else "**no**",
                ]
            )
    return "\n\n".join(
        [
            f"## An honest judge? `{name}`, {len(content['rows'])} unseen scans",
            "The change under which the scan is most probable, Jacobian included (`benchmarks/honesty.py`); an honest "
            "judge answers 0. Aim: mean within 1 % (as far as its own error tells), every scan within 5 %. "
            f"Model `{content['target']}`.",
            table(
                ["image", "change", "most probable, mean", "farthest scan", "which moves intensities by", "met"], rows
            ),
        ]
    )


def training(name, content):
    parts = []
    titles = {
        "scans": ("training scans", "How many scans it takes"),
        "choices": ("design", "What each choice bought"),
        "rivals": ("flow", "Other flows, given the same processor time"),
    }
    for part, (column, title) in titles.items():
        if part in content:
            found = content[part]
            keys = ("bits", "worst", "spread", "steps", "processor minutes", "parameters")
            rows = [[what, *(v.get(k, "–") for k in keys)] for what, v in found.items()]
            head = [column, "bits a voxel, held out", "worst scan", "latent spread", "steps", "processor minutes"]
            parts += [f"### {title}", table([*head, "parameters"], rows)]
    note = (
        "Short trainings on the same 2 mm heads (`benchmarks/flow_training.py`), the pyramid's with as many steps at "
        "every level; the included model took 1800."
    )
    return "\n\n".join([f"## Small trainings, `{name}`", note, *parts])


def cost(content):
    keys = ("seconds", "elapsed", "voxels", "parameters")
    rows = [[name, *(v[k] for k in keys)] for name, v in content["rows"].items()]
    return "\n\n".join(
        [
            "## Log-density with gradient, one head",
            f"`benchmarks/flow_cost.py`, {content['threads']} thread(s), model `{content['target']}`.",
            table(["flow", "processor seconds", "seconds", "voxels", "parameters"], rows),
        ]
    )


def card(content):
    density, curve = content["density"], content["harmonize, curve"]
    rows = [
        ["log-density with gradient, one head at 2 mm, s", density["cpu_seconds"], density["card_seconds"]],
        ["harmonizing a scan, preparation not counted, s", curve["cpu_seconds"], curve["card_seconds"]],
    ]
    names = ("processor, full", "card, full", "card, mixed")
    trained = [content[f"training, {n}"] for n in names]
    more = [[n, t["bits"], t["seconds"], t["memory_mb"] or "–"] for n, t in zip(names, trained, strict=True)]
    text = (
        f"`benchmarks/gpu.py` on one machine with a {content['card']} and {content['cores']} cores, PyTorch "
        f"{content['torch']}, model `{content['target']}`. Card against processor: log-density {density['nats']:.1e} "
        f"of its value, its gradient {density['gradient']:.1e}, the harmonized scan at most {curve['largest']:.1e} of "
        "its 99th percentile. Not measured: the published iteration and a restorer's training."
    )
    if content["tf32"]:
        failed = ", ".join(f"{count} of *{law}*" for law, count in content["laws"].items() if law != "run")
        text += (
            f" Convolutions still rounded their inputs to TF32: of {content['laws']['run']} tests of the flow on the "
            f"card {failed} failed. TF32 was switched off for that reason; neither the laws nor the times have been "
            "seen on a card since."
        )
    trainings = f"training, {content['steps']} steps of every level, {content['scans']} scans"
    return "\n\n".join(
        [
            "## On a graphics card",
            text,
            table(["what", f"{content['cores']} cores", "card"], rows),
            table([trainings, "bits a voxel, held out", "seconds", "MB"], more),
        ]
    )


def trust(content):
    spoiled = [r for r in content["rows"] if r["case"] != "real"]
    scans = list(dict.fromkeys(r["scan"] for r in spoiled))
    cases = {r["case"]: {} for r in spoiled}
    for r in spoiled:
        cases[r["case"]][r["scan"]] = r
    rows = [[case, *(answer(found.get(scan)) for scan in scans)] for case, found in cases.items()]
    parts = [
        "## What `blindharmony assess` answers",
        "`benchmarks/spoiled.py`: an unseen scan of the target, a whole head of another scanner, and spoiled copies of "
        "both, as files through the command. In brackets the excess of the least probable level before and after "
        f"harmonization, in spreads of the target's held-out scans. Model `{content['target']}`.",
        table(["copy", *(("target's scan", "whole head")[: len(scans)])], rows),
    ]
    studies = {}
    for r in content["rows"]:
        if r["case"] == "real":
            studies.setdefault(r["study"], []).append(r)
    rows = []
    for study, found in studies.items():
        verdicts = [r.get("verdict", "failed") for r in found]
        said = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        levels = [[f"{np.median([r[k] for r in found if k in r]):.1f}" for k in _LEVELS]]
        rows.append([study, said, *levels[0]])
    if rows:
        parts += [
            "Real scans as they are (median excess):",
            table(["study", "verdicts", "intensities before", "worst level before", "worst level after"], rows),
        ]
    return "\n\n".join(parts)


def unlike(content):
    """What the check of single places finds, and how often it finds what is not there."""
    healthy = {}
    for r in content["healthy"]:
        healthy.setdefault(r["set"], []).append(r)
    rows = [
        [
            name,
            str(len(found)),
            *(str(sum(kind in r["alarm"] for r in found)) for kind in ("unlike", "dark")),
            *(f"{max(r['z'][kind] for r in found):.1f}" for kind in ("unlike", "dark")),
        ]
        for name, found in healthy.items()
    ]
    sizes = list(dict.fromkeys(r["mm"] for r in content["spheres"]))
    kinds = list(dict.fromkeys(r["intensity"] for r in content["spheres"]))

    def share(rows):
        if not rows:
            return "–"
        either, flow, dark = (
            sum(bool(set(r["alarm"]) & kinds) for r in rows) for kinds in ({"unlike", "dark"}, {"unlike"}, {"dark"})
        )
        return f"{either} of {len(rows)} ({flow}, {dark})"

    spheres = [
        [
            f"{mm / 10:g} cm",
            *(share([r for r in content["spheres"] if (r["mm"], r["intensity"]) == (mm, kind)]) for kind in kinds),
        ]
        for mm in sizes
    ]
    shades = list(dict.fromkeys(r["intensity"] for r in content["lesions"]))
    ends = (0, 2, 10, 1000)
    lesions = [
        [
            f"{low} to {high} ml" if high < 1000 else f"over {low} ml",
            *(share([r for r in content["lesions"] if low <= r["ml"] < high and r["intensity"] == k]) for k in shades),
        ]
        for low, high in pairwise(ends)
    ]
    before, after = ([r[k] for r in content["mirrored"]] for k in ("before", "after"))
    patients = "; ".join(
        f"{r['scan'].removesuffix('.nii.gz')} {r['z']['unlike']:.1f}, {r['z']['dark']:.1f}" for r in content["patients"]
    )
    known = "; ".join(
        f"{words}: {min(content[kind]['largest']):.1f} to {max(content[kind]['largest']):.1f}, an alarm is more than "
        f"{content[kind]['limit']:.1f}"
        for kind, words in (("unlike", "the flow's map"), ("dark", "the map of dark tissue"))
    )
    return "\n\n".join(
        [
            "## A place that is unlike the target's",
            f"`benchmarks/places.py`, model `{content['target']}`: what is usual at each place is told by its "
            f"{content['scans']} scans, each judged by the others. Their most unlike places, in standard deviations: "
            f"{known}.",
            "Healthy people, harmonized by the command; every alarm is false, fewer are better:",
            table(["set", "scans", "alarms of the flow's map", "of dark tissue", "most unlike", "darkest"], rows),
            f"Spheres put into {len({r['scan'] for r in content['spheres']})} healthy heads at five places; alarms, "
            "more are better (of the flow's map, of the map of dark tissue):",
            table(["sphere", *kinds], spheres),
            "The lesions of patients with multiple sclerosis (openms) put into the same heads, all of a patient's at "
            "once; alarms, more are better (likewise):",
            table(["lesions of a patient", *shades], lesions),
            f"The patients' own scans (flow's map, dark tissue): {patients}. A half that is the mirrored other one: "
            f"the two halves correlate by {min(after):.2f} or more, and by {max(before):.2f} at most in the heads as "
            "they are; the limit is .95.",
        ]
    )


_LEVELS = ("intensities", "worst level before", "worst level after")


def answer(found):
    if found is None:
        return "–"
    if "error" in found:
        return f"refused: {found['error']}"
    return f"{found['verdict']} ({found['worst level before']:.1f} → {found['worst level after']:.1f})"


def main():
    folder = Path(sys.argv[1])

    def read(name):
        path = folder / f"measured_{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    parts = [_HEAD.format(included=load_target("ds002748").digest).strip()]
    for show, kind in ((honesty, "honesty"), (training, "flow_training")):
        found = {name: read(f"{kind}_{name}") for name in ("ds002748", "oasis")}
        parts += [show(name, content) for name, content in found.items() if content]
    if content := read("flow_cost"):
        parts.append(cost(content))
    if content := read("gpu"):
        parts.append(card(content))
    if content := read("spoiled"):
        parts.append(trust(content))
    if content := read("places"):
        parts.append(unlike(content))
    (folder / "measured_flow.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
