"""A harmonized scan on disk and the scan it was made from, together again to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from blindharmony.errors import InputError
from blindharmony.image import (
    Volume,
    file_sha256,
    mask_name,
    parse_json,
    read_text,
    read_volume,
    sidecar_name,
    split_name,
    viewer_name,
)
from blindharmony.lookup import find_input, in_study, places_for
from blindharmony.prep.mask import read_mask
from blindharmony.record import Named
from blindharmony.viewer import pack, write_viewer


@dataclass(frozen=True, eq=False)
class Pair:
    """Before and after on one grid.

    Attributes:
        before: The scan.
        after: The harmonized scan.
        mask: Brain, shape of both.
        unit: Name of the intensity unit of ``after``.
    """

    before: Volume
    after: Volume
    mask: NDArray[np.bool_]
    unit: str


def view(
    result: Path,
    *,
    scan: Path | None = None,
    inputs: Sequence[Path] = (),
    out: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the viewer page of a result; beside it, if ``out`` does not say another place.

    Args:
        result: The harmonized scan, or its sidecar or report.
        scan: The scan it was made from; looked for if not given.
        inputs: Files and folders to look in first.
        out: The HTML file.
        overwrite: Whether it may exist already.

    Raises:
        InputError: If result or scan is missing, damaged, or not of the other's shape.
        OutputError: If the page exists already, or cannot be written.
    """
    image = _image(result)
    pair = read_pair(image, scan=scan, inputs=inputs)
    packed = pack(pair.before.data, pair.after.data, pair.mask, pair.after.affine)
    name = pair.before.path.name if pair.before.path else image.name
    return write_viewer(
        *packed, out or image.with_name(viewer_name(image)), name=name, unit=pair.unit, overwrite=overwrite
    )


def read_pair(image: Path, *, scan: Path | None = None, inputs: Sequence[Path] = ()) -> Pair:
    """Read a harmonized scan, the scan it was made from, and the mask beside it.

    Raises:
        InputError: As for :func:`view`.
    """
    after = read_volume(image)
    said = _sidecar(image)
    before = read_volume(_scan(image, said, scan, inputs))
    if before.shape != after.shape:
        raise InputError(
            f"the scan has shape {before.shape}, the result {after.shape}",
            remedy="give the scan it was made from with --scan",
            path=before.path,
        )
    target = said.get("Target")
    name = target.get("Name") if isinstance(target, dict) else None
    return Pair(before, after, _mask(image, after), f"{name} units" if isinstance(name, str) else "its units")


def _image(result: Path) -> Path:
    """The harmonized scan that a sidecar or report belongs to."""
    if not result.exists():
        raise InputError("no such file", remedy="give a harmonized scan", path=result)
    if result.suffix not in (".json", ".html"):
        return result
    stem = result.name.removesuffix(result.suffix).removesuffix(".viewer")
    for extension in (".nii.gz", ".nii", ".mgz"):
        if (found := result.with_name(stem + extension)).exists():
            return found
    raise InputError("no harmonized scan lies beside this file", remedy="give the scan itself", path=result)


def _sidecar(image: Path) -> dict[str, Any]:
    file = image.with_name(sidecar_name(image))
    if not file.exists():
        return {}
    try:
        found = parse_json(read_text(file))
    except ValueError as error:
        raise InputError(f"this is no sidecar ({str(error)[:80]})", remedy="remove it", path=file) from None
    return found if isinstance(found, dict) else {}


def _scan(image: Path, said: dict[str, Any], given: Path | None, inputs: Sequence[Path]) -> Path:
    digest, sources = said.get("SourceSHA256"), said.get("Sources")
    if given is not None:
        if isinstance(digest, str) and given.is_file() and file_sha256(given) != digest:
            raise InputError(
                f"this is not the scan that {image.name} was made from: its hash is another",
                remedy="give the unchanged scan",
                path=given,
            )
        return given
    if not (isinstance(digest, str) and isinstance(sources, list) and sources and isinstance(sources[0], str)):
        raise InputError(
            "which scan this was made from is not recorded beside it", remedy="name the scan with --scan", path=image
        )
    sidecar = image.with_name(sidecar_name(image))
    try:
        wanted = Named(Name=Path(sources[0]).name, SHA256=digest)
    except ValidationError:
        raise InputError("this is no sidecar", remedy="name the scan with --scan", path=sidecar) from None
    return find_input(wanted, "scan", [*in_study(image, sources[0]), *places_for(sidecar, inputs)], sidecar)


def _mask(image: Path, after: Volume) -> NDArray[np.bool_]:
    file = image.with_name(mask_name(split_name(image)[0] + ".nii.gz"))
    if file.exists():
        inside = np.asarray(read_mask(file).data > 0)
        if inside.shape == after.shape and inside.any():
            return inside
    # Without a mask the window comes from whatever is not dark.
    return np.asarray(after.data > 0.2 * np.quantile(after.data, 0.99))
