"""Target models on disk: one safetensors file, description and arrays, no pickle."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from blindharmony.errors import TargetError
from blindharmony.flow import MultiScaleFlow
from blindharmony.flow.pyramid import Pyramid
from blindharmony.image import parse_json, write_bytes
from blindharmony.target.model import FORMAT, Target, TargetInfo, atlas_tensor, included_targets
from blindharmony.target.parts import ARRAYS, MORE_OF_PERSON, PERSON, checked_arrays, checked_network, checked_person
from blindharmony.target.restorer import Restorer

_KEY = "blindharmony"
_MAX_BYTES = 1 << 30
_PARTS = ("pyramid", "slices", "restorer")
# Fields of earlier formats that no longer mean anything: the flow's tempered evidence about curves (format 1).
_GONE = ("evidence_scale", "evidence_offset")


def save_target(target: Target, path: str | Path, *, overwrite: bool = False) -> Target:
    """Write a model; equal models give equal bytes.

    Returns:
        The model with the digest of its file.

    Raises:
        OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
    """
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(target, name))) for name in ARRAYS}
    if target.person is not None:
        parts = {k: getattr(target.person, k) for k in (*PERSON, *MORE_OF_PERSON)}
        tensors |= {f"person.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in parts.items() if v is not None}
    for part, module in ((p, getattr(target, p)) for p in _PARTS):
        if module is not None:
            tensors |= {f"{part}.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    # What was read from an older file has been put into the words of this format.
    info = target.info.model_copy(update={"format": FORMAT})
    content = save_tensors(tensors, {_KEY: info.model_dump_json()})
    write_bytes(Path(path), content, overwrite=overwrite)
    return replace(target, info=info, digest=_digest(content))


def load_target(target: str | PathLike[str] | Target) -> Target:
    """Load a model by name or file.

    Args:
        target: A file, the name of an included model (``"ds002748"``), or a model, which is returned as it is.

    Raises:
        TargetError: If there is no such model, or the file is damaged, foreign, or from a newer version.

    Example:
        >>> load_target("ds002748").info.scans
        18
    """
    if isinstance(target, Target):
        return target
    path = included_targets().get(str(target), Path(target))
    if not path.is_file():
        known = ", ".join(included_targets()) or "none"
        raise TargetError(
            "no such target model", remedy=f"give a model file or an included name ({known})", path=str(target)
        )
    if path.stat().st_size > _MAX_BYTES:
        raise TargetError("this file is too large to be a target model", remedy=_TRAIN, path=path)
    try:
        content = path.read_bytes()
        return _parse(content, path)
    except OSError as error:
        raise TargetError(f"cannot be read ({error.strerror})", remedy="check its permissions", path=path) from None


_TRAIN = "train or fetch it again (see 'blindharmony train --help')"


def _parse(content: bytes, path: Path) -> Target:
    try:
        length = int.from_bytes(content[:8], "little")
        meta = parse_json(content[8 : 8 + length])["__metadata__"][_KEY]
        description = parse_json(meta)
    except (ValueError, KeyError, TypeError):
        if content.lstrip().startswith(b"{") and b'"blindharmony-scanner"' in content:
            remedy = "pass it to 'blindharmony harmonize' with --scanner"
            raise TargetError("this is a scanner model, not a target model", remedy=remedy, path=path) from None
        raise TargetError("this is not a target model", remedy=_TRAIN, path=path) from None
    if not isinstance(description, dict):
        raise TargetError("this is not a target model", remedy=_TRAIN, path=path)
    version = description.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise TargetError(
            f"this model was made by a newer version (format {version}, known {FORMAT})",
            remedy="upgrade with 'pip install -U blindharmony'",
            path=path,
        )
    try:
        info = TargetInfo.model_validate(_migrated(description))
        tensors = load_tensors(content)
        arrays = checked_arrays(tensors)
        person = checked_person(tensors, arrays["levels"].size)
        pyramid, slices, restorer = _networks(info, tensors)
    except (ValidationError, SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise TargetError(f"this target model is damaged ({reason})", remedy=_TRAIN, path=path) from None
    return Target(
        info=info,
        person=person,
        pyramid=pyramid,
        slices=slices,
        restorer=restorer,
        digest=_digest(content),
        file=path.name,
        **arrays,
    )


def _networks(
    info: TargetInfo, tensors: dict[str, Tensor]
) -> tuple[Pyramid | None, MultiScaleFlow | None, Restorer | None]:
    shape, flow, small = info.pyramid, info.slices, info.restorer
    atlas = atlas_tensor()
    if shape and shape.shape != tuple(atlas.shape):
        raise ValueError(f"pyramid has shape {shape.shape}")
    if shape and any(len(row) != len(shape.widths) + 1 for row in info.held_out.level_bits):
        raise ValueError("level_bits is not of this pyramid")
    return (
        checked_network("pyramid", tensors, lambda: Pyramid(shape, atlas.to(torch.get_default_device())))
        if shape
        else None,
        checked_network("slices", tensors, lambda: MultiScaleFlow(flow)) if flow else None,
        checked_network("restorer", tensors, lambda: Restorer(small)) if small else None,
    )


def _migrated(description: dict[str, Any]) -> dict[str, Any]:
    """A description of an earlier format in the words of this one."""
    known = {k: v for k, v in description.items() if k not in _GONE}
    # Format 4 had no checkerboards, format 3 spline couplings only.
    if description.get("format", 0) < 5 and isinstance(pyramid := known.get("pyramid"), dict):
        rounds = {} if description.get("format", 0) == 4 else {"affine_rounds": 0}
        known["pyramid"] = {"checkerboards": 0, **rounds, **pyramid}
    return known


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
