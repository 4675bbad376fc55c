"""How far to believe the flow about contrast: measured on held-out target scans, whose true curve is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve import CurveEvidence, climb
from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.match import source_quantiles
from blindharmony.harmonization.people import People
from blindharmony.target import Target

_SCALES = (0.0005, 0.002, 0.008)

Scan = tuple[NDArray[np.float32], NDArray[np.bool_]]


def calibrate_evidence(target: Target, held_out: Sequence[Scan]) -> tuple[float, tuple[float, ...]]:
    r"""The scale :math:`\tau` and offset with the smallest squared error of the quantile curves, leave-one-out.

    For each held-out scan and scale the curve is inferred as for a foreign scan. The mean answer of the *other*
    held-out scans is subtracted, and the error compared with that of histogram matching.

    Returns:
        Scale and offset; a scale of 0 (plain histogram matching) where the flow does not help.
    """
    people = People(target.levels, target.quantiles)
    if target.pyramid is None or len(held_out) < 3 or not len(people.modes):
        return 0.0, (0.0,) * len(people.modes)
    answers = np.zeros((len(_SCALES), len(held_out), len(people.modes)))
    truth = []
    for index, (image, mask) in enumerate(held_out):
        quantiles, region = source_quantiles(image, mask, target)
        truth.append(quantiles)
        matched = CurveMap.through(quantiles, people.mean)(image)
        evidence = CurveEvidence(np.where(region, matched, 0).astype(np.float32), region, target, people, "cpu")
        for row, scale in enumerate(_SCALES):
            answers[row, index], _ = climb(evidence, scale=scale)
    errors = [_error(people, found, np.array(truth)) for found in answers]
    plain = float(np.mean((np.array(truth) - people.mean) ** 2))
    best = int(np.argmin(errors))
    if errors[best] >= plain:
        return 0.0, (0.0,) * len(people.modes)
    return _SCALES[best], tuple(answers[best].mean(0).tolist())


def _error(people: People, answers: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    count = len(answers)
    others = (answers.sum(0) - answers) / (count - 1)
    curves = [people.curve(c) for c in answers - others]
    return float(np.mean((np.array(curves) - truth) ** 2))
