"""The intensities of every scan in a hundred numbers, so that a page can show a whole cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.image import write_sidecar
from blindharmony.report.histogram import distances, quantiles
from blindharmony.study.ledger import Ledger, read_json

if TYPE_CHECKING:
    from blindharmony.result import HarmonizeResult
    from blindharmony.target import Target

Profile = NDArray[np.float64]

LEVELS: Profile = np.linspace(0.005, 0.995, 100)
_FILE = "target.json"


@dataclass(frozen=True, eq=False)
class TargetProfiles:
    """The target's own scans, as far as a cohort's page needs them.

    Attributes:
        name: Of the target.
        digest: Of its model.
        profiles: Intensities of its scans at ``LEVELS``, target units, shape ``(scans, 100)``.
    """

    name: str
    digest: str
    profiles: Profile


def target_profiles(target: Target) -> Profile:
    """Intensities of the target's scans at ``LEVELS``, target units, shape ``(scans, 100)``."""
    rows = [np.interp(LEVELS, target.levels, row) for row in target.quantiles * target.info.unit]
    return np.array(rows).reshape(-1, LEVELS.size)


def scan_profiles(result: HarmonizeResult) -> dict[str, Any]:
    """What a scan's record keeps: both profiles and both distances from the target's median scan, target units."""
    unit, inside = result.target.info.unit, result.prepared.scan.inside()
    before, after = (quantiles(image, inside, LEVELS) * unit for image in (result.source_image, result.estimate.image))
    found: dict[str, Any] = {
        "profile_before": before.round(1).tolist(),
        "profile_after": after.round(1).tolist(),
    }
    target = target_profiles(result.target)
    if len(target):
        distance = distances(before, after, target, LEVELS)
        found |= {"distance_before": round(distance.before, 3), "distance_after": round(distance.after, 3)}
    return found


def keep_target(ledger: Ledger, target: Target) -> None:
    """Note the target's profiles in the ledger, for the cohort's page.

    Raises:
        OutputError: If they cannot be written.
    """
    content = {
        "name": target.info.name,
        "digest": target.digest,
        "profiles": target_profiles(target).round(1).tolist(),
    }
    write_sidecar(ledger.home / _FILE, content, overwrite=True)


def kept_target(ledger: Ledger) -> TargetProfiles | None:
    """The target of the last run in this folder; None if it is not known or damaged."""
    found = read_json(ledger.home / _FILE) or {}
    rows = found.get("profiles")
    profiles = [profile_of({"row": row}, "row") for row in rows] if isinstance(rows, list) else []
    whole = [p for p in profiles if p is not None]
    if not whole or len(whole) != len(profiles):
        return None
    return TargetProfiles(str(found.get("name", "")), str(found.get("digest", "")), np.array(whole))


def profile_of(record: Mapping[str, Any], key: str) -> Profile | None:
    """A profile in a record; None if it has none, as records of older runs."""
    try:
        found = np.asarray(record.get(key), np.float64)
    except (TypeError, ValueError):
        return None
    return found if found.shape == LEVELS.shape and np.isfinite(found).all() else None
