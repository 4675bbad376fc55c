"""The person model through other scanners: on people that taught nothing, beside another target and the mean curve.

    python benchmarks/contrasts.py DATA --teach 01 02 ... --judge 51 52 ... --against ds002748 --out RECORD
    python benchmarks/contrasts.py --page RECORD

A person model is taught as ``blindharmony train`` teaches it. Then every judged head is shown as it is, with Rician
noise, blurred, in thick slices, and through four random scanners with draws of their own. Error: root mean square of
the expected quantile curve minus the true one (that of the head with the same noise and blur, in the target's
contrast), flow units.

- mean: the teachers' mean curve, which histogram matching uses.
- against: the person model of another target; its scans may have been prepared otherwise.
- now: the person model that was taught here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import wilcoxon
from tables import table

from blindharmony.harmonization.summary import summarize
from blindharmony.io.bids import find_scans
from blindharmony.io.volume import read_volume
from blindharmony.models.file import load_target
from blindharmony.models.tissue import class_posterior
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.training.augmentation import FWHM, inside_mean, rician, thick_slices
from blindharmony.training.data import half_resolution
from blindharmony.training.person import fit_people, versions_of

NOISE, BLUR_MM, SLICE_MM = 0.035, 2.0, 3
SOURCES = ("as it is", "noise", "blur", "thick slices", "random scanners")
SYSTEMS = ("mean", "against", "now")

_HEAD = """# The person seen through other scanners, measured

Made by `python benchmarks/contrasts.py --page RECORD`; nothing here is typed by hand. Root mean square error (flow
units, lower is better) of the quantile curve that is expected of a person who taught nothing / the worst. *mean*: the
teachers' mean curve, which histogram matching uses. *now*: the person model that `blindharmony train` makes. p: a
Wilcoxon test over the people, of each person's error with *now* against the column before, not corrected for the rows.
"""


def prepared_head(scan: Path, work: Path):
    """A head on the template's grid and its mask, as new targets prepare theirs."""
    file = work / f"{scan.name.split('.')[0]}.npz"
    if not file.exists():
        head = prepare(read_volume(scan), PrepRecipe(bias="entropy")).scan
        mask = head.inside()
        np.savez(file, image=np.where(mask, head.data, 0).astype(np.float32), mask=mask)
    with np.load(file) as kept:
        return kept["image"], kept["mask"]


def half(head):
    """Image and mask at 2 mm."""
    return tuple(a.numpy().squeeze() for a in half_resolution(*map(torch.from_numpy, head)))


def taught(heads, like):
    """A target with the person model of these heads."""
    coarse = [half(head()) for head in heads]
    person = fit_people(
        heads,
        coarse,
        like.fit_region,
        like.levels,
        tissue=class_posterior,
        on_head=lambda done, of: print(f"taught by {done} of {of}", flush=True),
    )
    count = np.maximum(np.sum([m for _, m in coarse], 0), 1)
    mean = (np.sum([x * m for x, m in coarse], 0) / count).astype(np.float32)
    return replace(like, person=person, quantiles=person.curves[person.themselves], mean_image=mean)


def shown(image, mask, seed):
    """Source, what a scanner shows, and the same in the target's contrast."""
    rng = np.random.default_rng(seed)
    noisy = np.where(mask, rician(image, NOISE, rng), 0).astype(np.float32)
    blurred = inside_mean(image, mask, lambda x: ndimage.gaussian_filter(x, BLUR_MM / FWHM))
    thick = inside_mean(image, mask, lambda x: thick_slices(x, 2, SLICE_MM))
    for name, made in (("noise", noisy), ("blur", blurred), ("thick slices", thick)):
        yield name, made, made
    versions = versions_of(image, mask, rng, classes=class_posterior(image, mask))
    for number, version in enumerate(versions):
        yield SOURCES[-1] if number else SOURCES[0], version.seen, version.plain


def errors_of(image, mask, systems, seed):
    """Source → system → the error of each scan."""
    region = mask & systems["now"].fit_region
    levels = systems["now"].levels
    itself = np.quantile(image[region], levels)
    errors = {}
    for source, seen, plain in shown(image, mask, seed):
        truth = np.quantile(plain[region], levels)
        truth *= np.sqrt((itself**2).mean() / (truth**2).mean())
        seen = (seen / np.sqrt(np.mean(seen[mask] ** 2))).astype(np.float32)
        expected = {"mean": systems["now"].mean_curve}
        expected |= {name: summarize(seen, mask, target).person for name, target in systems.items()}
        for name, curve in expected.items():
            errors.setdefault(source, {}).setdefault(name, []).append(float(np.sqrt(np.mean((curve - truth) ** 2))))
    return errors


def page(record):
    """The table of a record."""
    rows = []
    for source in SOURCES:
        people = record["people"].values()
        each = {s: np.array([np.sqrt(np.mean(np.square(p[source][s]))) for p in people]) for s in SYSTEMS}
        cells = [f"{np.sqrt(np.mean(each[s] ** 2)):.4f} / {each[s].max():.4f}" for s in SYSTEMS]
        cells += [f"{wilcoxon(each['now'], each[s]).pvalue:.3f}" for s in SYSTEMS[:2]]
        rows.append([source, *cells])
    header = ["scan", "mean", f"`{record['against']}` of version {record['made with']}", "now"]
    words = f"\n{len(record['teachers'])} people teach, {len(record['people'])} are judged.\n\n"
    return _HEAD + words + table([*header, "p, mean", "p, target"], rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--teach", nargs="+", default=[])
    parser.add_argument("--judge", nargs="+", default=[])
    parser.add_argument("--against", default="ds002748", help="another target")
    parser.add_argument("--work", type=Path, default=Path("contrasts.work"), help="prepared heads are kept here")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, metavar="RECORD", help="write the page of a record beside it")
    o = parser.parse_args()
    if o.page:
        o.page.with_suffix(".md").write_text(page(json.loads(o.page.read_text())))
        return
    o.work.mkdir(exist_ok=True, parents=True)
    scans = {who: find_scans([o.data], participant_labels=[who])[0] for who in (*o.teach, *o.judge)}
    against = load_target(o.against)
    heads = [partial(prepared_head, scans[who], o.work) for who in o.teach]
    systems = {"against": against, "now": taught(heads, against)}
    record = {"against": against.info.name, "digest": against.digest, "made with": against.info.made_with}
    record |= {"teachers": o.teach, "people": {}}
    for index, who in enumerate(o.judge):
        record["people"][who] = errors_of(*prepared_head(scans[who], o.work), systems, 1000 + index)
        print(who, {k: {s: np.round(v, 4).tolist() for s, v in e.items()} for k, e in record["people"][who].items()})
    o.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
