"""A coil's bias field and the noise of a magnitude image."""

from __future__ import annotations

import numpy as np

from blindharmony.simulation.view import Array, View, reference_level

_WAVES = 4
_SHORTEST_MM, _LONGEST_MM = 150.0, 300.0


def bias_field(view: View, peak: float, rng: np.random.Generator) -> Array:
    """A smooth positive field whose strongest deviation inside the mask is exactly ``1 + peak``.

    The log field is a sum of four cosine waves of random direction and phase, 150 to 300 mm long, less its mean
    in the mask, scaled so that its largest size there is ``log(1 + peak)``. For ``peak=0.3`` the field lies within
    [0.769, 1.3] and reaches one end. Outside the mask it is held at these ends.

    Args:
        view: The scan; only mask and voxel size count.
        peak: Largest deviation, 0.3 for 30 %.
        rng: Source of the waves.

    Returns:
        The factor of each voxel, shape ``(X, Y, Z)``.
    """
    axes = [np.arange(n) * mm for n, mm in zip(view.mask.shape, view.spacing, strict=True)]
    centre = np.argwhere(view.mask).mean(axis=0) * view.spacing
    x, y, z = np.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij", sparse=True)
    log_field = np.zeros(view.mask.shape)
    for _ in range(_WAVES):
        direction = rng.standard_normal(3)
        i, j, k = direction / np.linalg.norm(direction) * 2 * np.pi / rng.uniform(_SHORTEST_MM, _LONGEST_MM)
        log_field += np.cos(i * x + j * y + k * z + rng.uniform(0, 2 * np.pi))
    log_field -= log_field[view.mask].mean()
    largest = float(np.abs(log_field[view.mask]).max())
    reach = np.log1p(peak)
    # A mask of one voxel has no field.
    scaled = log_field * (reach / largest) if largest > 0 else log_field
    return np.asarray(np.exp(np.clip(scaled, -reach, reach)))


def with_noise(view: View, sigma: float, rng: np.random.Generator) -> tuple[Array, float]:
    """Rician noise: ``sqrt((I + n1)² + n2²)`` with ``n1, n2`` normal of standard deviation ``sigma * level``.

    The second moment grows by exactly ``2 (sigma level)²``. Background of exactly zero gets none.

    Args:
        view: The scan.
        sigma: Standard deviation as a share of the white-matter-like level.
        rng: Source of the noise.

    Returns:
        The noisy image and the standard deviation in the scan's unit.

    Source:
        Gudbjartsson and Patz, Magn. Reson. Med. 34, 1995.
    """
    level = reference_level(view.image, view.mask) if view.level is None else view.level
    deviation = sigma * level
    real = view.image + deviation * rng.standard_normal(view.image.shape)
    return np.hypot(real, deviation * rng.standard_normal(view.image.shape)), deviation
