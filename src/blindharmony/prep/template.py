"""The template every scan is brought to: ICBM152 2009a symmetric, brain only, 1 mm, inside the package."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Template:
    """A brain image on a regular RAS+ grid.

    Attributes:
        data: Intensities, zero outside the brain, shape ``(160, 192, 160)``.
        affine: Voxel to world (mm), shape ``(4, 4)``.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The included template (Fonov et al. 2011, as distributed by nilearn; see NOTICE).

    Example:
        >>> load_template().data.shape
        (160, 192, 160)
    """
    asset = resources.files("blindharmony.prep").joinpath("assets", "icbm152_brain_1mm.nii.gz")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(asset.read_bytes()))
    return Template(np.asarray(image.dataobj, dtype=np.float32), image.affine)
