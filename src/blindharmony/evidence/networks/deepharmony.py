"""DeepHarmony: a U-Net taught by heads that were scanned on both scanners.

As in the paper: a 2D U-Net whose input comes back at its end, slices in three orientations, and their mean. Here one
network serves the three orientations, told which one it sees, so that a short training goes three times as far; and
neighbouring slices are seen with a slice.

Source: Dewey et al. 2019, "DeepHarmony: A deep learning approach to contrast harmonization across scanner changes".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import UsageError
from blindharmony.evidence.networks.regression import Regression
from blindharmony.evidence.networks.slices import Mask, Volume, cropped
from blindharmony.evidence.networks.trained import Trained
from blindharmony.evidence.system import Material, Picture, Sees

_HELD_OUT, _ENOUGH = 6, 4


class DeepHarmony(Trained):
    """Every sixth pair is held out for choosing the weights, where there are four or more."""

    name: ClassVar[str] = "deepharmony"
    sees: ClassVar[Sees] = "target and source scans, paired"

    def learner(self, material: Material) -> Regression:
        """The network and the pairs.

        Raises:
            UsageError: If there are no pairs.
        """
        pairs = [_cropped(*p) for p in material.pairs]
        if not pairs:
            raise UsageError("there are no paired scans to learn from", remedy="leave deepharmony out for this source")
        held = pairs[1::_HELD_OUT] if len(pairs) >= _ENOUGH else []
        taught = [p for i, p in enumerate(pairs) if not held or i % _HELD_OUT != 1]
        return Regression(lambda scan, step: taught[scan][:2], [p[2] for p in taught], held, self.device)

    def apply(self, learner: Regression, scan: Picture, material: Material) -> NDArray[np.float32]:
        """The mean over three orientations."""
        return learner.whole(scan.image, scan.mask)


def _cropped(source: Picture, target: Picture) -> tuple[Volume, Volume, Mask]:
    both = source.mask & target.mask
    mask, seen, wanted = cropped(both, *(np.where(both, p.image, 0) for p in (source, target)))
    return seen.astype(np.float32), wanted.astype(np.float32), mask.astype(np.bool_)
