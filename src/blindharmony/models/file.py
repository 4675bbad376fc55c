"""A target model on disk: one safetensors file, a description and arrays, no pickle.

Nothing of a file is taken before it was checked: shapes against the template's grid and each other, values for being
finite and in their range, the weights of networks against the shapes that the description gives, before memory is
allocated for them. A file of an earlier format is read in the words of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from blindharmony.errors import TargetError
from blindharmony.files import write_bytes
from blindharmony.flows.glow import MultiScaleFlow
from blindharmony.flows.pyramid import Pyramid
from blindharmony.models.card import KEY, TRAIN, description_of, digest_of, target_content
from blindharmony.models.person import PersonModel
from blindharmony.models.restorer import Restorer
from blindharmony.models.target import FORMAT, PLACE_LEVELS, Places, Target, TargetInfo, atlas_tensor

ARRAYS = ("levels", "quantiles", "coverage", "mean_image")
PERSON = ("features", "curves", "heads")
#: What a person model may lack.
MORE_OF_PERSON = ("textures", "people", "contrasts", "voxel_error")

PLACES = ("mean", "spread", "largest")
#: How many maps there are of each kind.
OF_PLACES = {"places": PLACE_LEVELS, "dark_places": 1}

Network = TypeVar("Network", bound=nn.Module)


def checked_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The arrays of a model by name.

    Raises:
        ValueError: If shapes do not fit each other or the template's grid, values are no finite numbers, the levels
            are not increasing ranks in (0, 1), a quantile curve falls, or the coverage is no share.
    """
    if missing := [name for name in ARRAYS if name not in tensors]:
        raise ValueError(f"it has no {', '.join(missing)}")
    arrays = {name: tensors[name].numpy() for name in ARRAYS}
    grid = tuple(atlas_tensor().shape)
    levels, quantiles, coverage = (arrays[name] for name in ARRAYS[:3])
    shapes = {"levels": (levels.size,), "quantiles": (*quantiles.shape[:1], levels.size)}
    for name, array in arrays.items():
        if array.shape != shapes.get(name, grid) or array.size == 0 or array.dtype.kind != "f":
            wanted = f"{shapes.get(name, grid)} of float32 or float64"
            raise ValueError(f"{name} has shape {array.shape} of {array.dtype}, expected {wanted}")
        if not (np.abs(array) < _MAX_VALUE).all():  # a comparison with NaN is false
            raise ValueError(f"{name} has values that are no numbers")
    if not (np.diff(levels, prepend=0.0, append=1.0) > 0).all():
        raise ValueError("levels are not increasing ranks")
    if (np.diff(quantiles, axis=1) < 0).any():
        raise ValueError("a quantile curve falls")
    if coverage.min() < 0 or coverage.max() > 1:
        raise ValueError("coverage is no share")
    return arrays


# Flow units are around one.
_MAX_VALUE = 1e6
_MAX_TEXTURES = 64


def checked_person(tensors: Mapping[str, Tensor], ranks: int) -> PersonModel | None:
    """The person model, None in models of format 1.

    Format 2 had no textures, formats before 6 no people, those before 8 no contrasts
    and no errors of voxels.

    Raises:
        ValueError: If shapes do not fit each other, or values are no numbers.
    """
    if "person.features" not in tensors:
        return None
    if missing := [k for k in PERSON if f"person.{k}" not in tensors]:
        raise ValueError(f"person has no {', '.join(missing)}")
    features, curves, heads = (tensors[f"person.{k}"].numpy() for k in PERSON)
    fitting = heads.ndim == 1 and heads.size > 0 and heads.dtype.kind == "i" and curves.shape == (*heads.shape, ranks)
    # Features are two equal blocks.
    if not fitting or features.shape[:1] != heads.shape or features.ndim != 2 or features.shape[1] % 2:
        shapes = ", ".join(f"{k} {tuple(tensors[f'person.{k}'].shape)}" for k in PERSON)
        raise ValueError(f"the person model's shapes do not fit {ranks} ranks or each other: {shapes}")
    if not features.shape[1] or not ((np.abs(features) < _MAX_VALUE).all() and (np.abs(curves) < _MAX_VALUE).all()):
        raise ValueError("person has values that are no numbers")
    textures = None
    if "person.textures" in tensors:
        textures = tensors["person.textures"].numpy().astype(np.float64)
        if textures.ndim != 2 or textures.shape[:1] != heads.shape or not 0 < textures.shape[1] <= _MAX_TEXTURES:
            raise ValueError(f"person has textures of shape {textures.shape}")
        if not (np.abs(textures) < _MAX_VALUE).all():
            raise ValueError("person has textures that are no numbers")
    people = tensors["person.people"].numpy() if "person.people" in tensors else None
    if people is not None and (people.shape != heads.shape or people.dtype.kind != "i"):
        raise ValueError(f"person has people of shape {people.shape}")
    contrasts = None
    if "person.contrasts" in tensors:
        contrasts = tensors["person.contrasts"].numpy().astype(np.float64)
        if contrasts.shape != (len(heads), 2) or not (np.abs(contrasts) < _MAX_VALUE).all():
            raise ValueError(f"person has contrasts of shape {contrasts.shape}, or some that are no numbers")
    voxel_error = None
    if "person.voxel_error" in tensors:
        voxel_error = tensors["person.voxel_error"].numpy().astype(np.float64)
        if voxel_error.shape != (ranks,) or not ((voxel_error >= 0) & (voxel_error < _MAX_VALUE)).all():
            raise ValueError(f"person has errors of voxels of shape {voxel_error.shape}, or some that are no numbers")
    features, curves = features.astype(np.float64), curves.astype(np.float64)
    return PersonModel(features, curves, heads, textures, people, contrasts, voxel_error)


def checked_places(tensors: Mapping[str, Tensor], part: str, levels: int) -> Places | None:
    """What is usual at each place of the target's scans; None in models of few scans and those made before it was kept.

    Args:
        tensors: Everything in the file.
        part: What its tensors' names start with.
        levels: How many maps there are.

    Raises:
        ValueError: If shapes are not those of the grid, or values are no numbers where they must be.
    """
    if f"{part}.mean" not in tensors:
        return None
    if missing := [k for k in PLACES if f"{part}.{k}" not in tensors]:
        raise ValueError(f"{part} has no {', '.join(missing)}")
    mean, spread, largest = (tensors[f"{part}.{k}"].numpy() for k in PLACES)
    shape = (levels, *(n // 2 for n in atlas_tensor().shape))
    if mean.shape != shape or spread.shape != shape or largest.ndim != 1 or largest.size < _FEWEST_PLACES:
        shapes = ", ".join(f"{k} {tuple(tensors[f'{part}.{k}'].shape)}" for k in PLACES)
        raise ValueError(f"{part} has not the shape {shape} of the template's grid: {shapes}")
    if any(x.dtype.kind != "f" for x in (mean, spread, largest)):
        raise ValueError(f"{part} has values that are no numbers")
    mean, spread, largest = mean.astype(np.float32), spread.astype(np.float32), largest.astype(np.float64)
    # Places without brain have no mean.
    if (np.abs(mean) > _MAX_VALUE).any() or not ((spread > 0) & (spread < _MAX_VALUE)).all():
        raise ValueError(f"{part} has values that are no numbers")
    if not ((largest >= 0) & (largest < _MAX_VALUE)).all():
        raise ValueError(f"{part} has extremes that are no numbers")
    return Places(mean, spread, largest)


# Scans without which nothing can be said about places.
_FEWEST_PLACES = 3


def checked_network(part: str, tensors: Mapping[str, Tensor], make: Callable[[], Network]) -> Network:
    """A network filled with its tensors, frozen.

    It is first made without memory: a description may ask for more weights than any machine has, and the file must
    hold every one of them before they are allocated.

    Args:
        part: What its tensors' names start with.
        tensors: Everything in the file.
        make: Makes the network on torch's default device.

    Raises:
        ValueError: If the tensors are not those of the network, or no finite numbers.
    """
    weights = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in make().state_dict().items()}
    if wrong := [k for k in wanted.keys() | weights.keys() if k not in weights or wanted.get(k) != weights[k].shape]:
        raise ValueError(f"{part} has not the weights it describes: {min(wrong)[:60]} and {len(wrong) - 1} more")
    if bad := [k for k, v in weights.items() if not v.isfinite().all()]:
        raise ValueError(f"{part} has weights that are no numbers: {bad[0][:60]}")
    network = make()
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


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
    for part in OF_PLACES:
        if (places := getattr(target, part)) is not None:
            # Half the file, and no other numbers: usual_places has rounded them.
            maps = {k: getattr(places, k).astype(np.float16) for k in ("mean", "spread")} | {"largest": places.largest}
            tensors |= {f"{part}.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in maps.items()}
    for part, module in ((p, getattr(target, p)) for p in _PARTS):
        if module is not None:
            tensors |= {f"{part}.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    # What was read from an older file has been put into the words of this format.
    info = target.info.model_copy(update={"format": FORMAT})
    content = save_tensors(tensors, {KEY: info.model_dump_json()})
    write_bytes(Path(path), content, overwrite=overwrite)
    return replace(target, info=info, digest=digest_of(content))


def load_target(target: str | PathLike[str] | Target) -> Target:
    """Load a model by name or file.

    Args:
        target: A file, the name of an included model (``"ds002748"``), or a model, which is returned as it is.

    Raises:
        TargetError: If there is no such model, or the file is damaged, foreign, or from a newer version.

    Example:
        >>> load_target("ds002748").info.scans
        34
    """
    if isinstance(target, Target):
        return target
    path, content = target_content(str(target))
    return _parse(content, path)


@lru_cache(maxsize=1)
def cached_target(target: str) -> Target:
    """The same for a process that does one piece of work after the other: the last one stays loaded."""
    return load_target(target)


def _parse(content: bytes, path: Path) -> Target:
    description = description_of(content, path)
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
        places, dark_places = (checked_places(tensors, part, levels) for part, levels in OF_PLACES.items())
        pyramid, slices, restorer = _networks(info, tensors)
    except (ValidationError, SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = _reason(error)
        raise TargetError(f"this target model is damaged ({reason})", remedy=TRAIN, path=path) from None
    return Target(
        info=info,
        person=person,
        pyramid=pyramid,
        slices=slices,
        restorer=restorer,
        places=places,
        dark_places=dark_places,
        digest=digest_of(content),
        file=path.name,
        **arrays,
    )


def _reason(error: Exception) -> str:
    """One line about what is wrong with a file."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"its description: {'.'.join(map(str, first['loc']))[:60]}: {first['msg']}"[:160]
    return str(error).strip().splitlines()[0][:160]


def _networks(
    info: TargetInfo, tensors: dict[str, Tensor]
) -> tuple[Pyramid | None, MultiScaleFlow | None, Restorer | None]:
    shape, flow, small = info.pyramid, info.slices, info.restorer
    atlas = atlas_tensor()
    if shape and shape.shape != tuple(atlas.shape):
        raise ValueError(f"the flow is for images of {shape.shape}, the template has {tuple(atlas.shape)}")
    if shape and any(len(row) != len(shape.widths) + 1 for row in info.held_out.level_bits):
        raise ValueError("the held-out bits are of a flow with another number of levels")
    return (
        checked_network("pyramid", tensors, lambda: Pyramid(shape, atlas.to(torch.get_default_device())))
        if shape
        else None,
        checked_network("slices", tensors, lambda: MultiScaleFlow(flow)) if flow else None,
        checked_network("restorer", tensors, lambda: Restorer(small)) if small else None,
    )


def _migrated(description: dict[str, Any]) -> dict[str, Any]:
    """A description of an earlier format in the words of this one."""
    content = {k: v for k, v in description.items() if k not in _GONE}
    # Format 4 had no checkerboards, format 3 spline couplings only.
    if description.get("format", 0) < 5 and isinstance(pyramid := content.get("pyramid"), dict):
        rounds = {} if description.get("format", 0) == 4 else {"affine_rounds": 0}
        content["pyramid"] = {"checkerboards": 0, **rounds, **pyramid}
    return content
