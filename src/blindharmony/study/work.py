"""The work of one scan.

Scan summaries as files.

The three pieces of work of a cohort run, as workers do them: look at a scan, fit a scanner, harmonize a scan.

Each takes JSON and returns JSON, writes whole files or none, and may be done twice without harm.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from blindharmony.errors import InputError, UsageError
from blindharmony.files import mask_name, sidecar_name, write_bytes, write_sidecar
from blindharmony.harmonization.summary import ScanSummary
from blindharmony.study.cohort import scan_profiles
from blindharmony.study.ledger import note_path, publish
from blindharmony.version import VERSION

if TYPE_CHECKING:
    from blindharmony.models.target import Target
    from blindharmony.result import HarmonizeResult


def keep_summary(path: Path, summary: ScanSummary) -> Path:
    """Write a summary, about 10 kB, to the last digit.

    Raises:
        OutputError: If it cannot be written.
    """
    arrays = {"quantiles": summary.quantiles, "whole": summary.whole, "person": summary.person}
    return write_bytes(path, save(arrays, {"surprise": float(summary.surprise).hex()}), overwrite=True)


def kept_summary(path: Path) -> ScanSummary:
    """Read a summary.

    Raises:
        InputError: If it is not there or damaged.

    Example:
        >>> import tempfile, numpy as np
        >>> one = ScanSummary(np.arange(2.0), np.arange(3.0), np.ones(2), 0.1)
        >>> kept_summary(keep_summary(Path(tempfile.mkdtemp(), "a.safetensors"), one)).surprise
        0.1
    """
    try:
        content = path.read_bytes()
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        surprise = _surprise(content[8 : 8 + length])
        return ScanSummary(arrays["quantiles"], arrays["whole"], arrays["person"], surprise)
    except (OSError, SafetensorError, KeyError, ValueError):
        raise InputError("this scan summary is damaged", remedy="delete it and run again", path=path) from None


def _surprise(header: bytes) -> float:
    import json

    return float.fromhex(json.loads(header)["__metadata__"]["surprise"])


_MASK = {"Description": "Brain that was harmonized", "Type": "Brain", "SpatialReference": "orig"}


def look(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Summarize a scan into ``asked["file"]``."""
    from blindharmony.api import summarize_scan
    from blindharmony.harmonization.scanner import ScannerModel

    target = _target(asked)
    first = ScannerModel.load(Path(asked["first"]), target) if asked["first"] else None
    found = summarize_scan(
        asked["scan"],
        target,
        scanner=first,
        mask=asked["mask"],
        mask_command=asked["mask_command"],
        device=asked["device"],
        cache=_cache(asked),
    )
    file = Path(asked["file"])
    keep_summary(file, found)
    stage = file.name.split(".")[0]
    for old in file.parent.glob(f"{stage}.*.safetensors"):
        if old != file:
            old.unlink(missing_ok=True)
    return {}


def fit(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Fit a scanner to summaries and keep it in ``asked["file"]``; in later rounds with those before inside."""
    from blindharmony.api import needs_round, with_round
    from blindharmony.harmonization.scanner import ScannerModel, fit_scanner

    target = _target(asked)
    summaries = [kept_summary(Path(p)) for p in asked["summaries"]]
    if asked["first"]:
        model = with_round(ScannerModel.load(Path(asked["first"]), target), summaries, target)
    else:
        model = fit_scanner(summaries, target)
    file = model.save(Path(asked["file"]), overwrite=True)
    note = {
        "again": needs_round(model, target),
        "digest": model.digest,
        "scans": model.scans,
        "disagreement": model.disagreement,
    }
    write_sidecar(note_path(file), note, overwrite=True)
    return note


def harmonize(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Harmonize a scan, publish the files and return its record."""
    from blindharmony.api import harmonize as one

    staged = Path(asked["staging"])
    shutil.rmtree(staged, ignore_errors=True)
    result = one(
        asked["scan"],
        _target(asked),
        mask=asked["mask"],
        mask_command=asked["mask_command"],
        scanner=asked["scanner"],
        refine=asked["refine"],
        keep_bias=asked["keep_bias"],
        device=asked["device"],
        seed=asked["seed"],
        cache=_cache(asked),
    )
    source = f"bids:raw:{asked['place']}"
    result.sidecar["Sources"] = [source]
    if result.sidecar["SourceSHA256"] != asked["sha"]:
        raise InputError("the scan was changed while the run was going on", remedy="run again", path=asked["scan"])
    result.save(staged, report=asked["report"], uncertainty=asked["uncertainty"], overwrite=True)
    mask = staged / sidecar_name(mask_name(result.name))
    write_sidecar(mask, {**_MASK, "Sources": [source]}, overwrite=True)
    home = Path(asked["home"])
    record = publish(staged, Path(asked["out"]), asked["folder"], home, {**asked["record"], **_figures(result)})
    if cache := _cache(asked):
        shutil.rmtree(cache, ignore_errors=True)
    return record


def _figures(result: HarmonizeResult) -> dict[str, Any]:
    before, after = result.before, result.after
    return {
        "status": "done",
        "verdict": result.trust.level,
        "headline": result.trust.headline,
        "warnings": list(result.warnings),
        "seconds": round(sum(result.seconds.values()), 2),
        "excess_before": before and round(before.excess, 3),
        "excess_after": after and round(after.excess, 3),
        "bits_before": before and round(before.bits, 4),
        "bits_after": after and round(after.bits, 4),
        "figures": dict(result.figures),
        **scan_profiles(result),
    }


def _cache(asked: Mapping[str, Any]) -> Path | None:
    return Path(asked["home"], "prepared") if asked["cache"] else None


def _target(asked: Mapping[str, Any]) -> Target:
    if asked["version"] != VERSION:
        what = f"the worker has blindharmony {VERSION}, the run {asked['version']}"
        raise UsageError(what, remedy="install the same version everywhere")
    target = _loaded(asked["target"])
    if target.digest != asked["digest"]:
        raise UsageError(f"the worker finds another target model in {asked['target']}", remedy="run again")
    return target


@lru_cache(maxsize=1)
def _loaded(name: str) -> Target:
    from blindharmony.models.file import load_target

    return load_target(name)
