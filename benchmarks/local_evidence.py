"""Does the map of the flow's density find what does not belong into a head? Spheres, halves, false alarms.

    python benchmarks/local_evidence.py --known HEAD ... --healthy NAME=HEAD,HEAD ... --into HEAD ... --out FILE.json

KNOWN heads are unseen scans of the target; they say what is usual at each place. HEALTHY heads of any scanner give the
false alarms, a row for each set. Spheres of four sizes, at five places, of three intensities are put INTO heads, and
one half of each is replaced by the mirrored other one. A head is a scan, or a file ``.safetensors`` with a prepared
``image`` and ``mask`` on the template grid. An alarm is a cluster heavier than the KNOWN heads' 95 % limit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy import ndimage

from blindharmony.api import prepared_for
from blindharmony.io.volume import read_volume
from blindharmony.models.file import load_target
from blindharmony.quality.local import LocalReference, largest_cluster, place_costs, unlike
from blindharmony.quality.typicality import reference_score
from blindharmony.settings import CheckSettings

# Template voxels: frontal and parietal white matter, thalamus, temporal lobe, cerebellum.
PLACES = {
    "frontal": (52, 138, 92),
    "parietal": (104, 62, 106),
    "thalamus": (70, 84, 80),
    "temporal": (32, 92, 56),
    "cerebellum": (98, 44, 36),
}
DIAMETERS_MM = (10, 20, 30, 50)
# In flow units: fluid, gray matter, and brighter than white matter as with a contrast agent.
INTENSITIES = {"fluid": 0.5, "gray": 0.86, "bright": 1.8}
LIMITS = CheckSettings(rare=0.05)


def head(file, target):
    """Prepared image and mask."""
    if str(file).endswith(".safetensors"):
        arrays = load_file(file)
        return arrays["image"].astype(np.float32), arrays["mask"].astype(bool)
    prepared = prepared_for(target, read_volume(file))
    return prepared.scan.data, prepared.scan.inside()


def with_sphere(image, mask, centre, diameter, intensity, rng):
    """A sphere with soft edges and the noise of the head around it."""
    grid = np.meshgrid(*(np.arange(n) - c for n, c in zip(image.shape, centre, strict=True)), indexing="ij")
    share = np.clip(diameter / 2 + 0.5 - np.sqrt(sum(g**2 for g in grid)), 0, 1).astype(np.float32)
    noise = ndimage.gaussian_filter(rng.normal(0, 0.06, image.shape), 0.6).astype(np.float32)
    return np.where(mask, image * (1 - share) + share * (intensity + noise), 0).astype(np.float32)


def mirrored(image, mask):
    """The right half of the head is the left one, mirrored."""
    half = image.shape[0] // 2
    both = [np.concatenate([x[:half], x[:half][::-1]]) for x in (image, mask)]
    return both[0], both[1]


def main() -> None:
    """Run it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--target", default="ds002748")
    p.add_argument("--known", nargs="+", required=True, type=Path)
    p.add_argument("--healthy", nargs="+", default=[], metavar="NAME=HEAD,HEAD")
    p.add_argument("--into", nargs="+", default=[], type=Path)
    p.add_argument("--out", type=Path, required=True)
    arguments = p.parse_args()
    target, rng = load_target(arguments.target), np.random.default_rng(0)
    reference = LocalReference.of([place_costs(*head(file, target), target) for file in arguments.known])
    known = np.log1p(reference.masses)
    limit = reference_score("mass", 0.0, known, settings=LIMITS).usual[1]
    record = {
        "target": target.digest,
        "known": len(known),
        "limit": round(float(np.expm1(limit)), 1),
        "known masses": [round(m, 1) for m in reference.masses],
        "healthy": {},
        "spheres": [],
        "mirrored": [],
    }

    def judged(image, mask):
        cluster = largest_cluster(unlike(place_costs(image, mask, target), reference))
        return {"mass": round(cluster.mass, 1), "alarm": bool(np.log1p(cluster.mass) > limit), "at": cluster.centre}

    for words in arguments.healthy:
        name, _, files = words.partition("=")
        record["healthy"][name] = [judged(*head(file, target)) for file in files.split(",")]
        print(name, record["healthy"][name], flush=True)
    for file in arguments.into:
        image, mask = head(file, target)
        record["mirrored"].append(judged(*mirrored(image, mask)))
        for size in DIAMETERS_MM:
            for place, centre in PLACES.items():
                for words, intensity in INTENSITIES.items():
                    row = judged(with_sphere(image, mask, centre, size, intensity, rng), mask)
                    near = float(np.linalg.norm(np.subtract(row["at"], centre))) <= size / 2 + 10
                    record["spheres"].append({"mm": size, "place": place, "intensity": words, "there": near, **row})
                    print(file.stem, record["spheres"][-1], flush=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
