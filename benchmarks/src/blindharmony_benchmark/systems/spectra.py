"""Systems that give a scan the target's low frequencies, and need no training.

- :class:`Spectrum`: the first cosine coefficients of each axial slice are the reference's, as published.
- :class:`FourierAdaptation`: the target's amplitude at low frequencies of the whole head, the scan's own phase.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from blindharmony.files import read_text, write_text
from blindharmony.models.target import Target
from blindharmony.quality.metrics import psnr
from blindharmony_benchmark.simulation.simulate import simulate
from blindharmony_benchmark.system import Material, Picture, Say, Sees, System
from blindharmony_benchmark.systems.classical import inside

BETAS = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08)
_TAUGHT_BY = ("gamma0.7", "gamma1.5", "log")
_MOST_HEADS = 3


def amplitude(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Amplitudes of the spectrum (of the real transform: half of the last axis), float32."""
    return np.asarray(np.abs(fft.rfftn(np.asarray(image, np.float32))), np.float32)


def amplitude_swap(image: NDArray[np.float32], reference: NDArray[np.float32], beta: float) -> NDArray[np.float32]:
    """The image with the reference's amplitude in the window, its own phase everywhere.

    Args:
        image: Shape ``(X, Y, Z)``.
        reference: :func:`amplitude` of another image of this shape.
        beta: Half width of the window, share of each axis; 0 is the mean alone.

    Example:
        >>> x = np.random.default_rng(0).uniform(size=(8, 8, 8)).astype(np.float32)
        >>> bool(np.allclose(amplitude_swap(x, amplitude(x), 0.25), x, atol=1e-5))
        True
    """
    found = fft.rfftn(np.asarray(image, np.float32))
    near = [np.abs(fft.fftfreq(n)) <= beta for n in image.shape[:2]]
    near.append(fft.rfftfreq(image.shape[2]) <= beta)
    window = near[0][:, None, None] & near[1][None, :, None] & near[2][None, None, :]
    own = np.abs(found)
    scale = np.where(window, reference / np.maximum(own, 1e-12), 1)
    return np.asarray(fft.irfftn(found * scale, image.shape), np.float32)


class FourierAdaptation(System):
    r"""N4, then the mean target head's amplitude at low frequencies; the window is tuned on training scans.

    .. math:: x = \mathcal F^{-1}\bigl[(W A_t + (1 - W) |\mathcal F y|)\, e^{i \arg \mathcal F y}\bigr]

    :math:`W` is 1 in a centred window of half width :math:`\beta` of each axis, :math:`A_t` the amplitude of the mean
    target head. In 3D, on whole volumes.

    Source: Fourier domain adaptation, Yang & Soatto 2020 (arXiv 2004.05498), who swap slices.
    """

    name: ClassVar[str] = "fourier-adaptation"
    sees: ClassVar[Sees] = "target scans"

    def __init__(self) -> None:
        self.beta: float | None = None

    def fit(self, material: Material, say: Say) -> None:
        """Choose the window: training scans through three simulated curves, nearest to themselves afterwards."""
        file = material.folder / f"fourier-adaptation-{material.target.digest or 'unsaved'}.json"
        if file.exists():
            self.beta = float(json.loads(read_text(file))["beta"])
            return
        heads = material.training[:_MOST_HEADS]
        if not heads:
            self.beta = BETAS[1]
            return
        reference, total = self._reference(material), np.zeros(len(BETAS))
        for index, head in enumerate(heads):
            for domain in _TAUGHT_BY:
                say("fourier-adaptation: tuning", index / len(heads))
                made = simulate(head.image, head.mask, (1, 1, 1), domain).image
                seen = Picture(head.subject, made, head.mask, made)
                reach = float(np.quantile(head.image[head.mask], 0.99))
                for b, beta in enumerate(BETAS):
                    out = inside(seen, amplitude_swap(made, reference, beta))
                    total[b] += psnr(head.image, out, head.mask, data_range=reach)
        self.beta = BETAS[int(np.argmax(total))]
        shown = dict(zip(map(str, BETAS), (total / len(heads) / len(_TAUGHT_BY)).round(2).tolist(), strict=True))
        content = {"beta": self.beta, "psnr": shown, "heads": [h.subject for h in heads]}
        write_text(file, json.dumps(content, indent=1) + "\n", overwrite=True)

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Swap."""
        reference = self._reference(material)
        beta = BETAS[1] if self.beta is None else self.beta
        return [inside(s, amplitude_swap(s.image, reference, beta)) for s in scans]

    def _reference(self, material: Material) -> NDArray[np.float32]:
        return amplitude(_mean_head(material.target))


def _mean_head(target: Target) -> NDArray[np.float32]:
    return np.where(target.fit_region, target.atlas, 0).astype(np.float32)


#: Coefficients along each axis of a slice that are the reference's.
SWAPPED = 3


def cosine_swap(image: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Axial slices with the first 3 × 3 coefficients of the reference's slices, all others their own.

    The transform is the orthonormal discrete cosine transform of type 2, over all of a slice, background included.

    Args:
        image: Shape ``(X, Y, Z)``.
        reference: Same shape.

    Example:
        >>> x = np.random.default_rng(0).uniform(size=(8, 8, 4)).astype(np.float32)
        >>> bool(np.allclose(cosine_swap(x, x), x, atol=1e-5))
        True
    """
    words: dict[str, Any] = {"axes": (0, 1), "norm": "ortho"}
    found, wanted = (fft.dctn(np.asarray(x, np.float32), **words) for x in (image, reference))
    found[:SWAPPED, :SWAPPED] = wanted[:SWAPPED, :SWAPPED]
    return np.asarray(fft.idctn(found, **words), np.float32)


class Spectrum(System):
    """N4, then spectrum analysis as published: :func:`cosine_swap` with the target's mean head as the reference.

    Both are on the template grid, so slices of one number belong together; the result is cut to the mask.

    Source: Guan et al. 2022, "Fast image-level MRI harmonization via spectrum analysis" (MLMI 2022).
    """

    name: ClassVar[str] = "spectrum"
    sees: ClassVar[Sees] = "target scans"

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Slice by slice."""
        reference = _mean_head(material.target)
        return [inside(s, cosine_swap(s.image, reference)) for s in scans]
