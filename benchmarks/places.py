"""Does the map of the flow's density find what does not belong into a head, and how often does it find nothing?

    python benchmarks/places.py --healthy NAME=SCAN,SCAN ... --into SCAN ... --patients SCAN ... \\
        --lesions MASK ... --out docs/measured_places.json

HEALTHY scans of any scanner are harmonized as the command does it: alarms of the checks "unlike place" (the flow's
map) and "dark place" (how dark tissue is) are false. Into
the others, prepared and not harmonized, are put spheres of four sizes, at five places, of three intensities; the
lesions of patients (MASK, in MNI space; white matter only); and a half that is the mirrored other one, on the scan's
own grid. PATIENTS are harmonized and judged as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from blindharmony.api import harmonize, prepared_for
from blindharmony.io.volume import read_volume
from blindharmony.models.file import load_target
from blindharmony.preprocessing.registration import load_template
from blindharmony.quality.checks import dark_place, darkest_place, places_to_show, unlike_in_all, unlike_place
from blindharmony.quality.places import likeness_of_halves
from blindharmony.quality.typicality import reference_score, white_matter
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
# In units of white matter: fluid, gray matter, and brighter than white matter as with a contrast agent.
INTENSITIES = {"fluid": 0.4, "gray": 0.68, "bright": 1.43}
LIMITS = CheckSettings()


def with_sphere(image, mask, centre, diameter, intensity, rng):
    """A sphere with soft edges and the noise of the head around it."""
    grid = np.meshgrid(*(np.arange(n) - c for n, c in zip(image.shape, centre, strict=True)), indexing="ij")
    share = np.clip(diameter / 2 + 0.5 - np.sqrt(sum(g**2 for g in grid)), 0, 1).astype(np.float32)
    return pasted(image, mask, share, intensity, rng)


def pasted(image, mask, share, intensity, rng):
    """This share of every voxel is of this intensity, with noise."""
    noise = ndimage.gaussian_filter(rng.normal(0, 0.06, image.shape), 0.6).astype(np.float32)
    return np.where(mask, image * (1 - share) + share * (intensity + noise), 0).astype(np.float32)


def mirrored(image, mask):
    """The right half of a scan is the left one, mirrored about the middle of the brain."""
    half = round(ndimage.center_of_mass(mask)[0])
    both = []
    for x in (image, mask):
        copied = x.copy()
        size = min(half, len(x) - half)
        copied[half : half + size] = x[half - size : half][::-1]
        both.append(copied)
    return both


def on_template(mask):
    """A patient's lesions on the template grid; both are in MNI space."""
    template = load_template()
    to_mask = np.linalg.inv(mask.affine) @ template.affine
    lesions = np.asarray(mask.dataobj, np.float32) > 0
    return ndimage.affine_transform(lesions, to_mask, output_shape=template.data.shape, order=0)


def judged(image, mask, target):
    """The most unlike and the darkest place, and whether either is an alarm."""
    places = {
        "unlike": (unlike_in_all((image,), mask, target, settings=LIMITS), target.places),
        "dark": (darkest_place((image,), mask, target, settings=LIMITS), target.dark_places),
    }
    alarms = [name for name, (place, usual) in places.items() if place.z > limit_of(usual)]
    shown = max((place for place, _ in places.values()), key=lambda place: place.z)
    z = {name: round(place.z, 1) for name, (place, _) in places.items()}
    return {"z": z, "alarm": alarms, "at": places[alarms[0]][0].centre if alarms else shown.centre}


def limit_of(usual):
    """What is beyond it is rare among the target's scans."""
    return float(np.expm1(reference_score("place", 0.0, np.log1p(usual.largest), settings=LIMITS).usual[1]))


def through_the_method(file, target):
    """The checks of a scan that is harmonized as the command does it."""
    evidence = harmonize(file, target).evidence
    checks = {"unlike": unlike_place(evidence)[0], "dark": dark_place(evidence)[0]}
    row = {
        "scan": Path(file).name,
        "z": {name: round(check.value, 1) for name, check in checks.items()},
        "alarm": [name for name, check in checks.items() if check.severity],
    }
    shown = max(places_to_show(evidence).values(), key=lambda place: place.z, default=None)
    return row | ({"at": shown.centre, "words": [checks[name].message for name in row["alarm"]]} if shown else {})


def main() -> None:
    """Run it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--target", default="ds002748")
    p.add_argument("--healthy", nargs="+", default=[], metavar="NAME=SCAN,SCAN")
    p.add_argument("--into", nargs="+", default=[], type=Path)
    p.add_argument("--patients", nargs="+", default=[], type=Path)
    p.add_argument("--lesions", nargs="+", default=[], type=Path)
    p.add_argument("--out", type=Path, required=True)
    arguments = p.parse_args()
    target, rng = load_target(arguments.target), np.random.default_rng(0)
    record = {
        "target": target.digest,
        "scans": len(target.places.largest),
        **{
            name: {"limit": limit_of(usual), "largest": [round(z, 1) for z in usual.largest.tolist()]}
            for name, usual in (("unlike", target.places), ("dark", target.dark_places))
        },
        **{kind: [] for kind in ("healthy", "spheres", "lesions", "mirrored", "patients")},
    }

    def note(kind, row):
        record[kind].append(row)
        print(kind, row, flush=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    white = white_matter(target)
    masks = {file.name.split("_")[0]: on_template(nib.load(file)) for file in arguments.lesions}
    for file in arguments.into:
        prepared = prepared_for(target, read_volume(file))
        image, inside, native = prepared.scan.data, prepared.scan.inside(), prepared.native
        halves = [
            likeness_of_halves(*pair)
            for pair in ((native.data, native.inside()), mirrored(native.data, native.inside()))
        ]
        note("mirrored", {"scan": file.name, "before": round(halves[0], 3), "after": round(halves[1], 3)})
        for size in DIAMETERS_MM:
            for place, centre in PLACES.items():
                for words, level in INTENSITIES.items():
                    row = judged(with_sphere(image, inside, centre, size, level * white, rng), inside, target)
                    near = float(np.linalg.norm(np.subtract(row["at"], centre))) <= size / 2 + 10
                    about = {"scan": file.name, "mm": size, "place": place, "intensity": words}
                    note("spheres", {**about, "there": near, **row})
        for patient, mask in masks.items():
            here = mask & inside & (image > 0.85 * white)
            share = ndimage.gaussian_filter(here.astype(np.float32), 0.5)
            for words, level in (("gray", INTENSITIES["gray"]), ("black hole", 0.5)):
                row = judged(pasted(image, inside, share, level * white, rng), inside, target)
                note(
                    "lesions",
                    {
                        "scan": file.name,
                        "patient": patient,
                        "ml": round(float(here.sum()) / 1000, 1),
                        "intensity": words,
                        **row,
                    },
                )
    for file in arguments.patients:
        note("patients", through_the_method(file, target))
    for words in arguments.healthy:
        name, _, files = words.partition("=")
        for file in files.split(","):
            note("healthy", {"set": name, **through_the_method(file, target)})


if __name__ == "__main__":
    main()
