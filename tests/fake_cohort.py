"""Rows of a cohort that never was: any number of scans of a few scanners, some odd, some without a result."""

import numpy as np

from blindharmony.quality.typicality import intensity_distance
from blindharmony.study.cohort import LEVELS, TargetProfiles


def fake_target(scans=22, seed=0):
    """Brains with three tissues, each person a little different."""
    rng = np.random.default_rng(seed)
    return TargetProfiles("fake", "0123456789ab", np.array([_person(rng) for _ in range(scans)]))


def fake_rows(count, target, *, scanners=4, seed=1):
    """As ``cohort_rows`` gives them; every 50th scan is odd, every 100th has no result."""
    rng = np.random.default_rng(seed)
    curves = [(rng.uniform(0.6, 1.6), rng.uniform(0.7, 1.4)) for _ in range(scanners)]
    rows = []
    for i in range(count):
        name, which = f"sub-{i:04d}", i % (scanners + 1)
        after = _person(rng) * (1.25 if i % 50 == 7 else 1.0)
        gain, power = curves[which % scanners]
        before = gain * 1300 * (after / 1300) ** power
        first, last = (intensity_distance(p, target.profiles, LEVELS) for p in (before, after))
        failed = i % 100 == 99
        rows.append(
            {
                "participant_id": name,
                "session_id": None,
                "scan": f"{name}/anat/{name}_T1w.nii.gz",
                "status": "failed" if failed else "done",
                "reason": "no brain was found; give a mask" if failed else None,
                "scanner": f"alone-{name}" if which == scanners else f"Maker-{which}-abcdef",
                "scanner_scans": 1 if which == scanners else count // (scanners + 1),
                "why": "alone: no sidecar names its scanner"
                if which == scanners
                else f"same Manufacturer 'maker {which}'",
                "verdict": None if failed else "caution" if i % 50 == 7 else "good",
                "distance_before": None if failed else round(first, 3),
                "distance_after": None if failed else round(last, 3),
                "excess_before": None if failed else round(float(rng.normal(5, 2)), 3),
                "excess_after": None if failed else round(float(rng.normal(0, 1)) + (6 if i % 50 == 7 else 0), 3),
                "bits_before": None if failed else 6.5,
                "bits_after": None if failed else 6.0,
                "file_change_percent": None if failed else round(float(rng.gamma(4, 2)), 2),
                "file_correlation": None if failed else 0.99,
                "contrast": None if failed else round(0.6 + 0.05 * which, 3),
                "width": None if failed else round(3.2 + 0.5 * which, 2),
                "warnings": ["The result is unusual."] if i % 50 == 7 else [],
                "seconds": None if failed else 21.3,
                "report": None if failed else f"{name}/anat/{name}_desc-harmonized_T1w.html",
                "profile_before": None if failed else before.round(1),
                "profile_after": None if failed else after.round(1),
                "thumbnail": None if failed else f"data:image/jpeg;base64,{i:08d}",
            }
        )
    return rows


def _person(rng):
    fluid = rng.uniform(0.15, 0.28)
    gray = rng.uniform(0.42, 0.5)
    parts = [(fluid, 450, 140), (gray, 920, 110), (1 - fluid - gray, 1340, 60)]
    values = np.concatenate([rng.normal(m + rng.normal(0, 12), s, int(4000 * share)) for share, m, s in parts])
    return np.quantile(np.clip(values, 1, None), LEVELS)
