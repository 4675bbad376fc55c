"""More heads from few: deform the scan at full resolution, with the same single interpolation that preparation uses.

A deformed copy of a *prepared* image would be interpolated twice, hence smoother than any real scan, and a flow
trained on it would find real scans too rough. Here the deformation is composed with the affine to the template, so
that an augmented head has been interpolated exactly as often as a real one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

# Spread of the knots for a displacement of spread 1: what blur and interpolation average away. The blur leaves 0.375 of
# the variance along each axis, sqrt(0.375³) = 0.23 of the spread, and interpolation three quarters of that.
_KNOTS = 4 / 0.7


class AugmentSpec(BaseModel):
    """How much heads are deformed.

    Attributes:
        linear_sd: Standard deviation of each entry of the linear part (scale, shear, rotation).
        shift_mm: Of the translation.
        bend_mm: Of the smooth displacement, in the middle of a head.
        bend_scale_mm: Distance over which the displacement changes.
        flip: Whether left and right are swapped every other time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    linear_sd: float = 0.03
    shift_mm: float = 1.5
    bend_mm: float = 0.7
    bend_scale_mm: float = 30.0
    flip: bool = True


def template_points(shape: tuple[int, ...]) -> Tensor:
    """Voxel indices of a grid, shape ``(3, X, Y, Z)``."""
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"))


def deformed_points(points: Tensor, spec: AugmentSpec, rng: np.random.Generator) -> Tensor:
    """The points ``p`` of a grid moved to ``A p + u(p)``: a random affine about the centre and a smooth field ``u``.

    Args:
        points: ``(3, X, Y, Z)`` voxel indices, 1 mm apart.
        spec: How much.
        rng: Source of randomness; equal states give equal fields.
    """
    shape = points.shape[1:]
    centre = torch.tensor([(n - 1) / 2 for n in shape]).view(3, 1, 1, 1)
    linear = torch.from_numpy(np.eye(3) + rng.normal(0, spec.linear_sd, (3, 3))).float()
    shift = torch.from_numpy(rng.normal(0, spec.shift_mm, 3)).float().view(3, 1, 1, 1)
    knots = [max(4, round(n / spec.bend_scale_mm)) for n in shape]
    bend = torch.from_numpy(rng.normal(0, _KNOTS * spec.bend_mm, (3, *knots))).float()
    field = F.interpolate(_smooth(bend)[None], tuple(shape), mode="trilinear", align_corners=True)[0]
    moved = torch.einsum("ij,jxyz->ixyz", linear, points - centre) + centre + shift + field
    if spec.flip and rng.random() < 0.5:
        moved[0] = shape[0] - 1 - moved[0]
    return moved


def sample_at(data: Tensor, mask: Tensor, points: Tensor, to_scan: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Sample a masked native scan at template points, as :func:`~blindharmony.prep.grid.sample_inside` does.

    Args:
        data: Native scan ``(X, Y, Z)``, zero outside the mask.
        mask: Its mask as float, same shape.
        points: Template voxel indices ``(3, x, y, z)``.
        to_scan: Template voxel → scan voxel, ``(4, 4)``.

    Returns:
        Image ``(x, y, z)``, zero outside, and mask (bool).
    """
    matrix = torch.from_numpy(to_scan).float()
    index = torch.einsum("ij,jxyz->ixyz", matrix[:3, :3], points) + matrix[:3, 3].view(3, 1, 1, 1)
    size = torch.tensor(data.shape, dtype=torch.float32).view(3, 1, 1, 1)
    unit = 2 * index / (size - 1) - 1
    both = F.grid_sample(torch.stack([data, mask])[None], unit.flip(0).permute(1, 2, 3, 0)[None], align_corners=True)
    value, weight = both[0]
    inside = weight > 0.5
    return (value / weight.clamp_min(0.5)).where(inside, 0.0), inside


def _smooth(knots: Tensor) -> Tensor:
    """A light blur of the knots, so that the field has no kinks at them."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    out = knots[:, None]
    for axis in (2, 3, 4):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = 3
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = 1
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel.view(shape))
    return out[:, 0]
