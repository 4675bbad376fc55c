"""The methods by name, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import UsageError
from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.harmonization.latent import LatentSettings, harmonize_latent
from blindharmony.harmonization.match import harmonize_match
from blindharmony.harmonization.refine import refined
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.target import Target

Method = Literal["curve", "match", "latent", "latent-published"]
METHODS: tuple[str, ...] = get_args(Method)

# One full sentence each: help texts and the methods paragraph of reports use them.
ABOUT: dict[str, str] = {
    "curve": "One increasing intensity curve was inferred: masked histogram matching to the quantile curve that this "
    "person would have on the target scanner, predicted from the order of the intensities and their place in the head.",
    "match": "Intensities were matched, rank by rank inside the brain, to the target's mean quantile curve; no flow "
    "was used.",
    "latent": "The published BlindHarmony iteration (correlation and non-edge terms, shrinkage of the flow's latent) "
    "was run slice by slice with tuned settings.",
    "latent-published": "The published BlindHarmony iteration was run slice by slice with the settings of the "
    "released program (August 2023).",
}


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
    if method in ("latent", "latent-published"):
        settings = LatentSettings() if method == "latent" else LatentSettings.published()
        return harmonize_latent(image, mask, target, settings, device=device, seed=seed, progress=progress)
    raise UsageError(f"there is no method '{method}'", remedy=f"choose one of {', '.join(METHODS)}")
