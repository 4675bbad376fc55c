"""A scan report's evidence without any scan: a smooth random brain."""

import numpy as np
from scipy import ndimage

from blindharmony.report.evidence import Confidence, Curve, ScanEvidence, Verdict, methods_text


def made_evidence(shape=(48, 56, 52), **changes):
    """A smooth random brain: three tissues, two gray scales."""
    random = np.random.default_rng(0)
    away = np.stack(np.meshgrid(*[np.linspace(-1.15, 1.15, n) for n in shape], indexing="ij"))
    mask = np.sum(away**2, axis=0) < 1
    texture = ndimage.gaussian_filter(random.normal(size=shape), 2.0)
    tissue = np.digitize(texture / texture.std(), [-0.8, 0.3]) * 400.0 + 400.0
    after = np.where(mask, tissue + 25 * random.normal(size=shape), 0).astype(np.float32)
    before = np.where(mask, 1200 * (np.clip(after, 1, None) / 1200) ** 0.7, 0).astype(np.float32)
    levels = np.linspace(0.005, 0.995, 60)
    target = np.quantile(after[mask], levels) * np.linspace(0.96, 1.04, 7)[:, None]
    x = np.linspace(0, 1300, 30)
    y = 1200 * (x / 1200) ** (1 / 0.7)
    facts = {
        "name": "sub-01_T1w.nii.gz",
        "before": before,
        "after": after,
        "mask": mask,
        "atlas": after,
        "unit": "target units (scanner intensity)",
        "curve": Curve(x, y, 0.9 * y, 1.1 * y),
        "log_bias": np.where(mask, 0.1 * away[0], 0).astype(np.float32),
        "target_quantiles": target,
        "levels": levels,
        "held_out": 2,
        "confidence": Confidence([("detail at 2 mm", 5.2, 0.4)], intensity=x, deviation=9 + x / 99, surprise=0.1),
        "overlap": 0.96,
        "trace": [{"step": k, "objective": 3 + 1 / (k + 1), "step size": 0.5**k} for k in range(9)],
        "figures": {"bits/dim after": 2.345, "device": "cpu"},
        "verdict": Verdict("good", "Like a target scan.", ["Why it is so."], ["What to do now."]),
        "warnings": ["One warning."],
        "preparation": {"gain": {"gain": 1309.1}, "note": "plain words"},
        "methods": methods_text(target="T", scans=40, method="A curve was fitted.", version="0.1"),
        "provenance": {"command": "blindharmony harmonize"},
    }
    return ScanEvidence(**{**facts, **changes})
