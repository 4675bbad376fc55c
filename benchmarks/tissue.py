"""The tissue network against mixtures fitted to intensity, on labelled scans as they are and in simulated contrasts.

    python benchmarks/tissue.py --sets DATA/oasis:manual DATA/ixi:silver ... --out RECORD
    python benchmarks/tissue.py --page RECORD

Every scan is prepared (least-entropy bias field), and the labels of ``derivatives/manual`` or ``derivatives/silver``
(1 fluid and others, 2 gray, 3 white) are carried to the template's grid. Contrasts give the labels' tissues other
medians: gray/white as asked for, and the fluid/white ratio that sites with it have. Dice is taken where labels lie.

- network: the tissue network, included or ``--network FILE``.
- mixture: three Gaussians with the template's tissue maps, registered affinely, as priors.
- labels: what the network was taught with on other heads (demons, mixed voxels, a Markov field), on scans as they are.

Rows of an earlier run are kept, but for those of another network: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from tables import table

from blindharmony.files import file_sha256
from blindharmony.io.bids import find_scans
from blindharmony.io.volume import read_volume
from blindharmony.models.tissue import included_tissue, load_tissue, tissue_posterior
from blindharmony.preprocessing.grid import mask_box, sample, voxel_map
from blindharmony.preprocessing.recipe import prepare
from blindharmony.preprocessing.registration import load_template
from blindharmony.training.labels import label_head, template_atlas
from blindharmony.training.tissue import RECIPE
from blindharmony_benchmark.simulation.effects import CSF, GREY, WHITE, View, to_signals

CONTRASTS = (None, 0.55, 0.65, 0.75, 0.85)
TISSUES = ("fluid", "gray", "white")
_EM_ROUNDS, _SAMPLED = 40, 60_000


def mixture_posterior(image, mask):
    """Three Gaussians, priors of the template blurred by 2 mm."""
    fluid, gray, deep, white, stem = (ndimage.gaussian_filter(s, 2.0)[mask] for s in template_atlas().shares)
    priors = np.stack([fluid, gray + deep, white + stem]) + 0.05
    priors /= priors.sum(0)
    values = image[mask]
    some = np.random.default_rng(0).choice(values.size, min(_SAMPLED, values.size), replace=False)
    shares = priors[:, some] ** 3
    for last in range(_EM_ROUNDS):
        count = shares.sum(1)
        means = (shares * values[some]).sum(1) / count
        spreads = np.sqrt((shares * (values[some] - means[:, None]) ** 2).sum(1) / count)
        if last == _EM_ROUNDS - 1:
            some = slice(None)
        logs = np.log(priors[:, some] / spreads[:, None])
        logs -= 0.5 * ((values[some] - means[:, None]) / spreads[:, None]) ** 2
        shares = np.exp(logs - logs.max(0))
        shares /= shares.sum(0)
    posterior = np.zeros((3, *mask.shape), np.float32)
    posterior[:, mask] = shares
    return posterior


def label_posterior(image, mask):
    fluid, gray, deep, white, stem = label_head(image, mask)[0]
    return np.stack([fluid, gray + deep, white + stem])


def labelled(scan, labels, cache):
    """Image, mask and labels on the template's grid."""
    prepared = prepare(read_volume(scan), RECIPE, cache=cache)
    mask = prepared.scan.inside()
    image = np.where(mask, prepared.scan.data, 0).astype(np.float32)
    truth = nib.as_closest_canonical(nib.load(labels))
    to_truth = voxel_map(load_template().affine, prepared.registration.matrix, truth.affine)
    data = np.asarray(truth.dataobj)
    shares = np.stack([sample((data == k).astype(np.float32), to_truth, mask.shape) for k in (CSF, GREY, WHITE)])
    return image, mask, np.where((shares.max(0) > 0.25) & mask, shares.argmax(0) + 1, 0).astype(np.uint8)


def in_contrast(image, mask, labels, ratio):
    """The image with other tissue medians, root mean square 1."""
    if ratio is None:
        return image
    fluid = 0.24 + 0.2 * (ratio - 0.58) / (0.85 - 0.58)
    box, _ = mask_box(mask, margin=2)
    view = View(image[box].astype(np.float64), mask[box], (1.0, 1.0, 1.0), labels[box])
    made = np.zeros_like(image)
    made[box] = np.maximum(to_signals(view, {CSF: fluid, GREY: ratio, WHITE: 1.0})[0], 0) * mask[box]
    return made / np.sqrt(np.mean(made[mask] ** 2))


def dice(posterior, labels):
    """Of each tissue, where there are labels."""
    there = labels > 0
    made = posterior.argmax(0)[there] + 1
    truth = labels[there]
    overlaps = (2 * np.sum((made == k) & (truth == k)) / (np.sum(made == k) + np.sum(truth == k)) for k in (1, 2, 3))
    return [round(float(overlap), 4) for overlap in overlaps]


_HEAD = """# Tissue posteriors, measured

Made by `python benchmarks/tissue.py --page RECORD`; nothing here is typed by hand. Dice of
fluid / gray / white, mean over scans; *worst* is the lowest Dice of white matter. *As it is*: the prepared scan. Other
columns: gray/white medians changed to this, fluid/white with it. *Moved*: the largest change of a scan's Dice of gray
or white over these contrasts, mean over scans. `oasis` has manual labels, others those of a contrast-robust network.
"""


def page(record):
    """The tables of a record."""
    parts = [_HEAD.strip()]
    for name in dict.fromkeys(r["set"] for r in record["rows"]):
        table_rows = []
        for method in dict.fromkeys(r["method"] for r in record["rows"]):
            found = {
                (r["subject"], r["contrast"]): r for r in record["rows"] if (r["set"], r["method"]) == (name, method)
            }
            cells = []
            for contrast in CONTRASTS:
                dices = np.array([r["dice"] for (_, c), r in found.items() if c == contrast])
                cells.append(" / ".join(f"{d:.3f}" for d in dices.mean(0)) if len(dices) else "–")
            subjects = dict.fromkeys(s for s, _ in found)
            moved = [
                np.ptp([r["dice"][1:] for (who, c), r in found.items() if who == s and c is not None], axis=0).max()
                for s in subjects
                if any(who == s and c is not None for who, c in found)
            ]
            worst = min((r["dice"][2] for (_, c), r in found.items() if c is None), default=np.nan)
            seconds = np.mean([r["seconds"] for r in found.values()]) if found else np.nan
            end = [f"{np.mean(moved):.3f}" if moved else "–", f"{worst:.3f}", f"{seconds:.1f}"]
            table_rows.append([method, *cells, *end])
        scans = len({r["subject"] for r in record["rows"] if r["set"] == name})
        header = ["", "as it is", *(f"{c:g}" for c in CONTRASTS if c), "moved", "worst", "s of a core"]
        parts.append(f"## `{name}`, {scans} scans\n\n" + table(header, table_rows))
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[], metavar="FOLDER:LABELS")
    parser.add_argument("--subjects", nargs="+", metavar="SET:SUB-XX", help="only these, e.g. oasis:sub-1003")
    parser.add_argument("--methods", nargs="+", default=["network", "mixture", "labels"])
    parser.add_argument("--network", type=Path, help="file of weights; the included one by default")
    parser.add_argument("--cache", type=Path, help="folder in which preparation is kept")
    parser.add_argument("--out", type=Path, help="the record, gone on with if it exists")
    parser.add_argument("--page", type=Path, metavar="RECORD", help="write the page of a record beside it")
    o = parser.parse_args()
    if o.page:
        o.page.with_suffix(".md").write_text(page(json.loads(o.page.read_text())))
    if not o.out:
        return
    net = load_tissue(o.network) if "network" in o.methods else None
    methods = {
        "network": lambda image, mask: tissue_posterior(image, mask, net),
        "mixture": mixture_posterior,
        "labels": label_posterior,
    }
    record = json.loads(o.out.read_text()) if o.out.exists() else {"network": None, "rows": []}
    weights = file_sha256(o.network or included_tissue())[:12]
    rows = {(r["set"], r["subject"], r["contrast"], r["method"]): r for r in record["rows"]}
    if "network" in o.methods and record["network"] != weights:
        rows = {key: row for key, row in rows.items() if row["method"] != "network"}
        record["network"] = weights
    for given in o.sets:
        folder, kind = given.rsplit(":", 1)
        for labels in sorted(Path(folder, "derivatives", kind).rglob("*_dseg.nii.gz")):
            name, subject = Path(folder).name, labels.name.split("_")[0]
            if o.subjects and f"{name}:{subject}" not in o.subjects:
                continue
            scan = find_scans([Path(folder)], participant_labels=[subject])[0]
            keys = [(name, subject, c, m) for c in CONTRASTS for m in o.methods if m != "labels" or c is None]
            missing = [key for key in keys if key not in rows]
            if not missing:
                continue
            image, mask, truth = labelled(scan, labels, o.cache)
            for contrast in dict.fromkeys(key[2] for key in missing):
                seen = in_contrast(image, mask, truth, contrast)
                for key in (key for key in missing if key[2] == contrast):
                    method = key[3]
                    begin = time.process_time()
                    overlap = dice(methods[method](seen, mask), truth)
                    seconds = round(time.process_time() - begin, 1)
                    row = dict(zip(("set", "subject", "contrast", "method"), key, strict=True))
                    rows[key] = row | {"dice": overlap, "seconds": seconds}
                    print(*key, overlap, seconds, flush=True)
            record["rows"] = list(rows.values())
            o.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
