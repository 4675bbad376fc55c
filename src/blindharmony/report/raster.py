"""Slices of a volume as pictures inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


def jpeg(pixels: NDArray[np.uint8], *, quality: int = 84) -> str:
    """A JPEG data URI of gray ``(H, W)`` or RGB ``(H, W, 3)`` pixels."""
    buffer = io.BytesIO()
    # Full colour resolution: halved, the colours of a difference map would bleed.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0)
    return _uri("image/jpeg", buffer)


def overlay(drawn: NDArray[np.bool_], colour: tuple[int, int, int]) -> str:
    """A PNG data URI: the drawn pixels ``(H, W)`` in one colour, all else transparent."""
    picture = Image.fromarray(drawn.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, *colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=0, bits=1)
    return _uri("image/png", buffer)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
