"""The tables of docs/measured_flow.md, made from the JSON files that the flow's benchmarks wrote.

python benchmarks/flow_tables.py docs/
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tables import table

_HEAD = """# The flow, measured

Made by `python benchmarks/flow_tables.py docs/` from the files beside it; nothing here is typed by hand. How each
figure was made stands at the top of its script.
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
            "judge answers 0. Aim: mean within 1 % (as far as its own error tells), every scan within 5 %.",
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
        f"Short trainings ({content['steps a level']} steps a level) on the same 2 mm heads (`benchmarks/"
        "flow_training.py`); the included model took 900."
    )
    return "\n\n".join([f"## Small trainings, `{name}`", note, *parts])


def cost(content):
    rows = [[name, v["seconds"], v["voxels"], v["parameters"]] for name, v in content["rows"].items()]
    return "\n\n".join(
        [
            "## Log-density with gradient, one head",
            f"`benchmarks/flow_cost.py`, {content['threads']} threads.",
            table(["flow", "seconds", "voxels", "parameters"], rows),
        ]
    )


def main():
    folder = Path(sys.argv[1])

    def read(name):
        path = folder / f"measured_{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    parts = [_HEAD.strip()]
    for show, kind in ((honesty, "honesty"), (training, "flow_training")):
        found = {name: read(f"{kind}_{name}") for name in ("ds002748", "oasis")}
        parts += [show(name, content) for name, content in found.items() if content]
    if content := read("flow_cost"):
        parts.append(cost(content))
    (folder / "measured_flow.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
