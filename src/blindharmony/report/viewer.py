"""A result and its scan in three dimensions: two volumes and the viewer program in one HTML file.

The program is niivue, whole and unchanged, as its makers publish it. The volumes are cut to the brain, thinned out if
they are large, rounded and packed, so that they lie inside the page.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from blindharmony.files import write_text
from blindharmony.report.html import asset_text, page_environment, script_hash

VERSION = "0.69.0"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"


def niivue() -> str:
    """Its text.

    Raises:
        RuntimeError: If the installed file is not the one that was checked.
    """
    packed = resources.files("blindharmony.report").joinpath("assets", "niivue.umd.js.gz").read_bytes()
    plain = gzip.decompress(packed)
    if hashlib.sha256(plain).hexdigest() != SHA256:
        raise RuntimeError("the viewer program has changed: install blindharmony again")
    return plain.decode("utf-8")


def licences() -> str:
    """The terms of niivue and of what is inside it; they travel with every copy."""
    return resources.files("blindharmony.report").joinpath("assets", "niivue-licences.txt").read_text(encoding="utf-8")


_MARGIN_MM = 12.0
_MOST_VOXELS = 9_000_000
# Steps between black and white; a screen shows 256.
_STEPS = 512
_LEAST = 1e-20


@dataclass(frozen=True)
class Packed:
    """A volume inside the page.

    Attributes:
        data: Packed NIfTI file (``.nii.gz``), base64.
        low: Intensity shown black.
        high: Intensity shown white.
        step: Intensities are rounded to multiples of it.
        shape: Voxels along each axis of the file, after cropping and thinning.
        thinned: Voxels of the scan along each axis that became one, by their mean.
    """

    data: str
    low: float
    high: float
    step: float
    shape: tuple[int, ...]
    thinned: int


def pack(
    before: NDArray[Any], after: NDArray[Any], mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[Packed, Packed]:
    """Pack both volumes of a pair alike; equal input gives equal text.

    Both are cut to the brain with 12 mm around it. White of ``after`` is brighter than all but 0.2 % of its brain;
    white of ``before`` is as many times its brain's root mean square, so that only contrast is left to differ.

    Args:
        before: In the scan's own units and axes, shape ``(X, Y, Z)``.
        after: In the target's units, same shape.
        mask: Brain, same shape.
        affine: Voxel to scanner millimetres, shape ``(4, 4)``.

    Raises:
        ValueError: If the shapes differ or the mask is empty.

    Example:
        >>> x = np.full((9, 9, 9), 100.0)
        >>> first, second = pack(x, 2 * x, x > 0, np.eye(4))
        >>> first.high, second.high, first.shape
        (100.0, 200.0, (9, 9, 9))
    """
    if not before.shape == after.shape == mask.shape:
        raise ValueError(f"shapes differ: {before.shape}, {after.shape}, mask {mask.shape}")
    if not mask.any():
        raise ValueError("the mask is empty")
    spacing = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(0))
    box = _box(mask, spacing)
    thin = 1
    while np.prod([(s.stop - s.start) // thin for s in box]) > _MOST_VOXELS:
        thin += 1
    place = np.array(affine, np.float64)
    place[:3, 3] += place[:3, :3] @ (np.array([s.start for s in box]) + (thin - 1) / 2)
    place[:3, :3] *= thin
    high = _white(after, mask)
    highs = (_believed(high * _rms(before, mask) / _rms(after, mask)), high)
    first, second = (
        _packed(_thinned(volume[box], thin), place, white, thin)
        for volume, white in zip((before, after), highs, strict=True)
    )
    return first, second


def _box(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[slice, ...]:
    spans = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(_MARGIN_MM / max(float(spacing[axis]), 1e-3)))
        spans.append(slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + margin + 1, mask.shape[axis])))
    return tuple(spans)


def _thinned(volume: NDArray[Any], thin: int) -> NDArray[np.float32]:
    whole = np.nan_to_num(volume.astype(np.float32), posinf=0.0, neginf=0.0)
    if thin == 1:
        return whole
    x, y, z = (n // thin for n in whole.shape)
    cubes = whole[: x * thin, : y * thin, : z * thin].reshape(x, thin, y, thin, z, thin)
    return np.asarray(cubes.mean(axis=(1, 3, 5)), np.float32)


def _white(volume: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    return _believed(float(np.quantile(np.nan_to_num(volume[mask].astype(np.float64)), 0.998)))


def _rms(volume: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    return _believed(float(np.sqrt(np.mean(np.nan_to_num(volume[mask].astype(np.float64)) ** 2))))


def _believed(scale: float) -> float:
    # A brain that is all dark has no scale; the header's single precision has no smaller one either.
    return scale if np.isfinite(scale) and scale > _LEAST else 1.0


def _packed(volume: NDArray[np.float32], affine: NDArray[np.float64], white: float, thin: int) -> Packed:
    step = white / _STEPS
    limit = np.iinfo(np.int16)
    rounded = np.clip(np.round(volume / step), limit.min, limit.max).astype(np.int16)
    image = nib.Nifti1Image(rounded, affine)
    image.header.set_slope_inter(step, 0)
    image.header.set_xyzt_units("mm")
    # No time in the gzip header, so that equal input gives equal bytes.
    packed = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    return Packed(base64.b64encode(packed).decode(), 0.0, white, step, rounded.shape, thin)


def render_viewer(before: Packed, after: Packed, *, name: str, unit: str) -> str:
    """The page; equal input gives equal text.

    Args:
        before: The scan.
        after: The harmonized scan.
        name: File name to show.
        unit: Name of the target's intensity unit.
    """
    program, script = Markup(niivue()), asset_text("viewer.js")
    facts = {
        which: {"low": packed.low, "high": packed.high, "step": packed.step}
        for which, packed in (("before", before), ("after", after))
    }
    return (
        page_environment()
        .get_template("viewer.html")
        .render(
            name=name,
            unit=unit,
            before=before,
            after=after,
            facts=_inert(facts),
            program=program,
            program_hash=script_hash(program),
            program_version=VERSION,
            licenses=licences(),
            script=script,
            script_hash=script_hash(script),
            style=asset_text("style.css", "viewer.css"),
        )
    )


def write_viewer(
    before: Packed, after: Packed, path: str | os.PathLike[str], *, name: str, unit: str, overwrite: bool = False
) -> Path:
    """Write the page, or nothing.

    Raises:
        OutputError: If it exists already, or the folder or disk does not take it.
    """
    return write_text(path, render_viewer(before, after, name=name, unit=unit), overwrite=overwrite)


def _inert(content: object) -> Markup:
    # Inside a script element only this character could end it.
    return Markup(json.dumps(content, sort_keys=True).replace("<", "\\u003c"))
