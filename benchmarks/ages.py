"""Whether a harmonization keeps what age does to the brain: real scans of another scanner, manual labels as the truth.

    python benchmarks/ages.py DATA --set ds002748 --source oasis --target ds002748 --heads DIR --learnt DIR --out FILE

A segmenter that was taught on scans of the target scanner alone sees everybody of the source, as the scans came and
after each system. Gray matter's share of the tissues falls with age; told is how steeply, how far it is from that of
the manual labels, and whether people keep their order. Nobody of the source has taught anything. Results are kept
system by system: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blindharmony.device import exact_convolutions
from blindharmony.io.tables import read_table
from blindharmony.models.file import load_target
from blindharmony.models.target import Target
from blindharmony_benchmark.cli.scripts import measuring
from blindharmony_benchmark.heads import heads_of
from blindharmony_benchmark.measures import TISSUES
from blindharmony_benchmark.plan import Split, read_splits
from blindharmony_benchmark.registry import chosen
from blindharmony_benchmark.scanners import own, real
from blindharmony_benchmark.segmenters import Labels, included_segmenter
from blindharmony_benchmark.system import Material, Picture

SYSTEMS = ("nothing", "n4-match", "pooled-match", "curve", "group")


def shares(labels: np.ndarray) -> dict[str, float]:
    """Share of each tissue among the three."""
    counts = {name: int((labels == label).sum()) for name, label in TISSUES.items()}
    return {name: round(count / sum(counts.values()), 6) for name, count in counts.items()}


def ages_of(study: Path) -> dict[str, float]:
    """Subject → age in years, as ``participants.tsv`` has it."""
    _, rows = read_table(study / "participants.tsv")
    return {row["participant_id"]: float(row["age"]) for row in rows}


def segmenter_of(split: Split, target: Target, arguments: argparse.Namespace) -> Labels:
    """The segmenter, taught on the target's training people, or as it was kept."""
    training, held = (
        own(heads_of(split.folder, people, arguments.heads, target.info.recipe))
        for people in (split.train, split.validation)
    )
    return included_segmenter(training, held, arguments.learnt, arguments.minutes, 0, lambda *_: None)


def measured(name: str, scans: Sequence[Picture], target: Target, segmenter: Labels) -> dict[str, dict[str, float]]:
    """Subject → shares of the tissues after a system."""
    with exact_convolutions():
        images = chosen([name])[0].system().harmonize(scans, Material(target, (), (), (), (), Path(), 0.0))
    labels = (segmenter.labels(image, s.mask, thorough=False) for image, s in zip(images, scans, strict=True))
    return {s.subject: shares(found) for s, found in zip(scans, labels, strict=True)}


def main() -> None:
    """Run it."""
    parser = measuring(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--learnt", type=Path, required=True, help="where the segmenter is kept")
    parser.add_argument("--minutes", type=float, default=10.0, help="for which the segmenter is taught")
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    arguments = parser.parse_args()
    target, splits = load_target(arguments.target), read_splits(arguments.data)
    source = splits[arguments.source]
    segmenter = segmenter_of(splits[arguments.set], target, arguments)
    people = sorted({*source.train, *source.validation, *source.test})
    scans = real(heads_of(source.folder, people, arguments.heads, target.info.recipe), target.info.recipe)
    record = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    ages = ages_of(source.folder)
    record |= {
        "target": target.digest,
        "set": arguments.set,
        "source": arguments.source,
        "age": {s.subject: ages[s.subject] for s in scans},
        "truth": {s.subject: shares(s.labels) for s in scans if s.labels is not None},
    }
    systems = record.setdefault("systems", {})
    for name in arguments.systems:
        if name not in systems:
            systems[name] = measured(name, scans, target, segmenter)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        grey = [systems[name][s.subject]["grey"] for s in scans]
        print(name, f"grey matter {100 * float(np.mean(grey)):.1f} %", flush=True)


if __name__ == "__main__":
    main()
