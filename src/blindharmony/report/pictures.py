"""Slices, outlines and difference maps as pictures in the page.

First slices: which ones to show (:func:`choose`), side by side (:func:`strip`), as a picture (:func:`jpeg`). Then thin
outlines to lay over them: is the mask the brain, does the template fit? Last the panels of the report, each three
planes of several slices with one or more layers: scan, result and target (:func:`side_by_side`), what was done to the
file (:func:`changes`), the :func:`unlike_place`, and the :func:`registration`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from blindharmony.quality.metrics import tissue_medians
from blindharmony.report.charts import diverging
from blindharmony.report.evidence import ScanEvidence

Plane: TypeAlias = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Slices:
    """Which slices to show in one plane.

    Attributes:
        plane: Orientation.
        indices: Voxel index of each slice along the plane's normal.
        width: Pixels across one slice.
        height: Pixels down one slice.
    """

    plane: Plane
    indices: tuple[int, ...]
    width: int
    height: int


def choose(mask: NDArray[np.bool_], plane: Plane, count: int) -> Slices:
    """Evenly spaced slices through the brain, leaving out its two ends.

    Args:
        mask: Brain in RAS+ order, shape ``(X, Y, Z)``.
        plane: Orientation.
        count: How many; one is the middle.

    Example:
        >>> choose(np.ones((8, 10, 11), bool), "axial", 3)
        Slices(plane='axial', indices=(2, 5, 8), width=8, height=10)
    """
    axis = _AXIS[plane]
    inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    low, high = int(inside[0]), int(inside[-1])
    shares = np.linspace(0.17, 0.83, count) if count > 1 else np.array([0.5])
    indices = tuple(round(low + share * (high - low)) for share in shares.tolist())
    height, width = slice_of(mask, plane, indices[0]).shape
    return Slices(plane, indices, width, height)


def slice_of(volume: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
    """One slice as it hangs on a viewing screen: patient's right on the left, front or top up.

    Sagittal slices look to the left.

    Args:
        volume: In RAS+ order, shape ``(X, Y, Z)``.
        plane: Orientation.
        index: Along the plane's normal.

    Returns:
        Rows top to bottom, shape ``(height, width)``.
    """
    # np.take would copy a whole volume whose axes are turned.
    cut = np.moveaxis(volume, _AXIS[plane], 0)[index]
    return np.asarray(cut.T[::-1, ::-1])


def strip(volume: NDArray[Any], slices: Slices) -> NDArray[Any]:
    """The chosen slices side by side, shape ``(height, slices * width)``."""
    return np.concatenate([slice_of(volume, slices.plane, index) for index in slices.indices], axis=1)


def gray(values: NDArray[np.floating[Any]], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Intensities as 8-bit gray values between the two ends of the window.

    Example:
        >>> gray(np.array([0.0, 5.0, 99.0]), (0.0, 10.0)).tolist()
        [0, 128, 255]
    """
    low, high = window
    share = (np.nan_to_num(values) - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.asarray(np.round(np.clip(share, 0, 1) * 255), np.uint8)


def before_and_after(
    before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]], mask: NDArray[np.bool_], count: int = 4
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The same axial slices of a scan and its result as gray pixels, with one window of intensities.

    Args:
        before: The scan in RAS+ order, shape ``(X, Y, Z)``.
        after: The result, which sets the window.
        mask: The brain.
        count: How many slices.

    Example:
        >>> scan = np.random.default_rng(0).random((8, 9, 10))
        >>> [pixels.shape for pixels in before_and_after(scan, scan, scan > 0)]
        [(9, 32), (9, 32)]
    """
    slices = choose(mask, "axial", count)
    window = (0.0, 1.1 * float(np.quantile(after[mask], 0.995)))
    return gray(strip(before, slices), window), gray(strip(after, slices), window)


def jpeg(pixels: NDArray[np.uint8], *, quality: int = 84) -> str:
    """A JPEG data URI of gray ``(H, W)`` or RGB ``(H, W, 3)`` pixels."""
    return _uri("image/jpeg", jpeg_file(pixels, quality=quality))


def jpeg_file(pixels: NDArray[np.uint8], *, quality: int = 84) -> io.BytesIO:
    """The same as a file in memory."""
    buffer = io.BytesIO()
    # Full colour resolution: halved, the colours of a difference map would bleed.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0)
    return buffer


def overlay(drawn: NDArray[np.bool_], colour: tuple[int, int, int]) -> str:
    """A PNG data URI: the drawn pixels ``(H, W)`` in one colour, all else transparent."""
    picture = Image.fromarray(drawn.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, *colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=0, bits=1)
    return _uri("image/png", buffer)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# Lines are drawn on a finer grid than the slices, or they would cover the border they show.
_FINER = 2


def outline(volume: NDArray[Any], slices: Slices, *, above: float, blur: float = 0.0) -> NDArray[np.bool_]:
    """Where the volume's slices cross a value, side by side.

    Args:
        volume: In RAS+ order, shape ``(X, Y, Z)``; a mask counts as 0 and 1.
        slices: Which slices.
        above: The value.
        blur: Standard deviation in voxels of a smoothing beforehand, to leave only the main shape.

    Returns:
        Shape ``(2 * height, 2 * slices * width)``.
    """
    drawn = []
    for index in slices.indices:
        cut = slice_of(volume, slices.plane, index).astype(np.float32)
        fine = ndimage.zoom(ndimage.gaussian_filter(cut, blur) if blur else cut, _FINER, order=1)
        inside = fine > above
        drawn.append(inside & ~ndimage.binary_erosion(inside, border_value=1))
    return np.concatenate(drawn, axis=1)


def white_border(atlas: NDArray[np.floating[Any]]) -> float | None:
    """The intensity between a template's grey and white matter; None if it has no tissue to tell apart."""
    try:
        _, gray, white = tissue_medians(atlas[atlas > 0])
    except ValueError:
        return None
    return (gray + white) / 2


def template_outline(atlas: NDArray[np.floating[Any]], slices: Slices, white: float | None) -> NDArray[np.bool_]:
    """Outline of the template's brain and of its white matter, side by side.

    Args:
        atlas: Template brain, zero outside, shape ``(X, Y, Z)``.
        slices: Which slices.
        white: Its :func:`white_border`; None: only the brain's outline.

    Returns:
        As :func:`outline`.
    """
    drawn = outline(atlas > 0, slices, above=0.5)
    return drawn if white is None else drawn | outline(atlas, slices, above=white, blur=0.8)


_COUNT = 7
_MASK_COLOUR, _TEMPLATE_COLOUR, _PLACE_COLOUR = (64, 224, 208), (255, 171, 64), (255, 82, 82)


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
    """The one gray scale for all heads: from zero to brighter than all but 0.2 % of the brain's voxels."""
    inside = np.concatenate([evidence.before[evidence.mask], evidence.after[evidence.mask]])
    inside = inside[np.isfinite(inside)]
    if inside.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(inside, [0.002, 0.998]).tolist()
    low = min(0.0, low)
    return low, high if high > low else low + 1.0


@dataclass(frozen=True)
class View:
    """One plane of several heads side by side, at the same slices and the same window."""

    slices: Slices
    frames: tuple[Frame, ...]


def side_by_side(evidence: ScanEvidence) -> list[View]:
    """The scan as it came, the result, and a head of the target."""
    shades = window(evidence)
    heads = (
        ("before", evidence.before, "of the scan as it came"),
        ("after", evidence.after, "of the result"),
        ("target", evidence.target_image, "of the target"),
    )
    views = []
    for plane in PLANES:
        slices = choose(evidence.mask, plane, _COUNT)
        layers = [
            Layer(style, jpeg(gray(strip(image, slices), shades)), f"{plane} slices {what}")
            for style, image, what in heads
        ]
        views.append(View(slices, tuple(Frame(slices, (layer,)) for layer in layers)))
    return views


# A colour scale that ends at less would show a scan that hardly changed as one that changed much.
_LEAST_SCALE = 10.0


def changes(evidence: ScanEvidence) -> tuple[list[Frame], dict[str, list[Frame]], float]:
    """Where the file changed, and what each step did, on one colour scale.

    Returns:
        Frames of the whole change, frames of each step that changed anything, and the end of the scale in the unit of
        the page: 10 at least.
    """
    whole = np.where(evidence.mask, np.nan_to_num(evidence.after - evidence.before), np.float32(0))
    # A whole number of percent, since the ends of the scale are read.
    limit = float(np.ceil(max(_LEAST_SCALE, float(np.quantile(np.abs(whole[evidence.mask]), 0.995)))))
    parts = {
        name: _coloured(np.where(evidence.mask, np.nan_to_num(change), 0), evidence.mask, limit, 1, name)
        for name, change in evidence.steps.items()
        if evidence.change.parts.get(name, 0.0) >= _SHOWN
    }
    return _coloured(whole, evidence.mask, limit, _COUNT, "change"), parts, limit


# Percent of white matter, on average; less cannot be seen on a scale that ends at 10.
_SHOWN = 0.1


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


def unlike_places(evidence: ScanEvidence) -> dict[str, list[Frame]]:
    """The places of the scan that are unlike the target's, each outlined in three planes through its middle."""
    return {name: _outlined(evidence, region) for name, region in evidence.places.items()}


def _outlined(evidence: ScanEvidence, region: NDArray[np.bool_]) -> list[Frame]:
    shades, frames = window(evidence), []
    for plane in PLANES:
        others = tuple(axis for axis in range(3) if axis != _AXIS[plane])
        index = int(region.sum(axis=others).argmax())  # where most of it is
        height, width = slice_of(evidence.mask, plane, index).shape
        slices = Slices(plane, (index,), width, height)
        scan = jpeg(gray(strip(evidence.before, slices), shades))
        line = ndimage.binary_dilation(outline(region, slices, above=0.5, blur=2.0))
        layers = (
            Layer("scan", scan, f"{plane} slice of the scan"),
            Layer("lines", overlay(line, _PLACE_COLOUR), "outline of the place"),
        )
        frames.append(Frame(slices, layers))
    return frames


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
