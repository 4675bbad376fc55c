r"""The bias field, found again in the target's contrast.

A first curve :math:`T_1` says what the scan as it came would look like on the target. There the field is found again,
and with it another curve :math:`T_2` for what is left. A field that was found in the wrong contrast had misled the
first, so the scan as it came is put through both, :math:`T_2 \circ T_1`, and the field is found once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.lifting import Curve, lifting_curve, lifting_share, rms
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.prep.lift import prepare_again
from blindharmony.prep.recipe import Prepared
from blindharmony.target import Target

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
