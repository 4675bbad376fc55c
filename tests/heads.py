"""Synthetic heads with a known truth: the included template, deformed, on any grid, with noise and bias."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.preprocessing.grid import sample, voxel_map
from blindharmony.preprocessing.registration import load_template
from blindharmony.preprocessing.steps import Scan

CODES = ("RAS", "LAS", "LPS", "PIR", "ASL", "SRP", "IPL")


@dataclass(frozen=True, eq=False)
class Head:
    """A scan and everything that is true about it.

    Attributes:
        data: Intensities, shape ``(X, Y, Z)``, zero outside the head.
        affine: Voxel to world (mm).
        brain: The brain's voxels.
        to_scan: Template world (mm) → this head's world (mm).
        log_bias: What the coil added to the log intensities.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    brain: NDArray[np.bool_]
    to_scan: NDArray[np.float64]
    log_bias: NDArray[np.float32]

    @property
    def scan(self) -> Scan:
        """The head as preparation sees it, without a mask."""
        return Scan(self.data, self.affine)

    @property
    def masked(self) -> Scan:
        """The head with its true brain mask."""
        return Scan(self.data, self.affine, self.brain)


def grid_affine(
    spacing: tuple[float, float, float],
    axes: str = "RAS",
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> NDArray[np.float64]:
    """The affine of a grid whose axes point along ``axes``, turned by ``angles``; ``spacing`` is R, A, S."""
    matrix = np.eye(4)
    matrix[:3, :3] = euler2mat(*angles) @ np.diag(spacing)
    matrix[:3, 3] = origin
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    return matrix @ inv_ornt_aff(turn, (1, 1, 1))


def head_grid(seed: int = 0, mm: float = 2.5, axes: str | None = None) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine of an oblique grid around a head, with unequal sides and voxel sizes."""
    rng = np.random.default_rng(seed)
    axes = axes or CODES[seed % len(CODES)]
    spacing = mm * rng.uniform(0.85, 1.15, 3)
    affine = grid_affine(tuple(spacing), axes, tuple(rng.uniform(-0.15, 0.15, 3)), tuple(rng.uniform(-20, 20, 3)))
    along = np.abs(axcodes2ornt(axes)[:, 0]).astype(int)
    size = (np.array([190, 220, 190])[along] / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    return tuple(size.tolist()), affine


def synthetic_brain(
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    seed: int = 0,
    *,
    noise: float = 0.02,
    bias: float = 0.15,
    skull: bool = False,
    deform: float = 1.0,
) -> Head:
    """The template's brain in the middle of a grid, as another head, scanned by a coil with bias and noise.

    Args:
        shape: Voxels.
        affine: Voxel to world (mm).
        seed: Of the deformation, the bias and the noise.
        noise: Standard deviation, where white matter is about 1.
        bias: Standard deviation of the log bias field in the brain.
        skull: Whether a dark skull and a bright scalp surround the brain.
        deform: How much the head differs from the template; 0 for not at all.
    """
    rng = np.random.default_rng(seed)
    template = load_template()
    centre = np.argwhere(template.data > 0).mean(0) @ template.affine[:3, :3].T + template.affine[:3, 3]
    to_scan = np.eye(4)
    angles = deform * rng.uniform(-0.1, 0.1, 3)
    to_scan[:3, :3] = euler2mat(*angles) @ (np.eye(3) + deform * rng.uniform(-0.05, 0.05, (3, 3)))
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3] + deform * rng.uniform(-4, 4, 3)
    to_scan[:3, 3] = middle - to_scan[:3, :3] @ centre
    to_template = voxel_map(affine, np.linalg.inv(to_scan), template.affine)
    brain = sample((template.data > 0).astype(np.float32), to_template, shape) > 0.5
    tissue = sample(template.data / np.quantile(template.data, 0.99), to_template, shape)
    if skull:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        away = ndimage.distance_transform_edt(~brain, sampling=spacing)
        tissue = np.where(brain, tissue, 0.1 * ((away > 0) & (away < 8)) + 1.1 * ((away >= 8) & (away < 14)))
    else:
        tissue = np.where(brain, tissue, 0)
    log_bias = smooth_field(shape, rng)
    log_bias = bias * (log_bias - log_bias[brain].mean()) / log_bias[brain].std()
    data = tissue * np.exp(log_bias) + noise * rng.standard_normal(shape)
    data = np.where(brain, np.maximum(data, 0.01), np.maximum(data, 0) if skull else 0)
    return Head((600 * data).astype(np.float32), affine, brain, to_scan, log_bias.astype(np.float32))


def written(path: Path, data: NDArray[np.float32], affine: NDArray[np.float64], *, top: float = 4000) -> Path:
    """A scan as scanners write it: int16 with a slope, codes for scanner and aligned space, and a trailing axis."""
    image = nib.Nifti1Image(np.zeros((*data.shape, 1), np.int16), affine)
    image.header.set_slope_inter(0.5, 0)
    stored = np.round(data / data.max() * top)[..., None].astype(np.int16)
    image = nib.Nifti1Image(stored, affine, image.header)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def smooth_field(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """A random polynomial of degree two: as smooth as a coil."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    terms = [x, y, z, x * y, y * z, x * z, x**2, y**2, z**2]
    return sum(c * t for c, t in zip(rng.standard_normal(len(terms)), terms, strict=True))


def template_distance(found: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far apart (mm) two maps take each voxel of the template's brain (every 50th)."""
    template = load_template()
    points = np.argwhere(template.data > 0)[::50] @ template.affine[:3, :3].T + template.affine[:3, 3]
    return np.linalg.norm(points @ (found - truth)[:3, :3].T + (found - truth)[:3, 3], axis=1)


@st.composite
def affines(draw) -> NDArray[np.float64]:
    """Any axis order and direction, oblique, unequal voxel sizes."""
    spacing = draw(st.tuples(*[st.floats(0.5, 4.0)] * 3))
    angles = draw(st.tuples(*[st.floats(-0.6, 0.6)] * 3))
    origin = draw(st.tuples(*[st.floats(-150, 150)] * 3))
    return grid_affine(spacing, draw(st.sampled_from(CODES)), angles, origin)


@st.composite
def scans(draw, smallest: int = 2, largest: int = 9) -> Scan:
    """Small scans of positive noise on any grid, with a mask of any form that is not empty."""
    shape = draw(st.tuples(*[st.integers(smallest, largest)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    data = rng.uniform(1, 1000, shape).astype(np.float32)
    data[0, 0, 0] = 0
    mask = rng.uniform(size=shape) < draw(st.floats(0.1, 1.0))
    mask[-1, -1, -1] = True
    return Scan(data, draw(affines()), mask)


def texture(
    shape: tuple[int, int, int] = (40, 36, 44), seed: int = 0, width: float = 1.5
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A smooth random image in a ball, and the ball."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij"))
    mask = (grid**2).sum(0) < 1
    wave = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), width)
    return np.where(mask, np.exp(0.3 * wave / wave.std()), 0).astype(np.float32), mask
