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
from blindharmony.harmonization.error_bar import error_bar
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.scanner import ScannerModel, fit_scanner
from blindharmony.harmonization.summary import summarize
from blindharmony.target import Target

# A scan whose own curve is this many usual errors away from its scanner's curve was hardly made by that scanner.
_OTHER_SCANNER = 4.0
_STRANGE = 0.8


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
    found = summarize(image, mask, target)
    person, warnings, doubts = target.person, [], []
    moved = float(np.sqrt(np.mean((found.person - target.mean_curve) ** 2)))
    figures: dict[str, float | str] = {
        "person's difference from the mean (rms)": round(moved, 4),
        "surprise": round(found.surprise, 3),
    }
    gain, used = (1.0, fit_scanner([found], target)) if scanner is None else (scanner.gain(image, mask), scanner)
    curve = CurveMap(used.curve.x / gain, used.curve.y)
    wanted = curve(found.quantiles.astype(np.float32)).astype(np.float64)
    if scanner is not None:
        off = float(np.sqrt(np.mean((wanted - found.person) ** 2)))
        figures |= {"scans of the scanner": scanner.scans, "gain": round(gain, 4), "off its own curve": round(off, 4)}
        if person is not None and off > _OTHER_SCANNER * float(np.sqrt((person.error**2).mean())):
            doubts.append(
                "This scan does not fit the model of its scanner: alone it would have got another curve. "
                "Was it made by another scanner, or with another sequence?"
            )
    elif person is not None and found.surprise > _STRANGE:
        warnings.append(
            "The order of intensities is unlike that of any head of the target; the scan was matched to the mean head."
        )
    bar = None
    if person is not None:
        bar = error_bar(person, wanted, surprise=found.surprise, scans=scanner.scans if scanner else 1)
        figures["error bar (% of the brightest tissue)"] = round(
            100 * float(bar.deviation.mean()) / float(np.quantile(wanted, 0.95)), 2
        )
    out = np.where(mask, curve(image), 0).astype(np.float32)
    return Estimate(out, intensity_map=curve, error=bar, figures=figures, warnings=warnings, doubts=doubts)
