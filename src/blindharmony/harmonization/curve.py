r"""The default method: one increasing intensity curve, from the scan's own ranks or shared by scans of one scanner.

.. math:: x_h(v) = T(g\, y(v))

For one scan :math:`T = \hat Q \circ F_y`: its intensity ranks :math:`F_y`, and the quantile curve :math:`\hat Q` that
the person in it would have on the target scanner (:mod:`~blindharmony.target.person`), :math:`g = 1`. With a scanner
model (:mod:`~blindharmony.harmonization.scanner`) :math:`T` is that scanner's, and :math:`g` gives the result the scale
of a target scan. Ranks never change: no anatomy can appear.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import summarize
from blindharmony.target import Target


def harmonize_curve(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    target: Target,
    *,
    scanner: ScannerModel | None = None,
) -> Estimate:
    """Harmonize a scan by one intensity curve.

    Args:
        image: Template grid, prepared, zero outside the mask.
        mask: Brain.
        target: Target model; without a person model this is masked histogram matching.
        scanner: Of the scanner that made the scan, if several of its scans were fitted together.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    if scanner is not None:
        gain = scanner.gain(image, mask)
        curve = CurveMap(scanner.curve.x / gain, scanner.curve.y)
        figures: dict[str, float | str] = {"scans of the scanner": scanner.scans, "gain": round(gain, 4)}
    else:
        found = summarize(image, mask, target)
        curve = CurveMap.through(found.quantiles, found.person)
        moved = float(np.sqrt(np.mean((found.person - target.mean_curve) ** 2)))
        figures = {"person's difference from the mean (rms)": round(moved, 4), "surprise": round(found.surprise, 3)}
    out = np.where(mask, curve(image), 0).astype(np.float32)
    return Estimate(out, intensity_map=curve, figures=figures)
