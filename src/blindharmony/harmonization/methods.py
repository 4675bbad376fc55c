"""One call for every method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import UsageError
from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.harmonization.intensity import Estimate
from blindharmony.harmonization.published import harmonize_latent
from blindharmony.harmonization.refine import refined
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import harmonize_match
from blindharmony.models.target import Target
from blindharmony.settings import METHODS, PublishedSettings

#: The published iteration's settings by method.
LATENT = {"latent": PublishedSettings(), "latent-published": PublishedSettings.published()}


def estimate(
    method: str,
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    target: Target,
    *,
    device: str = "cpu",
    seed: int = 0,
    scanner: ScannerModel | None = None,
    refine: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Harmonize an image on the template grid with a method by name.

    Raises:
        UsageError: If there is no such method, or the target lacks what it needs.
    """
    if method == "curve":
        found = harmonize_curve(image, mask, target, scanner=scanner)
        return refined(found, mask, target, device=device) if refine and target.restorer else found
    if method == "match":
        return harmonize_match(image, mask, target)
    if method in LATENT:
        return harmonize_latent(image, mask, target, LATENT[method], device=device, seed=seed, progress=progress)
    raise UsageError(f"there is no method '{method}'", remedy=f"choose one of {', '.join(METHODS)}")
