"""How well the person model tells people it never saw: groups of a target's own scans left out, again and again.

    python benchmarks/persons.py TARGET ... --out persons.json

Needs nothing but model files, which hold features and quantile curves of their scans in several versions: as they are
and through random scanners, or, in earlier models, noisy, blurred and in thick slices. For groups of 1, 2, 4 and 8
people, drawn at random from the target's scans and left out of the model: root mean square error (flow units) of each
person's predicted curve, and of the mean curve of the group, which is what a group's scanner is fitted to, weighted by
how much is known of each head, and with equal weights; the same for the mean curve of everybody else, which is what
histogram matching uses, and for a model that does not tell versions apart (format 2).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from blindharmony.models.file import load_target
from blindharmony.models.person import PersonModel

SIZES, DRAWS = (1, 2, 4, 8), 24
VERSIONS = {"as they are": (0,), "noisy": (1, 2), "blurred": (3, 4), "thick slices": (5,)}


def versions_of(model: PersonModel):
    """What the versions of a model are called."""
    if model.contrasts is None:
        return VERSIONS
    return {"as they are": (0,), "random scanners": tuple(range(1, model.versions.max() + 1))}


def without(model: PersonModel, heads) -> PersonModel:
    kept = ~np.isin(model.heads, heads)
    more = {name: getattr(model, name) for name in ("textures", "people", "contrasts")}
    more = {name: rows if rows is None else rows[kept] for name, rows in more.items()}
    return PersonModel(model.features[kept], model.curves[kept], model.heads[kept], **more)


def errors(model: PersonModel, group, version):
    """Of single persons and of the group's mean: the model's, and the mean curve's."""
    rest = without(model, group)
    rows = np.flatnonzero(np.isin(model.heads, group) & (model.versions == version))
    textures = [None if model.textures is None else model.textures[r] for r in rows]
    found = np.array([rest.curve(model.features[r], t) for r, t in zip(rows, textures, strict=True)])
    truth = model.curves[rows]
    known = rest.certainty([rest.surprise(model.features[r], t) for r, t in zip(rows, textures, strict=True)])
    return {
        "one": np.mean((found - truth) ** 2),
        "group": np.mean(np.average(found - truth, 0, known) ** 2),
        "group, equal weights": np.mean((found.mean(0) - truth.mean(0)) ** 2),
        "mean curve, one": np.mean((rest.mean - truth) ** 2),
        "mean curve, group": np.mean((rest.mean - truth.mean(0)) ** 2),
    }


def table(model: PersonModel, seed=0):
    rng = np.random.default_rng(seed)
    everybody = np.unique(model.heads)
    rows = {}
    for size in SIZES:
        count = len(everybody) if size == 1 else DRAWS
        groups = everybody[:, None] if size == 1 else [rng.choice(everybody, size, replace=False) for _ in range(count)]
        for name, versions in versions_of(model).items():
            found = [errors(model, g, v) for g in groups for v in versions]
            rms = {k: round(float(np.sqrt(np.mean([f[k] for f in found]))), 5) for k in found[0]}
            rows[f"{size}, {name}"] = rms | {"worst": round(float(np.sqrt(max(f["group"] for f in found))), 5)}
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    content = {}
    for name in arguments.targets:
        target = load_target(name)
        model = target.person
        content[target.info.name] = {
            "digest": target.digest,
            "scans": len(np.unique(model.heads)),
            "versions told apart": table(model),
            "versions all alike": table(replace(model, textures=None)),
        }
        for kind in ("versions told apart", "versions all alike"):
            print(target.info.name, kind, json.dumps(content[target.info.name][kind]["1, as they are"]), flush=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
