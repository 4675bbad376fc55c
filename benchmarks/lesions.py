"""Do lesions survive? Their contrast to the white matter around them before and after, in units of the tissue contrast.

    python benchmarks/lesions.py --pair SCAN RESULT LESIONS [--pair ...] --out docs/measured_lesions.json

SCAN and RESULT are a scan and its harmonized file, LESIONS a mask on their grid. For each lesion of at least 0.03 ml

    c = (W − L) / (W − G)

with L its median intensity, W the median of white matter within 10 mm of it, and G that of the brain's gray matter: 0
looks like white matter, 1 like gray matter. What is white and gray is taken from the scan alone, so that both files are
asked at the same voxels. A lesion has disappeared if less than half of a contrast above 0.2 is left. A lesion is made
where 0.03 ml of sure white matter without a lesion is darker than c = 0.5 in the result and was below 0.25 in the scan.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from blindharmony.quality.metrics import tissue_medians

LEAST_ML, AROUND_MM, VISIBLE, DARK = 0.03, 10.0, 0.2, 0.5


def tissues(scan, lesions):
    """White and gray matter of a scan, each without its rim and without lesions."""
    brain = scan > 0
    fluid, gray, white = tissue_medians(scan[brain & ~lesions])
    inner = {
        "white": (scan > (gray + white) / 2) & (scan < white + (white - gray)),
        "gray": (scan > (fluid + gray) / 2) & (scan < (gray + white) / 2),
    }
    away = ~ndimage.binary_dilation(lesions, iterations=2)
    return {name: ndimage.binary_erosion(x & brain) & away for name, x in inner.items()}


def contrasts(image, lesions, white, gray, mm):
    """The contrast of each lesion; NaN where no white matter is near."""
    labels, count = ndimage.label(lesions)
    g = np.median(image[gray])
    rows = []
    for index, box in enumerate(ndimage.find_objects(labels), 1):
        margin = [int(np.ceil(AROUND_MM / s)) for s in mm]
        wide = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margin, strict=True))
        inside = labels[wide] == index
        ml = float(inside.sum() * np.prod(mm) / 1000)
        near = (ndimage.distance_transform_edt(~inside, sampling=mm) <= AROUND_MM) & white[wide]
        if ml < LEAST_ML or near.sum() < 50:
            continue
        w = np.median(image[wide][near])
        rows.append((ml, float((w - np.median(image[wide][inside])) / (w - g))))
    return np.array(rows), count


def made(before, after, lesions, white, gray, mm):
    """Places of sure white matter, away from lesions, that only the result shows darker."""
    maps = []
    for image in (before, after):
        w, g = (np.median(image[x]) for x in (white, gray))
        maps.append((w - ndimage.median_filter(image, 3)) / (w - g))
    sure = ndimage.binary_erosion(white, iterations=1)
    labels, count = ndimage.label(sure & (maps[1] > DARK) & (maps[0] < DARK / 2))
    sizes = ndimage.sum(np.ones(labels.shape), labels, range(1, count + 1)) * np.prod(mm) / 1000
    return int((np.asarray(sizes) >= LEAST_ML).sum())


def compared(scan, result, mask):
    """One row of the record."""
    image = nib.load(scan)
    mm = image.header.get_zooms()[:3]
    before, after = (np.asarray(nib.load(file).dataobj, np.float32) for file in (scan, result))
    lesions = np.asarray(nib.load(mask).dataobj) > 0.5
    tissue = tissues(before, lesions)
    first, second = (contrasts(x, lesions, tissue["white"], tissue["gray"], mm)[0] for x in (before, after))
    seen = np.abs(first[:, 1]) >= VISIBLE
    change = second[seen, 1] / first[seen, 1] - 1
    weight = first[:, 0] / first[:, 0].sum()
    sidecar = json.loads(Path(str(result).replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
    return {
        "scan": Path(scan).name,
        "lesion mask given": bool(sidecar["Parameters"].get("LesionMask")),
        "verdict": sidecar["Verdict"]["Level"],
        "lesions": len(first),
        "visible": int(seen.sum()),
        "ml": round(float(first[:, 0].sum()), 2),
        "contrast before": round(float(weight @ first[:, 1]), 4),
        "contrast after": round(float(weight @ second[:, 1]), 4),
        "change (%)": round(100 * float((weight @ second[:, 1]) / (weight @ first[:, 1]) - 1), 1),
        "change of a visible lesion, median and quartiles (%)": [
            round(100 * float(x), 1) for x in np.quantile(change, (0.5, 0.25, 0.75))
        ],
        "within 10 % (of the visible)": round(float(np.mean(np.abs(change) <= 0.1)), 3),
        "disappeared": int((second[seen, 1] / first[seen, 1] < 0.5).sum()),
        "made": made(before, after, lesions, tissue["white"], tissue["gray"], mm),
    }


def main() -> None:
    """Run it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pair", nargs=3, action="append", required=True, metavar=("SCAN", "RESULT", "LESIONS"))
    p.add_argument("--out", type=Path, required=True)
    arguments = p.parse_args()
    rows = []
    for pair in arguments.pair:
        rows.append(compared(*pair))
        print(rows[-1], flush=True)
    arguments.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
