"""A study on a disk that fails once, at every call: is anything lost, or half-written, or left without a word?

    python benchmarks/faults.py --out docs/measured_faults.json

A ``bids`` run of two small scans is counted call by call (open, read, write, fsync, rename, stat, ..., of Python code,
below the data set and the output folder). Then it is repeated once for every call and kind of error, which meets that
one call, and once more without. ``tests/study/faulty_study.py`` says what has to hold. Three starts: an empty folder,
results of other settings, the same results. Where a fault leaves a state that the command has got over before, it is
not given once more. With ``--work real`` scans are harmonized with a small target; what is computed is computed once
and kept, so that a run takes less than a second. With ``--work fake`` the scans have no voxels; the files of the study
are the same.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/study"))
from faulty_study import BEFORE, FaultyStudy, fake_data_set, quick_commands

import blindharmony.api
from blindharmony import result
from blindharmony.harmonization.curve import ScannerRounds
from blindharmony.models.file import save_target
from blindharmony.preprocessing import recipe, registration
from blindharmony.report import scan as report
from blindharmony.study import cohort
from faults import KINDS
from heads import head_grid, synthetic_brain
from targets import synthetic_target


def real_data_set(root: Path) -> Path:
    """Two brains of 6 mm voxels, one scanner."""
    fake_data_set(root)
    for i in (1, 2):
        head = synthetic_brain(*head_grid(i, mm=6.0), seed=i)
        scan = nib.Nifti1Image(np.round(head.data).astype(np.int16), head.affine)
        nib.save(scan, root / f"sub-0{i}/anat/sub-0{i}_T1w.nii.gz")
    return root


class RealStudy(FaultyStudy):
    """Scans with voxels."""

    @staticmethod
    def complete(place: str, content: bytes) -> bool:
        """Whether a result can be read to its end."""
        try:
            if place.endswith(".nii.gz"):
                image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
                return bool(np.isfinite(image.get_fdata()).all())
            if place.endswith(".html"):
                return content.rstrip().endswith(b"</html>")
            return bool(json.loads(content))
        except Exception:
            return False


def mark(*parts: object) -> str:
    """A name of arguments: the voxels of arrays (every fourth), the words of others."""
    total = hashlib.sha1()
    for part in parts:
        if isinstance(part, np.ndarray):
            step = (slice(None, None, 4),) * part.ndim if part.size > 10**5 else ()
            total.update(np.ascontiguousarray(part[step]).tobytes())
        else:
            total.update(repr(part).encode())
    return total.hexdigest()


@contextmanager
def computed_once():
    """What a study computes is computed once for each input; files are read and written every time."""
    kept: dict[str, object] = {}

    def once(name, function, key):
        def call(*arguments, **options):
            where = name + key(*arguments, **options)
            if where not in kept:
                kept[where] = function(*arguments, **options)
            return kept[where]

        return call

    run_steps = recipe.run_steps

    def steps_once(scan, steps, *, known=None, earlier=(), file=None, progress=lambda share: None):
        cached = recipe.cached_results(file, steps) if file else None
        key = mark(scan.data, [str(step) for step in steps], sorted(known or ()), len(earlier))
        prepared = kept.setdefault(key, None) or run_steps(scan, steps, known=known, earlier=earlier)
        kept[key] = prepared
        if file and not cached:
            recipe.cache_results(file, [applied.result for applied in prepared.history[len(earlier) :]])
        return prepared

    def digest(scanner):
        return getattr(scanner, "digest", None)

    api = "blindharmony.api."
    patches = {
        "blindharmony.preprocessing.recipe.run_steps": steps_once,
        api + "estimate": once(
            "estimate",
            blindharmony.api.estimate,
            lambda method, data, inside, *more, scanner=None, **how: mark(data, digest(scanner)),
        ),
        api + "gather_evidence": once(
            "evidence",
            blindharmony.api.gather_evidence,
            lambda prepared, before, after, *more, scanner=None, **how: mark(before, after, digest(scanner)),
        ),
        api + "to_scan": once("back", blindharmony.api.to_scan, lambda prepared, estimate, *more: mark(estimate.image)),
        api + "summarize": once("summary", blindharmony.api.summarize, lambda data, *more: mark(data)),
        "blindharmony.report.scan.render_report": once(
            "page", report.render_report, lambda evidence: mark(evidence.name, sorted(evidence.provenance.items()))
        ),
    }
    patches["blindharmony.result.scan_evidence"] = once(
        "shown", result.scan_evidence, lambda made, written: mark(made.name, made.data, digest(made.scanner), written)
    )
    patches["blindharmony.study.cohort.scan_profiles"] = once(
        "profiles", cohort.scan_profiles, lambda made: mark(made.name, made.data, digest(made.scanner))
    )
    patches["blindharmony.result.versions"] = lru_cache(result.versions)
    figures = once(
        "figures",
        result.HarmonizeResult.figures.func,
        lambda made: mark(made.name, made.data, digest(made.scanner)),
    )
    fit = once("fit", ScannerRounds.after, lambda rounds, found: mark(rounds.number, *(s.quantiles for s in found)))
    with ExitStack() as stack:
        for name, function in patches.items():
            stack.enter_context(mock.patch(name, function))
        stack.enter_context(mock.patch.object(ScannerRounds, "after", fit))
        stack.enter_context(mock.patch.object(result.HarmonizeResult, "figures", property(figures)))
        # A synthetic head lies where the moments of its mask say.
        stay = mock.patch.object(registration, "_climb", lambda fixed, moving, around, start, **how: start)
        stack.enter_context(stay)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=("fake", "real"), default=["fake", "real"])
    parser.add_argument("--before", nargs="+", choices=BEFORE, default=list(BEFORE))
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--every", type=int, default=1, help="only each n-th call")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows, bad = [], []
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    for work in arguments.work:
        folder = Path(tempfile.mkdtemp(prefix="faults-", dir=memory))
        target = folder / "tiny.safetensors"
        save_target(synthetic_target(), target)
        study = (fake_data_set if work == "fake" else real_data_set)(folder / "study")
        with quick_commands(fake=work == "fake"), ExitStack() as stack:
            if work == "real":
                stack.enter_context(computed_once())
            for before in arguments.before:
                kind_of_study = FaultyStudy if work == "fake" else RealStudy
                faulty = kind_of_study(study, folder, target, before)
                for kind in arguments.kind:
                    begun, codes = time.perf_counter(), Counter()
                    numbers = range(0, len(faulty.calls), arguments.every)
                    if kind == "short":
                        numbers = [k for k in numbers if faulty.calls[k] == "write"]
                    row = {"work": work, "before": before, "kind": kind, "calls": len(faulty.calls)}
                    row |= {"every": arguments.every}
                    rows.append(row)
                    for at in numbers:
                        happened, code, broken = faulty.broken_law(at, kind)
                        codes[str(code)] += 1
                        if broken:
                            bad.append({"work": work, "before": before, "what": happened, "broken": broken})
                            print(json.dumps(bad[-1]), flush=True)
                        row |= {"faults": sum(codes.values()), "exit codes": dict(sorted(codes.items()))}
                        # A run of hours that is stopped keeps what it has measured.
                        if arguments.out and (row["faults"] % 50 == 0 or row["faults"] == len(numbers)):
                            arguments.out.write_text(json.dumps({"rows": rows, "bad": bad[:200]}, indent=1) + "\n")
                    print(row, f"{time.perf_counter() - begun:.0f} s", flush=True)
        shutil.rmtree(folder)
    print(f"{sum(row['faults'] for row in rows)} faults, {len(bad)} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
