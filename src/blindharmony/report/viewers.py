"""The picture panels of the report: three planes, several slices each, one or more layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.report.colour import diverging
from blindharmony.report.evidence import ScanEvidence
from blindharmony.report.outlines import outline, template_outline, white_border
from blindharmony.report.raster import PLANES, Slices, choose, gray, jpeg, overlay, strip

_COUNT = 7
_MASK_COLOUR, _TEMPLATE_COLOUR = (64, 224, 208), (255, 171, 64)


@dataclass(frozen=True)
class Layer:
    """One strip of slices.

    Attributes:
        style: CSS class.
        source: Data URI.
        alt: What it shows, in words.
    """

    style: str
    source: str
    alt: str


@dataclass(frozen=True)
class Frame:
    """One plane's panel: layers bottom to top over the same slices."""

    slices: Slices
    layers: tuple[Layer, ...]

    @property
    def count(self) -> int:
        """Number of slices."""
        return len(self.slices.indices)


def window(evidence: ScanEvidence) -> tuple[float, float]:
    """The one gray scale for both images: from zero to brighter than all but 0.2 % of the brain's voxels."""
    inside = np.concatenate([evidence.before[evidence.mask], evidence.after[evidence.mask]])
    inside = inside[np.isfinite(inside)]
    if inside.size == 0:
        return 0.0, 1.0
    low, high = min(0.0, float(np.quantile(inside, 0.002))), float(np.quantile(inside, 0.998))
    return low, high if high > low else low + 1.0


def comparison(evidence: ScanEvidence) -> list[Frame]:
    """Scan and harmonized scan at the same window."""
    shades = window(evidence)

    def layers(slices: Slices) -> tuple[Layer, ...]:
        return (
            Layer("before", jpeg(gray(strip(evidence.before, slices), shades)), f"{slices.plane} slices before"),
            Layer("after", jpeg(gray(strip(evidence.after, slices), shades)), f"{slices.plane} slices after"),
        )

    return _frames(evidence.mask, layers, _COUNT)


def difference(evidence: ScanEvidence) -> tuple[list[Frame], float]:
    """Harmonized minus scan inside the brain, and the intensity at the ends of its colour scale."""
    changed = np.where(evidence.mask, np.nan_to_num(evidence.after - evidence.before), np.float32(0))
    limit = _limit(changed[evidence.mask])
    return _coloured(changed, evidence.mask, limit, _COUNT, "difference"), limit


def bias(evidence: ScanEvidence) -> tuple[list[Frame], float]:
    """The fitted field in percent inside the brain, and the percentage at the ends of its colour scale.

    Raises:
        ValueError: If no field was fitted.
    """
    if evidence.log_bias is None:
        raise ValueError("no field was fitted")
    percent = np.where(evidence.mask, 100 * np.expm1(np.nan_to_num(evidence.log_bias)), 0.0)
    limit = _limit(percent[evidence.mask])
    return _coloured(percent, evidence.mask, limit, 1, "bias field"), limit


def registration(evidence: ScanEvidence) -> list[Frame]:
    """The scan under the outlines of its mask and of the template."""
    shades, white = window(evidence), white_border(evidence.atlas)

    def layers(slices: Slices) -> tuple[Layer, ...]:
        mask = outline(evidence.mask, slices, above=0.5)
        template = template_outline(evidence.atlas, slices, white)
        return (
            Layer(
                "scan",
                jpeg(gray(strip(evidence.before, slices), shades)),
                f"{slices.plane} slices of the scan",
            ),
            Layer("lines template-lines", overlay(template, _TEMPLATE_COLOUR), "outlines of the template"),
            Layer("lines mask-lines", overlay(mask, _MASK_COLOUR), "outline of the brain mask"),
        )

    return _frames(evidence.mask, layers, _COUNT)


def _coloured(
    values: NDArray[np.floating[Any]], mask: NDArray[np.bool_], limit: float, count: int, what: str
) -> list[Frame]:
    def layers(slices: Slices) -> tuple[Layer, ...]:
        source = jpeg(diverging(strip(values, slices), limit))
        return (Layer("scan", source, f"{what} in {slices.plane} slices"),)

    return _frames(mask, layers, count)


def _frames(mask: NDArray[np.bool_], layers: Callable[[Slices], tuple[Layer, ...]], count: int) -> list[Frame]:
    chosen = [choose(mask, plane, count) for plane in PLANES]
    return [Frame(slices, layers(slices)) for slices in chosen]


def _limit(values: NDArray[np.floating[Any]]) -> float:
    limit = float(np.quantile(np.abs(values), 0.995))
    return limit if limit > 0 else 1.0
