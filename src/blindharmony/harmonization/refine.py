r"""Refinement in image space: noise and blur, which no intensity curve can express.

.. math:: x_h = x + t\, g\,\bigl(R(x) - x\bigr), \qquad
          g = \max\Bigl(0,\; 1 - \frac{c_0^2}{c^2}\Bigr), \qquad c = \operatorname{rms}(R(x) - x)

:math:`R` is the target's restorer, :math:`c_0` the change that it makes to unseen scans of the target itself: a scan
that asks for no more is left as it is (the shrinkage of James and Stein). The largest :math:`t \le 1` is taken that
keeps the published distance small: correlation with the source, and no edges where the source is flat.

Source: distance, Jeong et al. 2023 (BlindHarmony), section 3; shrinkage, James & Stein 1961.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindharmony.device import on_device
from blindharmony.harmonization.fidelity import ncc, non_edge_l1, non_edge_mask
from blindharmony.harmonization.intensity import Estimate
from blindharmony.models.target import Target
from blindharmony.preprocessing.grid import mask_box
from blindharmony.preprocessing.recipe import kept_arrays
from blindharmony.settings import RefinementSettings

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Refinement:
    """What was changed.

    Attributes:
        image: The refined image.
        strength: :math:`t g`, 0 if nothing was changed.
        change: Root mean square of the change inside the mask, flow units.
        wanted: The same of all that the restorer wants to change.
    """

    image: Image
    strength: float
    change: float
    wanted: float = 0.0


def refine(
    image: Image,
    mask: Mask,
    target: Target,
    *,
    strength: float | None = None,
    own_grid: bool = False,
    device: str = "cpu",
    settings: RefinementSettings = RefinementSettings(),
) -> Refinement:
    """Take out of a curve's result what the target's own scans never show.

    Args:
        image: Flow units, voxels of about 1 mm; what lies outside the mask is neither seen nor changed.
        mask: Brain.
        target: With a restorer.
        own_grid: Whether the image lies on the scan's own grid, not the template's.
        strength: Use this one instead of finding it.
        device: Where to compute.
        settings: How much of the change is allowed.
    """
    if target.restorer is None or strength == 0 or not mask.any():
        return Refinement(image, 0.0, 0.0)
    box, _ = mask_box(mask, margin=1)
    brain = np.where(mask, image, 0)
    x, inside = (_padded(torch.from_numpy(np.ascontiguousarray(a[box])).to(device)) for a in (brain, mask))
    with torch.inference_mode(), on_device(target.restorer, device) as restorer:
        change = restorer(x, inside, float(own_grid)) - x
        # Summed by numpy, in one thread: the bytes shall not depend on the number of cores.
        rms = float(np.sqrt(np.square(change.cpu().numpy(), dtype=np.float64).sum() / mask.sum()))
        if strength is None:
            usual = max(target.info.held_out.restorer_change, default=0.0)
            strength = max(0.0, 1 - (usual / max(rms, 1e-9)) ** 2)
            strength *= _allowed_share(x, strength * change, inside, settings) if strength else 0.0
    out = image.copy()
    moved = (strength * change)[0, 0][tuple(slice(s.stop - s.start) for s in box)].cpu().numpy()
    out[box] = np.where(mask[box], np.maximum(image[box] + moved, np.minimum(image[box], 0)), image[box])
    return Refinement(out, strength, strength * rms, rms)


def refined(
    estimate: Estimate,
    mask: Mask,
    target: Target,
    *,
    device: str = "cpu",
    settings: RefinementSettings = RefinementSettings(),
    cache: Path | None = None,
) -> Estimate:
    """An estimate after refinement, with what it changed among its figures.

    Args:
        estimate: Of a method that lets the restorer do the rest.
        mask: Brain.
        target: With a restorer.
        device: Where to compute.
        settings: How much of the change is allowed.
        cache: Folder in which the refined image is kept for the next time: what a group is asked, whether harmonizing
            helps it, takes the same image as its results. Not that of a target without digest, which has no name.
    """

    def refinement() -> dict[str, NDArray[Any]]:
        found = refine(estimate.image, mask, target, device=device, settings=settings)
        return {"brain": found.image[mask], "numbers": np.array([found.strength, found.change, found.wanted])}

    parts = ("refined", estimate.image, mask, target.digest, settings.model_dump_json(), device)
    arrays = kept_arrays(refinement, cache if target.digest else None, *parts)
    image = estimate.image.copy()
    image[mask] = arrays["brain"]
    result = Refinement(image, *arrays["numbers"].tolist())
    figures = {"refinement strength": round(result.strength, 3), "refinement change (rms)": round(result.change, 4)}
    error, of_voxels = estimate.error, target.info.held_out.refined_error
    if error and of_voxels and result.wanted:
        error = replace(error, voxel=of_voxels(result.wanted, target.levels))
    return replace(
        estimate,
        image=result.image,
        error=error,
        refinement=result.strength,
        figures={**estimate.figures, **figures},
    )


def on_own_grid(spacing: tuple[float, float, float], settings: RefinementSettings = RefinementSettings()) -> bool:
    """Whether the restorer can work on a grid with these voxels (mm); elsewhere its change is carried to the grid.

    Example:
        >>> on_own_grid((0.87, 0.87, 1.0)), on_own_grid((1.0, 1.0, 3.0))
        (True, False)
    """
    smallest, largest = settings.own_grid_mm
    return smallest <= min(spacing) and max(spacing) <= largest


def _allowed_share(x: Tensor, change: Tensor, inside: Tensor, settings: RefinementSettings) -> float:
    """The largest share of the change that the published distance lets pass."""
    flat = non_edge_mask(x, settings.flat_quantile, foreground=inside)
    before = non_edge_l1(x, flat)
    for share in settings.shares:
        y = x + share * change
        if ncc(y, x, inside) >= settings.least_correlation and non_edge_l1(y, flat) <= settings.most_edges * before:
            return share
    return 0.0


def _padded(x: Tensor) -> Tensor:
    """``(1, 1, X, Y, Z)`` with sides that are multiples of four."""
    pad = [p for n in reversed(x.shape) for p in (0, -n % 4)]
    return torch.nn.functional.pad(x, pad)[None, None]
