"""How often error bars hold: the person model's, about people and scanners that it has not seen.

    python benchmarks/bars.py STUDY [STUDY ...] --work DIR --out docs/measured_bars.json
    python benchmarks/bars.py --refined STUDY --people sub-51 ... --work DIR --out docs/measured_bars.json
    python benchmarks/bars.py --page docs/measured_bars.json

Every person of a study is seen as in training, as they are and through four random scanners of their own, and through
eight random scanners that all people share. Then, again and again, a group of 1, 2, 4, 8 or 16 people is left out, a
person model is taught by the others, and the group is seen through one of the shared scanners. Counted is how often the
group's mean quantile curve, as the model expects it, lies within one and within 1.96 error bars of the true one, over
all ranks; for one person also every voxel, mapped by the curve, against the same voxel of the head itself.

With ``--refined``, people whom the included target has never seen are harmonized by the whole default method, and the
image of errors that ``--uncertainty`` writes is held against the head itself, voxel by voxel.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from contrasts import half, prepared_head
from tables import table

from blindharmony.harmonization.intensity import CurveMap, error_bar
from blindharmony.harmonization.methods import estimate
from blindharmony.harmonization.summary import rank_features
from blindharmony.io.bids import find_scans
from blindharmony.models.file import load_target
from blindharmony.models.person import PersonModel
from blindharmony.models.target import upsampled
from blindharmony.models.tissue import class_posterior
from blindharmony.settings import HarmonizeSettings, PersonFitSettings
from blindharmony.training.person import squares_by_rank, structure_levels, versions_of
from blindharmony.training.tissue import RandomContrast

SHARED, SIZES, DRAWS, VOXELS = 8, (1, 2, 4, 8, 16), 40, 10_000
_FIRST_SHARED = 100  # kind 0 is the head itself

_HEAD = """# Error bars, measured

Made by `python benchmarks/bars.py --page RECORD`; nothing here is typed by hand. How often the true quantile curve of
people that taught nothing lies within one error bar of the expected one, and within 1.96; by theory 68 and 95 %. A
group is seen through one scanner that nobody has seen before; *as they are*: through the target's own. Error: root mean
square, flow units, lower is better; the bar beside it is what the model says. *Single voxels* are those of the mapped
scan, before noise and blur are taken out, against the voxels of the head itself. `person.common_error`, which sets the
bars of groups, was chosen on these people: those rows are a little too good.
"""


_WHOLE = """
## Single voxels of the result

`python benchmarks/bars.py --refined STUDY`: people whom the target has never seen, each through four random scanners
and as they are, by the whole default method, noise and blur taken out; every voxel of the brain against the image of
errors that `--uncertainty` writes. Errors of voxels have longer tails than a Gaussian.
"""


def shown(image, mask, number, levels):
    """A head through the scanners of its own, and then through those that all heads share."""
    classes = class_posterior(image, mask)
    for kind, version in enumerate(versions_of(image, mask, np.random.default_rng(number), classes=classes)):
        yield kind, version
    draw = RandomContrast.draw
    # The same contrast for all: from the people's mean, not from each one's own.
    with patch.object(RandomContrast, "draw", lambda _, rng, settings: draw(levels, rng, settings)):
        for kind in range(SHARED):
            rng = np.random.default_rng(5000 + kind)
            yield _FIRST_SHARED + kind, list(versions_of(image, mask, rng, PersonFitSettings(scanners=1), classes))[1]


def features_of(heads, names, work, like):
    """Per person: features, curves, which scanner, quantiles and voxels of what was seen."""
    files = [work / f"{name}.npz" for name in names]
    if not all(file.exists() for file in files):
        region, ranks = like.fit_region, like.levels
        coarse = [half(head()) for head in heads]
        total, count = np.sum([x * m for x, m in coarse], 0), np.sum([m for _, m in coarse], 0).astype(np.float32)
        plain = np.array([np.quantile(image[mask & region], ranks) for image, mask in (head() for head in heads)])
        levels = np.mean([structure_levels(x, m, class_posterior(x, m)) for x, m in (h() for h in heads[::4])], 0)
        for number, (head, file, (x, m)) in enumerate(zip(heads, files, coarse, strict=True)):
            if file.exists():
                continue
            image, mask = head()
            inside, mean = mask & region, np.delete(plain, number, 0).mean(0)
            atlas = upsampled(((total - x * m) / np.maximum(count - m, 1)).astype(np.float32))
            some = np.random.default_rng(1).choice(np.flatnonzero(inside), VOXELS, replace=False)
            rows = {key: [] for key in ("F", "Q", "K", "c", "S", "xs", "xp")}
            for kind, version in shown(image, mask, number, levels):
                curve, source = (np.quantile(v[inside], ranks) for v in (version.plain, version.seen))
                gain = np.sqrt((plain[number] ** 2).mean() / (curve**2).mean())
                matched = np.where(inside, CurveMap.through(source, mean)(version.seen), 0).astype(np.float32)
                voxels = version.seen.ravel()[some], gain * version.plain.ravel()[some]
                row = (rank_features(matched, inside, atlas), gain * curve, kind, version.contrast, source, *voxels)
                for key, value in zip(rows, row, strict=True):
                    rows[key].append(value)
            np.savez(file, **{key: np.array(value) for key, value in rows.items()})
            print(file.name, flush=True)
    return [dict(np.load(file)) for file in files]


def taught(people, ranks=None):
    """The person model that these people teach; with the ranks, it knows the errors of single voxels too."""
    own = [np.flatnonzero(p["K"] < _FIRST_SHARED) for p in people]
    rows = {k: np.concatenate([p[k][o] for p, o in zip(people, own, strict=True)]) for k in ("F", "Q", "c")}
    heads = np.repeat(np.arange(len(people)), [len(o) for o in own])
    model = PersonModel(rows["F"], rows["Q"], heads, contrasts=rows["c"])
    if ranks is None:
        return model
    squares = [
        squares_by_rank(CurveMap.through(p["S"][r], p["Q"][r])(x) - p["xp"][r].astype(np.float32), x, ranks)
        for p, o in zip(people, own, strict=True)
        for r in o[1:]
        for x in (p["xs"][r].astype(np.float32),)
    ]
    return replace(model, voxel_error=np.sqrt(np.mean(squares, 0)))


def row_of(person, kind):
    return int(np.flatnonzero(person["K"] == kind)[0])


def group(people, left_out, model, kind):
    """What the model says of these people through one scanner, and what is true."""
    members = [(people[i], row_of(people[i], kind)) for i in left_out]
    features = [p["F"][r] for p, r in members]
    surprises = np.array([model.surprise(f) for f in features])
    weights = model.certainty(surprises)
    own = [p["Q"][row_of(p, 0)] for p, _ in members]
    curves, own = (np.average(q, 0, weights) for q in ([model.curve(f) for f in features], own))
    off = model.mean + model.group_share(surprises, weights) * (curves - model.mean) - own
    bar = model.deviation(surprises, weights)
    away = np.abs(off) / bar
    said = {"error": float((off**2).mean()), "bar": float((bar**2).mean())}
    return said | {"68": float((away < 1).mean()), "95": float((away < 1.96).mean())}


def voxels(person, model, kind):
    """How often single voxels lie within the image of errors."""
    row = row_of(person, kind)
    curve = np.maximum.accumulate(model.curve(person["F"][row]))
    seen, truth = person["xs"][row].astype(np.float32), person["xp"][row_of(person, 0)].astype(np.float32)
    harmonized = CurveMap.through(person["S"][row], curve)(seen)
    bar = error_bar(model, curve, surprise=model.surprise(person["F"][row]))(harmonized)
    away = np.abs(harmonized - truth) / bar
    said = {"error": float(((harmonized - truth) ** 2).mean()), "bar": float((bar**2).mean())}
    return said | {"68": float((away < 1).mean()), "95": float((away < 1.96).mean())}


def measured(people, ranks):
    """Size → scans → means over draws."""
    rng, kinds, record = np.random.default_rng(0), [0, *range(_FIRST_SHARED, _FIRST_SHARED + SHARED)], {}

    def add(size, kind, said):
        record.setdefault(size, {}).setdefault("shared" if kind else "as they are", []).append(said)

    for size in (s for s in SIZES if s <= len(people) // 2):
        for draw in range(len(people) if size == 1 else DRAWS):
            left_out = [draw] if size == 1 else rng.choice(len(people), size, replace=False)
            model = taught([p for i, p in enumerate(people) if i not in left_out], ranks)
            for kind in kinds:
                add(str(size), kind, group(people, left_out, model, kind))
                if size == 1:
                    add("voxels", kind, voxels(people[draw], model, kind))
        print(size, flush=True)
    keys = ("error", "bar", "68", "95")
    return {
        size: {name: {key: float(np.mean([s[key] for s in said])) for key in keys} for name, said in sources.items()}
        for size, sources in record.items()
    }


def refined(heads, target):
    """How often voxels of whole harmonized heads lie within the image of errors, through random scanners or not."""
    said = {"random scanners": [], "as they are": []}
    for number, head in enumerate(heads):
        image, mask = head()
        image, inside = np.where(mask, image, 0).astype(np.float32), mask & target.fit_region
        rng = np.random.default_rng(9000 + number)
        for kind, version in enumerate(versions_of(image, mask, rng, classes=class_posterior(image, mask))):
            made = estimate("curve", version.seen, mask, target, HarmonizeSettings(on_harm="result"))
            off, bar = (made.image - image)[inside], made.error(made.image)[inside]
            away = np.abs(off) / bar
            one = {"error": float((off**2).mean()), "bar": float((bar**2).mean())}
            one |= {"68": float((away < 1).mean()), "95": float((away < 1.96).mean())}
            said["random scanners" if kind else "as they are"].append(one)
            print(number, kind, {k: round(v, 4) for k, v in one.items()}, flush=True)
    return {name: {k: float(np.mean([one[k] for one in rows])) for k in rows[0]} for name, rows in said.items()}


def page(record):
    rows = []
    for study, sizes in record["studies"].items():
        for size, sources in sizes["sizes"].items():
            words = "single voxels" if size == "voxels" else "1 person" if size == "1" else f"{size} people"
            cells = []
            for name in ("shared", "as they are"):
                said = sources[name]
                cells.append(f"{100 * said['68']:.0f} / {100 * said['95']:.0f} %")
                cells.append(f"{np.sqrt(said['error']):.4f} ({np.sqrt(said['bar']):.4f})")
            rows.append([f"`{study}`, {sizes['people']}", words, *cells])
    header = [
        "study, people",
        "of",
        "within 1 / 1.96 bars, other scanners",
        "error (bar)",
        "as they are",
        "error (bar)",
    ]
    whole = []
    for study, said in record.get("refined", {}).items():
        cells = [f"`{study}`, {said['people']}", f"`{said['target']}`"]
        for name in ("random scanners", "as they are"):
            one = said[name]
            cells.append(f"{100 * one['68']:.0f} / {100 * one['95']:.0f} %")
            cells.append(f"{np.sqrt(one['error']):.4f} ({np.sqrt(one['bar']):.4f})")
        whole.append(cells)
    header_of_whole = ["study, people", "target", *header[2:]]
    return f"{_HEAD}\n{table(header, rows)}\n{_WHOLE}\n{table(header_of_whole, whole)}\n"


def people_of(study, work, target):
    """Features of everybody in a study, from the folder or made there."""
    scans = find_scans([study])
    (work / study.name).mkdir(exist_ok=True, parents=True)
    heads = [partial(prepared_head, scan, work / study.name) for scan in scans]
    names = [f"{study.name}_{scan.name.split('_')[0]}" for scan in scans]
    return features_of(heads, names, work, SimpleNamespace(fit_region=target.fit_region, levels=target.levels))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument(
        "--work", type=Path, default=Path("bars.work"), help="prepared heads and features are kept here"
    )
    parser.add_argument("--refined", type=Path, metavar="STUDY", help="judge the included target's images of errors")
    parser.add_argument("--people", nargs="+", help="of that study")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, metavar="RECORD", help="write the page of a record beside it")
    o = parser.parse_args()
    if o.page:
        o.page.with_suffix(".md").write_text(page(json.loads(o.page.read_text())))
        return
    target, record = load_target("ds002748"), {"studies": {}}
    if o.refined:
        record = json.loads(o.out.read_text())
        scans = find_scans([o.refined], participant_labels=[p.removeprefix("sub-") for p in o.people])
        (o.work / o.refined.name).mkdir(exist_ok=True, parents=True)
        said = refined([partial(prepared_head, scan, o.work / o.refined.name) for scan in scans], target)
        record.setdefault("refined", {})[o.refined.name] = {"people": len(scans), "target": target.digest} | said
    for study in o.studies:
        people = people_of(study, o.work, target)
        record["studies"][study.name] = {"people": len(people), "sizes": measured(people, target.levels)}
    o.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
