"""The bias field, found again in the target's contrast."""

from __future__ import annotations

from pathlib import Path

from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.lifting import lifting_curve, lifting_share, rms
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.prep.lift import prepare_again
from blindharmony.prep.recipe import Prepared
from blindharmony.target import Target


def corrected(
    prepared: Prepared, target: Target, scanner: ScannerModel | None, *, cache: Path | None = None
) -> tuple[Prepared, ScannerModel | None]:
    """The scan with its bias field taken out in the target's contrast, and what is left of its scanner's curve.

    A first curve says what the scan as it came would look like on the target; there the field is found again.
    """
    if not target.info.recipe.n4 or (scanner is not None and scanner.then is None):
        return prepared, scanner
    image, inside = prepared.scan.data, prepared.scan.inside()
    first = harmonize_curve(image, inside, target, scanner=scanner)
    share = scanner.lift if scanner else lifting_share(rms((first.image - image)[inside]), _error(first, target))
    if share == 0 or not isinstance(first.intensity_map, CurveMap):
        return prepared, scanner
    curve = lifting_curve(first.intensity_map, share)
    return prepare_again(prepared, target.info.recipe, curve, cache=cache), scanner.then if scanner else None


def _error(found: Estimate, target: Target) -> float:
    """The error bar of a curve, one number."""
    return rms(found.error.deviation) if found.error else rms(target.quantiles.std(0))
