"""What harmonization could reach at most: the best functions of intensity, fitted to the truth itself.

    python benchmarks/limits.py DATA --set oasis --target TARGET --heads DIR --out FILE.json [--domains tissue ...]

For every simulated source and test subject, PSNR in dB as everywhere (brain, range the truth's 99th percentile):

- `curve`: the best increasing curve of intensity, fitted to this scan and its truth. No method that gives a scan one
  curve can be better, however well it guesses.
- `tissues`: the best curve for each tissue after it, blended by the shares that the tissue network sees in the scan
  (with `--tissues`). A method with a curve for each tissue, which knows the tissues as we do, cannot be better.
- `around`: the best function of a voxel's intensity and of the means around it (Gaussians of 1 and 3 mm), fitted
  to what the curve leaves. What a network that sees the neighbourhood could add, if it knew the other scanner.
"""

from __future__ import annotations

import json

import numpy as np
from scipy import ndimage, sparse

from blindharmony.harmonization.native import fitted_curve
from blindharmony.models.file import load_target
from blindharmony.models.tissue import class_posterior
from blindharmony.quality.metrics import psnr
from blindharmony_benchmark.cli.scripts import measuring
from blindharmony_benchmark.heads import heads_of
from blindharmony_benchmark.plan import read_splits
from blindharmony_benchmark.scanners import HARD, Scanner

_BINS, _WIDTHS = (80, 14, 10), (1.0, 3.0)
_KNOTS, _STRAIGHT = np.linspace(0.1, 1.5, 15), 2000.0  # flow units


def best_of(truth, *seen):
    """The mean of the truth over voxels that look alike: bins of equal counts of each feature."""
    cell = np.zeros(truth.size, np.int64)
    for feature, bins in zip(seen, _BINS, strict=True):
        edges = np.quantile(feature[::11], np.linspace(0, 1, bins + 1)[1:-1])
        cell = cell * bins + np.searchsorted(edges, feature)
    return (np.bincount(cell, truth) / np.maximum(np.bincount(cell), 1))[cell]


def best_by_tissue(left, image, shares):
    """The least-squares fit of what is left by a curve for each tissue, each voxel's blended by its shares."""
    cell = np.clip(np.searchsorted(_KNOTS, image) - 1, 0, len(_KNOTS) - 2)
    part = np.clip((image - _KNOTS[cell]) / (_KNOTS[cell + 1] - _KNOTS[cell]), 0, 1)
    voxels, n = np.arange(len(left)), len(_KNOTS)
    ends = [
        (k * n + cell + end, share * weight)
        for k, share in enumerate(shares)
        for end, weight in ((0, 1 - part), (1, part))
    ]
    columns, values = (np.concatenate(each) for each in zip(*ends, strict=True))
    design = sparse.csr_matrix((values, (np.tile(voxels, len(ends)), columns)), (len(left), len(shares) * n))
    # Where a tissue has hardly a voxel, its curve is straight.
    bend = sparse.block_diag([sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], (n - 2, n))] * len(shares))
    normal = (design.T @ design + _STRAIGHT * bend.T @ bend).toarray() + np.eye(len(shares) * n)
    return design @ np.linalg.solve(normal, design.T @ left)


def limits(image, truth, mask, *, tissues=False):
    """Of one scan: the best curve, a curve for each tissue if wanted, the best function of what is around a voxel."""
    top, out = float(np.quantile(truth[mask], 0.99)), np.zeros_like(truth)
    weight = [np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), s), 1e-3) for s in _WIDTHS]
    around = [
        (ndimage.gaussian_filter(np.where(mask, image, 0), s) / w)[mask] for s, w in zip(_WIDTHS, weight, strict=True)
    ]
    alone = np.where(mask, fitted_curve(image, truth, mask)(image), 0).astype(np.float32)
    # What the curve leaves, so that cells of finite size cost nothing.
    left = (truth - alone)[mask].astype(np.float64)
    out[mask] = alone[mask] + best_of(left, image[mask], *around)
    best = {"curve": psnr(truth, alone, mask, top)}
    if tissues:
        by_tissue = np.zeros_like(truth)
        by_tissue[mask] = alone[mask] + best_by_tissue(left, alone[mask], class_posterior(alone, mask)[:, mask])
        best["tissues"] = psnr(truth, by_tissue, mask, top)
    return best | {"around": psnr(truth, out, mask, top)}


def main():
    parser = measuring(__doc__)
    parser.add_argument("--domains", nargs="+", default=[*HARD, "raw gamma1.5"])
    parser.add_argument("--tissues", action="store_true", help="a curve for each tissue too: 3 s a scan")
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    split = read_splits(arguments.data)[arguments.set]
    heads = heads_of(split.folder, split.test, arguments.heads, target.info.recipe)
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for domain in arguments.domains:
        scans = Scanner.set_for(heads, domain, target.info.recipe).scans(heads)
        each = [
            limits(s.image, h.image, s.mask & h.mask, tissues=arguments.tissues)
            for s, h in zip(scans, heads, strict=True)
        ]
        row = {k: {"psnr": float(np.mean([e[k] for e in each])), "worst": min(e[k] for e in each)} for k in each[0]}
        row = {k: v | {"scans": [round(e[k], 2) for e in each]} for k, v in row.items()}
        found.setdefault(arguments.set, {})[domain] = row
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
        print(domain, row, flush=True)


if __name__ == "__main__":
    main()
