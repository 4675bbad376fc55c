"""A synthetic brain whose tissues are known: nested, folded, with texture."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LEVELS = {1: 300.0, 2: 700.0, 3: 1100.0}


def labelled_brain(
    seed: int = 0, size: int = 48, texture: float = 0.04
) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[float, float, float]]:
    """Image, labels (1 CSF, 2 grey, 3 white matter) and voxel size in mm; zero outside the brain."""
    shape = (size, size + 4, size - 2)
    x = np.indices(shape) - np.array(shape).reshape(3, 1, 1, 1) / 2
    fold = 2.0 * np.sin(x[0] / 2.5) * np.sin(x[1] / 3) * np.cos(x[2] / 3.5)
    r = np.sqrt((x**2).sum(0)) + fold
    labels = np.select([r < 4, r < 13, r < 18, r < 20], [1, 3, 2, 1], 0).astype(np.uint8)
    clean = np.select([labels == t for t in LEVELS], list(LEVELS.values()), 0.0)
    noise = 1 + texture * np.random.default_rng(seed).standard_normal(shape)
    image = np.where(labels > 0, ndimage.gaussian_filter(clean, 0.5) * noise, 0)
    return image.astype(np.float32), labels, (2.0, 2.0, 2.0)
