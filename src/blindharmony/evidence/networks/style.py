"""Style transfer: a generator that gives a slice's content the style of a reference slice, by adaptive normalisation.

Axial slices of both scanners, unpaired; the reference at test time is one target scan. Styles always come from a
reference image: the random styles of the published system serve many scanners, here are two. The generator corrects
the slice and starts as the identity.

Source: Liu et al. 2021, "Style transfer using generative adversarial networks for multi-site MRI harmonization"
(MICCAI 2021); StarGAN v2, Choi et al. 2020 (arXiv 1912.01865).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blindharmony.evidence.networks.style_learner import StyleLearner
from blindharmony.evidence.networks.trained import Trained
from blindharmony.evidence.networks.unpaired import axial, both_domains
from blindharmony.evidence.system import Material, Picture, Sees


class StyleTransfer(Trained):
    """The reference is the training scan whose style is nearest to the mean of all."""

    name: ClassVar[str] = "style-gan"
    sees: ClassVar[Sees] = "target and source scans, unpaired"
    _style: Tensor | None = None

    def learner(self, material: Material) -> StyleLearner:
        """Generator, style encoder, discriminator, and the scans of both scanners.

        Raises:
            UsageError: If there are no scans of one of them.
        """
        self._style = None
        return StyleLearner(*both_domains(material, self.device, self.name), self.device)

    def apply(self, learner: StyleLearner, scan: Picture, material: Material) -> NDArray[np.float32]:
        """Every slice in the style of the reference."""
        image = np.where(scan.mask, scan.image, 0).astype(np.float32)
        if self._style is None:
            self._style = learner.reference_style()
        return axial(image, scan.mask, learner.generator, self.device, self._style)
