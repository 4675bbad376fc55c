"""A scan report's evidence without any scan: a smooth random brain."""

import numpy as np
from scipy import ndimage

from blindharmony.quality.checks import Check, Severity, Topic
from blindharmony.quality.verdict import Verdict
from blindharmony.report.evidence import Confidence, Curve, FileChange, ScanEvidence, methods_text


def made_verdict(severity=Severity.GOOD, *, words="Why it is so.", after=0.4):
    """One check of each kind: with both limits, with one, without a number, not judged."""
    like = Topic.LIKENESS
    return Verdict(
        (
            Check("registration", severity, words, 0.96, (0.9, None), advice=words),
            Check("intensities", Severity.GOOD, words, 3 * after, (None, 30.0), "% of white matter", topic=like),
            Check("gray / white contrast", Severity.GOOD, words, 0.6 + after / 10, (0.5, 0.8), topic=like),
            Check("detail at 2 mm", Severity.GOOD, words, after, (-1.0, 4.0), "bits a voxel", topic=like),
            Check("likelihood", Severity.GOOD, words, after, (None, 4.0), "bits a voxel", topic=like),
            Check("file", Severity.GOOD, "One warning.", topic=Topic.FILE, note=True),
        ),
        "T",
    )


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
        "unit": "% of white matter",
        "curve": Curve(x, y, 0.9 * y, 1.1 * y),
        "steps": {
            "shading": np.where(mask, 100 * away[0], 0).astype(np.float32),
            "contrast": (after - before - np.where(mask, 100 * away[0], 0)).astype(np.float32),
            "noise and blur": np.zeros(shape, np.float32),
        },
        "change": FileChange(1.31, 0.93, 8.1, {"shading": 7.6, "contrast": 2.0, "noise and blur": 0.0}),
        "target_image": ndimage.gaussian_filter(after, 2.0),
        "target_words": "T: mean of its scans",
        "target_quantiles": target,
        "levels": levels,
        "held_out": 2,
        "quantiles": tuple(np.quantile(image[mask], levels) for image in (before, after)),
        "confidence": Confidence(x, 9 + x / 99),
        "trace": [{"step": k, "objective": 3 + 1 / (k + 1), "step size": 0.5**k} for k in range(9)],
        "figures": {"bits/dim after": 2.345, "device": "cpu"},
        "verdict": made_verdict(),
        "verdict_before": made_verdict(after=5.2),
        "details": ["It hardly needed it."],
        "preparation": {"gain": {"gain": 1309.1}, "note": "plain words"},
        "methods": methods_text(target="T", scans=40, method="A curve was fitted.", version="0.1"),
        "provenance": {"command": "blindharmony harmonize"},
    }
    return ScanEvidence(**{**facts, **changes})
