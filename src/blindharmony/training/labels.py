r"""Tissue labels made without hand: a mixture of Gaussians with the template's priors and a Markov field.

.. math::
    r_k(v) \propto \pi_k(v)\, \mathcal N\bigl(y(v);\, \mu_k, \sigma_k\bigr)\,
    \exp\Bigl(\beta \sum_{u \sim v} \sum_l C_{kl}\, r_l(u)\Bigr)

:math:`\pi_k` are the template's tissue maps, carried to the head by demons (symmetric forces, 4 mm and 2 mm) and then
blurred, so that cortex, which no two heads fold alike, follows the intensities. There are five structures (fluid,
cortical gray, deep gray, white, brainstem) and two classes of mixed voxels, fluid/gray and gray/white, whose shares
follow the intensity between the two means. Means and spreads are found by expectation maximization on a sample of
voxels, the field :math:`r` by a few rounds of mean field over six neighbors.

The template's maps know gray and white; where deep gray and the brainstem lie in it is drawn here in ellipsoids. The
labels call the whole of thalamus, basal ganglia and ventral diencephalon gray and the brainstem white, as segmenters
do, though their intensities lie in between.

Source: mixture with priors, Ashburner & Friston 2005 (NeuroImage 26:839); mixed voxels, Laidlaw et al. 1998; mean
field, Zhang, Brady & Smith 2001 (IEEE TMI 20:45); demons, Vercauteren et al. 2009; maps, Fonov et al. 2011, ICBM 152
2009a as distributed by nilearn.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import BlindHarmonyError
from blindharmony.preprocessing.grid import from_itk, mask_box, sample, shrunk, sitk, to_itk, voxel_map
from blindharmony.preprocessing.registration import load_template

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Structures that get labels, and an intensity of their own.
STRUCTURES = ("fluid", "cortical gray", "deep gray", "white", "brainstem")
FLUID, GRAY, DEEP, WHITE, STEM = range(5)

# Mixed voxels: of which two structures, and what is believed of them where both are equally likely.
_MIXED = ((FLUID, GRAY), (GRAY, WHITE))
_MIXED_PRIOR = 0.35
# Blur (mm) of the priors, and what is believed everywhere inside the mask.
_BLUR = (1.2, 1.2, 0.8, 1.2, 0.8)
_FLOOR = (0.03, 0.03, 0.0005, 0.03, 0.0005)
_DEMONS = ((4.0, 30), (2.0, 12))  # voxel (mm) and iterations
_SPREADS = (0.02, 0.2)  # flow units, within which a structure's spread must lie
_SAMPLED, _EM_ROUNDS, _FIELD_ROUNDS = 60_000, 30, 4
_BETA, _MIXED_PULL, _STEM_PULL = 0.5, 0.6, 0.8


@dataclass(frozen=True, eq=False)
class Atlas:
    """Where structures lie in the template.

    Attributes:
        shares: Prior of each structure, ``(5, X, Y, Z)``.
        ventricles: Where fluid is not that of the sulci.
    """

    shares: Image
    ventricles: Mask


@lru_cache(maxsize=1)
def template_atlas() -> Atlas:
    """The template's tissue maps, with deep gray and brainstem drawn in.

    Raises:
        BlindHarmonyError: If nilearn, which has the maps, is not installed.
    """
    template = load_template()
    gray, white = _tissue_map("gm"), _tissue_map("wm")
    tissue = gray + white > 0.6
    x, y, z = (
        (np.arange(n) + template.affine[i, 3]).reshape([n if j == i else 1 for j in range(3)])
        for i, n in enumerate(template.data.shape)
    )
    x = np.abs(x)

    def ellipsoid(center: tuple[float, ...], radii: tuple[float, ...], turn: float = 0.0) -> Mask:
        """Both sides at once (mm); ``turn`` (degrees) moves its front towards the middle."""
        angle = np.deg2rad(turn)
        u, v, w = x - center[0], y - center[1], z - center[2]
        u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
        return np.asarray((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2 < 1)

    thalamus = ellipsoid((11, -18.5, 8), (9.5, 15.5, 9), 30)
    pallidum = ellipsoid((19, -4, -0.5), (5.5, 10, 6.5), 20)
    putamen = ellipsoid((25.5, 1, 1), (7.5, 19, 13), 15) & (gray > 0.35) & (x >= 16) & (x <= 32)
    putamen &= (y >= -22) & (y <= 20) & (z >= -12) & (z <= 13)
    caudate = (ellipsoid((13, 14, 5), (7.5, 12, 13)) | ellipsoid((16, -2, 21), (6, 18, 6))) & (gray > 0.3)
    diencephalon = ellipsoid((8, -14, -7), (8, 8, 6))
    deep = (thalamus | pallidum | putamen | caudate | diencephalon) & tissue
    pons, medulla = ellipsoid((0, -28, -34), (17, 14.5, 17)), ellipsoid((0, -40, -58), (9, 9, 20))
    stem = (pons | medulla | ellipsoid((0, -26, -13), (15, 9, 9))) & tissue & ~deep & ((gray < 0.75) | (white > 0.2))
    deep = ndimage.binary_closing(deep, iterations=2) & tissue
    stem = ndimage.binary_closing(stem, iterations=2) & tissue & ~deep
    elsewhere = 1.0 - deep - stem
    fluid = np.clip(1 - gray - white, 0, 1)
    shares = np.stack([fluid * elsewhere, gray * elsewhere, deep, white * elsewhere, stem]).astype(np.float32)
    lateral = (1 - gray - white > 0.3) & (template.data > 0)
    lateral &= (x < 36) & (y > -50) & (y < 34) & (z > -14) & (z < 32)
    fourth = (x < 12) & (y > -52) & (y < -32) & (z > -48) & (z < -14)
    ventricles = ndimage.binary_dilation(lateral, iterations=4) | fourth
    return Atlas(shares / np.maximum(shares.sum(0), 1e-3), np.asarray(ventricles))


def _tissue_map(tissue: str) -> Image:
    """A map of ICBM 152 2009a, from nilearn, on the template's grid."""
    name = f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
    try:
        content = resources.files("nilearn").joinpath("datasets", "data", name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise BlindHarmonyError(
            "the template's tissue maps are those of nilearn, which is not here", remedy="pip install nilearn"
        ) from None
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    data = np.asarray(image.dataobj, np.float32)
    template = load_template()
    to_map = voxel_map(template.affine, np.eye(4), np.asarray(image.affine))
    return sample(data / data.max(), to_map, template.data.shape)


def aligned_priors(image: Image, mask: Mask, atlas: Atlas) -> Image:
    """The atlas carried to a prepared head of T1w contrast, ``(5, X, Y, Z)``; it sums to one.

    Source: symmetric demons, Vercauteren et al. 2009; histograms are matched before.
    """
    template = load_template()
    fixed = to_itk(np.where(mask, image, 0).astype(np.float32), template.affine)
    moving = sitk.HistogramMatching(to_itk(template.data, template.affine), fixed, 256, 12, True)
    field: Any = None
    grid = fixed
    for mm, rounds in _DEMONS:
        grid, carried = shrunk(fixed, mm), shrunk(moving, mm)
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(rounds)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(1.5)
        if field is None:
            field = demons.Execute(grid, carried)
        else:
            start = sitk.Resample(field, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64)
            field = demons.Execute(grid, carried, start)
    moved = sitk.DisplacementFieldTransform(field)
    priors = []
    for share, blur in zip(atlas.shares, _BLUR, strict=True):
        coarse = sitk.Resample(shrunk(to_itk(share, template.affine), 2.0), grid, moved, sitk.sitkLinear, 0.0)
        fine = from_itk(sitk.Resample(coarse, fixed, sitk.Transform(), sitk.sitkLinear, 0.0))
        priors.append(ndimage.gaussian_filter(fine, blur))
    priors[FLUID] += 1e-3
    shares = np.stack(priors)
    shares = shares / shares.sum(0) + np.array(_FLOOR, np.float32).reshape(5, 1, 1, 1)
    return np.asarray(shares / shares.sum(0), np.float32)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Intensities of the structures, flow units.

    Attributes:
        means: Shape ``(5,)``.
        spreads: Shape ``(5,)``.
    """

    means: NDArray[np.float32]
    spreads: NDArray[np.float32]

    @classmethod
    def fitted(cls, values: Image, priors: Image) -> Mixture:
        """By expectation maximization from where the priors are sure.

        Args:
            values: Intensities of some voxels, ``(N,)``.
            priors: Of structures and mixed classes there, ``(7, N)``.
        """
        count = len(STRUCTURES)
        sure = priors[:count] ** 3
        means, spreads = _moments(values, sure)
        mixture = cls(means, np.minimum(spreads, 0.15))
        for _ in range(_EM_ROUNDS):
            shares = _softmax(mixture.log_likelihood(values) + np.log(priors))
            means, spreads = _moments(values, shares[:count])
            mixture = cls(means, np.clip(spreads, *_SPREADS))
        return mixture

    def log_likelihood(self, values: Image) -> Image:
        """Of structures and mixed classes, ``(7, N)``."""
        means, spreads = list(self.means), list(self.spreads)
        for one, other in _MIXED:
            # Evenly spread between the two means, and as uncertain as they are: nearly a Gaussian.
            means.append((self.means[one] + self.means[other]) / 2)
            width = (self.means[other] - self.means[one]) ** 2 / 14 + self.spreads[one] * self.spreads[other] / 2
            spreads.append(np.sqrt(width))
        mean, spread = np.array(means, np.float32)[:, None], np.array(spreads, np.float32)[:, None]
        return np.asarray(-0.5 * ((values - mean) / spread) ** 2 - np.log(spread), np.float32)


def label_head(image: Image, mask: Mask, atlas: Atlas | None = None) -> tuple[Image, Mixture]:
    """Share of each structure in every voxel of a prepared head, ``(5, X, Y, Z)``, and their intensities.

    Args:
        image: Prepared intensities.
        mask: Brain.
        atlas: Where structures lie, the template's by default.
    """
    box, _ = mask_box(mask, margin=1)
    priors = aligned_priors(image, mask, atlas or template_atlas())[(slice(None), *box)]
    inside = mask[box]
    believed, values = priors[:, inside], image[box][inside].astype(np.float32)
    mixed = [2 * _MIXED_PRIOR * np.sqrt(believed[one] * believed[other]) for one, other in _MIXED]
    believed = np.concatenate([believed, np.stack(mixed)])
    believed /= believed.sum(0)
    some = np.random.default_rng(0).choice(values.size, min(_SAMPLED, values.size), replace=False)
    mixture = Mixture.fitted(values[some], believed[:, some])
    shares = _with_neighbors(mixture.log_likelihood(values) + np.log(believed), inside)
    structures = shares[: len(STRUCTURES)]
    for number, (one, other) in enumerate(_MIXED):
        low, high = mixture.means[one], mixture.means[other]
        part = np.clip((values - low) / (high - low), 0, 1)
        structures[other] += shares[len(STRUCTURES) + number] * part
        structures[one] += shares[len(STRUCTURES) + number] * (1 - part)
    labels = np.zeros((len(STRUCTURES), *mask.shape), np.float32)
    cut = np.zeros((len(STRUCTURES), *inside.shape), np.float32)
    cut[:, inside] = structures
    labels[(slice(None), *box)] = cut
    return labels, mixture


def _with_neighbors(evidence: Image, inside: Mask) -> Image:
    """Shares of the classes in which neighbors agree, by mean field."""
    pull = np.eye(len(evidence), dtype=np.float32)
    pull[WHITE, STEM] = pull[STEM, WHITE] = _STEM_PULL
    for number, pair in enumerate(_MIXED):
        for one in pair:
            pull[len(STRUCTURES) + number, one] = pull[one, len(STRUCTURES) + number] = _MIXED_PULL
    shares = _softmax(evidence)
    for _ in range(_FIELD_ROUNDS):
        around = np.stack([_six_neighbors(share, inside) for share in shares])
        shares = _softmax(evidence + np.float32(_BETA) * (pull @ around))
    return shares


def _six_neighbors(share: Image, inside: Mask) -> Image:
    whole, total = np.zeros(inside.shape, np.float32), np.zeros(inside.shape, np.float32)
    whole[inside] = share
    for axis in range(3):
        ahead, behind = np.moveaxis(total, axis, 0), np.moveaxis(whole, axis, 0)
        ahead[1:] += behind[:-1]
        ahead[:-1] += behind[1:]
    return total[inside]


def _moments(values: Image, weights: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    count = weights.sum(1) + 1e-6
    means = (weights * values).sum(1) / count
    spreads = np.sqrt((weights * (values - means[:, None]) ** 2).sum(1) / count)
    return means.astype(np.float32), spreads.astype(np.float32)


def _softmax(logs: Image) -> Image:
    shares = np.exp(logs - logs.max(0))
    return np.asarray(shares / shares.sum(0), np.float32)
