"""Target models on disk: one safetensors file, description and arrays, no pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from blindharmony.errors import TargetError
from blindharmony.flow import MultiScaleFlow
from blindharmony.flow.pyramid import Pyramid
from blindharmony.image import write_bytes
from blindharmony.target.model import FORMAT, Target, TargetInfo, atlas_tensor, included_targets
from blindharmony.target.person import PersonModel
from blindharmony.target.restorer import Restorer

_KEY = "blindharmony"
_MAX_BYTES = 1 << 30
_ARRAYS = ("levels", "quantiles", "coverage", "mean_image")
_NETWORKS = ("pyramid", "slices", "restorer")
_PERSON = ("features", "curves", "heads")
# Fields of earlier formats that no longer mean anything: the flow's tempered evidence about curves (format 1).
_GONE = ("evidence_scale", "evidence_offset")


def save_target(target: Target, path: str | Path, *, overwrite: bool = False) -> Target:
    """Write a model; equal models give equal bytes.

    Returns:
        The model with the digest of its file.

    Raises:
        OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
    """
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(target, name))) for name in _ARRAYS}
    if target.person is not None:
        tensors |= {f"person.{k}": torch.from_numpy(np.ascontiguousarray(getattr(target.person, k))) for k in _PERSON}
    for part, module in ((p, getattr(target, p)) for p in _NETWORKS):
        if module is not None:
            tensors |= {f"{part}.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    content = save_tensors(tensors, {_KEY: target.info.model_dump_json()})
    write_bytes(Path(path), content, overwrite=overwrite)
    return replace(target, digest=_digest(content))


def load_target(target: str | Path | Target) -> Target:
    """Load a model by name or file.

    Args:
        target: A file, the name of an included model (``"ds002748"``), or a model, which is returned as it is.

    Raises:
        TargetError: If there is no such model, or the file is damaged, foreign, or from a newer version.
    """
    if isinstance(target, Target):
        return target
    path = included_targets().get(str(target), Path(target))
    if not path.is_file():
        known = ", ".join(included_targets()) or "none"
        raise TargetError(
            "no such target model", remedy=f"give a model file or an included name ({known})", path=target
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
        meta = json.loads(content[8 : 8 + length])["__metadata__"][_KEY]
        description = json.loads(meta)
    except (ValueError, KeyError, TypeError):
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
        arrays = _checked({name: tensors[name].numpy() for name in _ARRAYS})
        person = _person(tensors, arrays["levels"].size)
        pyramid = Pyramid(info.pyramid, atlas_tensor()) if info.pyramid else None
        slices = MultiScaleFlow(info.slices) if info.slices else None
        restorer = Restorer(info.restorer) if info.restorer else None
        for part, module in zip(_NETWORKS, (pyramid, slices, restorer), strict=True):
            _fill(module, {k: v for k, v in tensors.items() if k.startswith(f"{part}.")}, part)
    except (ValidationError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TargetError(f"this target model is damaged ({reason})", remedy=_TRAIN, path=path) from None
    return Target(
        info=info, person=person, pyramid=pyramid, slices=slices, restorer=restorer, digest=_digest(content), **arrays
    )


def _checked(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    grid = tuple(atlas_tensor().shape)
    ranks = arrays["levels"].size
    shapes = {"levels": (ranks,), "quantiles": (*arrays["quantiles"].shape[:1], ranks)}
    for name, array in arrays.items():
        if array.shape != shapes.get(name, grid):
            raise ValueError(f"{name} has shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are no numbers")
    return arrays


def _migrated(description: dict[str, Any]) -> dict[str, Any]:
    """A description of an earlier format in the words of this one."""
    return {k: v for k, v in description.items() if k not in _GONE}


def _person(tensors: dict[str, Tensor], ranks: int) -> PersonModel | None:
    """The person model, None in models of format 1."""
    if "person.features" not in tensors:
        return None
    features, curves, heads = (tensors[f"person.{k}"].numpy() for k in _PERSON)
    if heads.shape != features.shape[:1] or curves.shape != (*heads.shape, ranks) or not features.shape[1]:
        raise ValueError(f"person has shapes {features.shape}, {curves.shape}, {heads.shape}")
    if not (np.isfinite(features).all() and np.isfinite(curves).all()):
        raise ValueError("person has values that are no numbers")
    return PersonModel(features.astype(np.float64), curves.astype(np.float64), heads)


def _fill(module: nn.Module | None, tensors: dict[str, Tensor], part: str) -> None:
    if module is not None:
        module.load_state_dict({k.removeprefix(f"{part}."): v for k, v in tensors.items()})
        module.eval().requires_grad_(False)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
