r"""The default method: one increasing intensity curve, from the scan's own ranks or shared by scans of one scanner.

.. math:: x_h(v) = T(g\, y(v))

For one scan :math:`T = \hat Q \circ F_y`: its intensity ranks :math:`F_y`, and the quantile curve :math:`\hat Q` that
the person in it would have on the target scanner (:mod:`~blindharmony.models.person`), :math:`g = 1`. With a scanner
model (:mod:`~blindharmony.harmonization.scanner`) :math:`T` is that scanner's, and :math:`g` gives the result the scale
of a target scan. Ranks never change: no anatomy can appear.

The bias field, found again in the target's contrast.

A first curve :math:`T_1` says what the scan as it came would look like on the target. There the field is found again,
and with it another curve :math:`T_2` for what is left. A field that was found in the wrong contrast had misled the
first, so the scan as it came is put through both, :math:`T_2 \circ T_1`, and the field is found once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.intensity import Curve, CurveMap, Estimate, error_bar, lifting_curve, lifting_share, rms
from blindharmony.harmonization.scanner import ScannerModel, fit_scanner
from blindharmony.harmonization.summary import summarize
from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import Prepared, prepare_again

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


#: How often the field is found again.
AGAIN = 2


def corrected(
    prepared: Prepared, target: Target, scanner: ScannerModel | None, *, cache: Path | None = None
) -> tuple[Prepared, ScannerModel | None]:
    """The scan with its bias field taken out in the target's contrast, and what is left of its scanner's curve."""
    if scanner is None:
        return lifted(prepared, target, [None] * AGAIN, cache=cache), None
    *lifting, last = scanner.rounds
    return lifted(prepared, target, lifting, cache=cache), last


def lifted(
    prepared: Prepared, target: Target, models: Sequence[ScannerModel | None], *, cache: Path | None = None
) -> Prepared:
    """The scan prepared again in the contrast of each round's model; None for the scan's own."""
    found, total, share = prepared, None, 0.0
    if not target.info.recipe.n4:
        return prepared
    for model in models:
        image, inside = found.scan.data, found.scan.inside()
        first = harmonize_curve(image, inside, target, scanner=model)
        if not isinstance(first.intensity_map, CurveMap):
            break
        if total is None:
            share = model.lift if model else lifting_share(rms((first.image - image)[inside]), _error(first, target))
            # The first curve is not sure of anything: then there is no better contrast to find the field in.
            if share == 0:
                break
        # A scan that is unlike the target's is no reason to believe in a parabola: its surprise is no part of this.
        usual = rms(target.person.error) / np.sqrt(model.scans if model else 1) if target.person else np.inf
        total = lifting_curve(_after(total, found, first.intensity_map), share, prepared.scan.data[inside], usual)
        found = prepare_again(prepared, target.info.recipe, total, cache=cache)
    return found


def _after(total: CurveMap | None, found: Prepared, curve: CurveMap) -> Curve:
    """Prepared intensities → flow units: through the curve so far, the gain found after it, and the next curve."""
    if total is None:
        return curve
    gain = np.float32(found.found("gain")["gain"])

    def both(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return curve(total(values) / gain)

    return both


def _error(found: Estimate, target: Target) -> float:
    """The error bar of a curve, one number."""
    return rms(found.error.deviation) if found.error else rms(target.quantiles.std(0))
