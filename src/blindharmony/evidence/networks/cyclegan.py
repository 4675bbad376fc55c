"""CycleGAN: two translators between unpaired scans that must undo each other.

Axial slices. The translators are U-Nets that correct the slice and start as the identity: those of the paper, trained
for hours, would in minutes not give back the slice they got.

Source: Zhu et al. 2017 (arXiv 1703.10593).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from blindharmony.evidence.networks.cycle import Cycle
from blindharmony.evidence.networks.trained import Trained
from blindharmony.evidence.networks.unpaired import axial, both_domains
from blindharmony.evidence.system import Material, Picture, Sees


class CycleGAN(Trained):
    """Nothing can be held out: no scan has a truth. The mean of the last weights is taken."""

    name: ClassVar[str] = "cyclegan"
    sees: ClassVar[Sees] = "target and source scans, unpaired"

    def learner(self, material: Material) -> Cycle:
        """Translators, discriminators, and the scans of both scanners.

        Raises:
            UsageError: If there are no scans of one of them.
        """
        return Cycle(*both_domains(material, self.device, self.name), self.device)

    def apply(self, learner: Cycle, scan: Picture, material: Material) -> NDArray[np.float32]:
        """The translator to the target, slice by slice."""
        image = np.where(scan.mask, scan.image, 0).astype(np.float32)
        return axial(image, scan.mask, learner.to_target, self.device)
