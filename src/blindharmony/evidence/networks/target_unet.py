"""A U-Net taught by target scans alone: seen through random scanners, matched in histogram, back to the scan.

The strongest simple blind rival we could think of. Histogram matching takes out every increasing curve before the
network sees the scan; what is left to it are bias, noise, blur, and contrast that is not a curve.

Source: learning from random simulations, Billot et al. 2023 (SynthSeg); residual correction, Zhang et al. 2017
(arXiv 1608.03981).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import UsageError
from blindharmony.evidence.networks.random_scanners import random_scan
from blindharmony.evidence.networks.regression import Regression
from blindharmony.evidence.networks.slices import Mask, Volume, cropped
from blindharmony.evidence.networks.trained import Trained
from blindharmony.evidence.system import Material, Picture, Sees
from blindharmony.harmonization.match import harmonize_match
from blindharmony.target import Target

_MOST, _EVERY, _VIEWS = 40, 16, 2


class _Pool:
    """Every training scan through one random scanner, which is another one from time to time.

    What a scan looks like follows from its number and the step's alone, so that a resumed training sees the same.
    """

    def __init__(self, material: Material) -> None:
        self._pictures, self._target, self._seed = material.training[:_MOST], material.target, material.seed
        found = [cropped(p.mask, np.where(p.mask, p.image, 0)) for p in self._pictures]
        self.masks = [mask.astype(np.bool_) for mask, _ in found]
        self._truths = [truth.astype(np.float32) for _, truth in found]
        self._seen: dict[int, tuple[int, Volume]] = {}

    def pair(self, scan: int, step: int) -> tuple[Volume, Volume]:
        """What is seen of a scan at a step, and the scan."""
        count = len(self._pictures)
        version = (step // _EVERY + count - scan) // count
        if scan not in self._seen or self._seen[scan][0] != version:
            rng = np.random.default_rng((self._seed, 6, scan, version))
            self._seen[scan] = version, _seen(self._pictures[scan], self._target, rng)[0]
        return self._seen[scan][1], self._truths[scan]


def _seen(picture: Picture, target: Target, rng: np.random.Generator) -> tuple[Volume, Volume, Mask]:
    """Seen through a random scanner and matched, as it was, and the mask, cropped."""
    image = np.where(picture.mask, picture.image, 0).astype(np.float32)
    spoiled = harmonize_match(random_scan(image, picture.mask, rng), picture.mask, target).image
    mask, seen, truth = cropped(picture.mask, spoiled, image)
    return seen.astype(np.float32), truth.astype(np.float32), mask.astype(np.bool_)


class TargetUNet(Trained):
    """Judged on held-out target scans through other random scanners."""

    name: ClassVar[str] = "target-unet"
    sees: ClassVar[Sees] = "target scans"

    def learner(self, material: Material) -> Regression:
        """The network and the scans through random scanners.

        Raises:
            UsageError: If there are no training scans.
        """
        if not material.training:
            raise UsageError("there are no target scans to learn from", remedy="leave target-unet out")
        pool = _Pool(material)
        held = [
            _seen(p, material.target, np.random.default_rng((material.seed, 5, i, k)))
            for i, p in enumerate(material.held_out)
            for k in range(_VIEWS)
        ]
        return Regression(pool.pair, pool.masks, held, self.device)

    def apply(self, learner: Regression, scan: Picture, material: Material) -> NDArray[np.float32]:
        """Matched, then the mean over three orientations."""
        return learner.whole(harmonize_match(scan.image, scan.mask, material.target).image, scan.mask)
