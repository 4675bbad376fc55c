r"""A scanner as real ones are: drawn from what differs between the T1-weighted scans of 17 sites.

:data:`SITES` are medians over the 1,101 scans of ABIDE as MRIQC measured them. :func:`draw_site` draws a scanner near
one of them, :func:`through_site` puts a scan through it, in the order of a scanner: the contrast of grey matter and CSF
to white matter, drawn together; the coil's field; the point spread function; the receiver's noise, white on the
scanner's own grid, coloured by its reconstruction filter and by the way to the scan's grid; last a mild display curve.

What is not in that table is assumed: the reconstruction filter (up to 1.2 voxels) and the display curve
(:math:`\gamma` of 0.95 to 1.05). A head cannot be made sharper than it is: it stands for the sharpest of the sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.study.cohort import SITES as MEASURED
from blindharmony_benchmark.simulation.effects import (
    CSF,
    FWHM,
    GREY,
    WHITE,
    Array,
    Tissues,
    View,
    bias_field,
    blurred,
    recontrast,
    reference_level,
)


class Site(NamedTuple):
    """Medians over the scans of one site.

    Attributes:
        grey: Median of grey matter, share of white matter's.
        csf: Median of CSF, share of white matter's.
        width: Autocorrelation of the brain, FWHM in mm, geometric mean of three axes (AFNI's ``3dFWHMx``).
        noise: Standard deviation in air by Dietrich's method, share of white matter (1 / ``snrd_wm``).
        field: N4's field in the brain, its 95th less its 5th percentile, share of its median.
        voxel: Size on the scanner, mm.
    """

    grey: float
    csf: float
    width: float
    noise: float
    field: float
    voxel: tuple[float, float, float]


# Gray matter and width are those of the package's page of a cohort. The rest: csf, noise, field, voxel.
# Source: nipreps/mriqc-learn, commit 3ede9e9, ``abide.tsv`` and ``scan_parameters.tsv``, Apache-2.0. The noise of UM
# is that of white matter times the other sites' median ratio of both: its air holds more than noise. The voxels of USM
# were interpolated in plane, and are given as acquired.
_REST = {
    "CALTECH": (0.444, 0.013, 0.535, (1.0, 1.0, 1.0)),
    "CMU": (0.388, 0.014, 0.356, (1.0, 1.0, 1.0)),
    "KKI": (0.249, 0.013, 0.159, (1.0, 1.0, 1.0)),
    "LEUVEN": (0.252, 0.010, 0.366, (0.977, 1.2, 0.977)),
    "MAX_MUN": (0.359, 0.033, 0.425, (1.0, 1.0, 1.0)),
    "NYU": (0.307, 0.037, 0.411, (1.33, 1.0, 1.0)),
    "OHSU": (0.373, 0.027, 0.400, (1.1, 1.0, 1.0)),
    "OLIN": (0.377, 0.044, 0.422, (1.0, 1.0, 1.0)),
    "PITT": (0.368, 0.031, 0.489, (1.05, 1.05, 1.05)),
    "SBL": (0.303, 0.025, 0.549, (1.0, 1.0, 1.0)),
    "SDSU": (0.309, 0.016, 0.366, (1.0, 1.0, 1.0)),
    "STANFORD": (0.280, 0.031, 0.449, (0.859, 1.5, 0.859)),
    "TRINITY": (0.378, 0.010, 0.434, (1.0, 1.0, 1.0)),
    "UCLA": (0.290, 0.039, 0.285, (1.2, 1.0, 1.0)),
    "UM": (0.378, 0.026, 0.244, (1.016, 1.016, 1.2)),
    "USM": (0.326, 0.025, 0.222, (1.2, 1.0, 1.0)),
    "YALE": (0.373, 0.009, 0.395, (1.0, 1.0, 1.0)),
}
#: Medians over the scans of each site.
SITES: Mapping[str, Site] = {
    name: Site(grey, csf, width, noise, field, voxel)
    for name, (grey, width) in MEASURED.items()
    for csf, noise, field, voxel in [_REST[name]]
}

#: What a scanner's settings are without one of its effects; without a contrast of its own it has the scan's.
WITHOUT: Mapping[str, Mapping[str, float | None]] = {
    "contrast": {"GreyToWhite": None},
    "field": {"Field": 0.0},
    "blur": {"FWHM": 0.0},
    "noise": {"Sigma": 0.0},
}

# How far from a site a scanner is drawn, in spreads between sites; the whole keeps mean and covariance of the table.
_NEAR = 0.3
# A Gaussian of this FWHM (mm) widens the autocorrelation of a real brain by this factor: mean of four heads of `oasis`
# and four of `ds002748`.
_BLUR = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
_WIDER = (1.0, 1.10, 1.27, 1.41, 1.55, 1.70, 2.03)
_FILTER, _GAMMA = (0.0, 1.2), (0.95, 1.05)
_ROUNDS, _NEAR_ENOUGH = 8, 1e-3


def draw_site(rng: np.random.Generator) -> dict[str, Any]:
    """A scanner near one of the sites, its five numbers drawn together (a smoothed bootstrap of their logarithms).

    Example:
        >>> sorted(draw_site(np.random.default_rng(1)))
        ['CSFToWhite', 'FWHM', 'Field', 'Filter', 'Gamma', 'GreyToWhite', 'Near', 'Sigma', 'Voxel']
    """
    table = np.log([site[:5] for site in SITES.values()])
    names = list(SITES)
    chosen = int(rng.integers(len(names)))
    middle = table.mean(0)
    spread = np.linalg.cholesky(np.cov(table, rowvar=False))
    moved = (table[chosen] - middle + _NEAR * (spread @ rng.standard_normal(5))) / math.hypot(1, _NEAR)
    grey, csf, width, noise, field = np.exp(middle + moved).tolist()
    sharpest = min(site.width for site in SITES.values())
    return {
        "Near": names[chosen],
        "GreyToWhite": grey,
        "CSFToWhite": csf,
        "Field": field,
        "FWHM": float(np.interp(width / sharpest, _WIDER, _BLUR)),
        "Sigma": noise,
        "Filter": float(rng.uniform(*_FILTER)),
        "Voxel": SITES[names[chosen]].voxel,
        "Gamma": float(rng.uniform(*_GAMMA)),
    }


def through_site(view: View, settings: Mapping[str, Any], rng: np.random.Generator) -> tuple[Array, dict[str, Any]]:
    """Put a labelled scan through a scanner.

    Args:
        view: The scan, without a strong coil field of its own: that would count as tissue.
        settings: From :func:`draw_site`, or one's own with the same keys (:data:`WITHOUT` has some).
        rng: Source of what differs from scan to scan: shape of the field, noise.

    Returns:
        The image, and the medians and the field that were reached.

    Raises:
        InputError: If labels and scan do not fit.
    """
    level = reference_level(view.image, view.mask) if view.level is None else view.level
    image, found = view.image, dict[str, float]()
    if settings["GreyToWhite"] is not None:
        image, found = to_levels(view, {CSF: settings["CSFToWhite"], GREY: settings["GreyToWhite"]})
    field = coil_field(view, settings["Field"], rng)
    image = image * field
    if settings["FWHM"] > 0:
        image = blurred(replace(view, image=np.where(view.data, image, 0.0)), settings["FWHM"])
    sigma = settings["Sigma"] * level
    real, imaginary = (sigma * grid_noise(view, settings["Voxel"], settings["Filter"], rng) for _ in range(2))
    image = level * (np.hypot(image + real, imaginary) / level) ** settings["Gamma"]
    inside = field[view.mask]
    return image, {**found, "FieldMin": float(inside.min()), "FieldMax": float(inside.max()), "SigmaInUnits": sigma}


def to_levels(view: View, ratios: Mapping[int, float]) -> tuple[Array, dict[str, float]]:
    """Move the medians of grey matter and CSF to shares of white matter's, both at once.

    Soft borders move the medians a little, so the levels asked for are corrected a few times.
    """
    tissues = Tissues.of(view)
    white = tissues.levels[WHITE]
    wanted = {tissue: ratio * white for tissue, ratio in ratios.items()}
    asked, image = dict(wanted), view.image
    for _ in range(_ROUNDS):
        image = recontrast(view.image, tissues, {**tissues.levels, **asked})
        medians = {t: float(np.median(image[(view.labels == t) & view.data])) for t in (CSF, GREY, WHITE)}
        misses = {t: wanted[t] / white * medians[WHITE] / medians[t] for t in wanted}
        if max(abs(m - 1) for m in misses.values()) < _NEAR_ENOUGH:
            break
        asked = {t: level * misses[t] for t, level in asked.items()}
    return image, {"GreyToWhite": medians[GREY] / medians[WHITE], "CSFToWhite": medians[CSF] / medians[WHITE]}


def coil_field(view: View, spread: float, rng: np.random.Generator) -> Array:
    """A smooth field whose 95th percentile in the mask lies ``spread`` of its median above the 5th."""
    shape = np.log(bias_field(view, 1.0, rng))
    ranks = np.quantile(shape[view.mask], [0.05, 0.5, 0.95])
    low, high = 0.0, 4.0
    for _ in range(40):
        size = (low + high) / 2
        fifth, middle, last = np.exp(size * ranks)
        low, high = (size, high) if (last - fifth) / middle < spread else (low, size)
    return np.asarray(np.exp(size * shape))


def grid_noise(view: View, voxel: tuple[float, float, float], width: float, rng: np.random.Generator) -> Array:
    """Noise of standard deviation 1 on a scanner's own grid, brought to the scan's by a cubic spline.

    Args:
        view: The scan; only its shape and voxel size count.
        voxel: Size on the scanner, mm.
        width: FWHM of the reconstruction filter, voxels of the scanner.
        rng: Source of the noise, and of where the head lies on the scanner's grid.
    """
    steps = np.array(view.spacing) / voxel
    shape = np.ceil(np.array(view.image.shape) * steps).astype(int) + 2
    noise: NDArray[np.float64] = rng.standard_normal(tuple(shape))
    if width > 0:
        noise = ndimage.gaussian_filter(noise, width / FWHM, mode="wrap")
        noise /= noise.std()
    offset = rng.uniform(0, 1, 3)
    return np.asarray(ndimage.affine_transform(noise, steps, offset, view.image.shape, order=3, mode="grid-wrap"))
