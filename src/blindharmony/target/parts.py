"""The arrays and networks of a model file, none taken before it was checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blindharmony.target.model import atlas_tensor
from blindharmony.target.person import PersonModel

ARRAYS = ("levels", "quantiles", "coverage", "mean_image")
PERSON = ("features", "curves", "heads")
#: What a person model may lack.
MORE_OF_PERSON = ("textures", "people")

Network = TypeVar("Network", bound=nn.Module)


def checked_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The arrays of a model by name.

    Raises:
        ValueError: If shapes do not fit each other or the template's grid, values are no finite numbers, the levels
            are not increasing ranks in (0, 1), a quantile curve falls, or the coverage is no share.
    """
    arrays = {name: tensors[name].numpy() for name in ARRAYS}
    grid = tuple(atlas_tensor().shape)
    levels, quantiles, coverage = (arrays[name] for name in ARRAYS[:3])
    shapes = {"levels": (levels.size,), "quantiles": (*quantiles.shape[:1], levels.size)}
    for name, array in arrays.items():
        if array.shape != shapes.get(name, grid) or array.size == 0 or array.dtype.kind != "f":
            raise ValueError(f"{name} has shape {array.shape} of {array.dtype}")
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
    """The person model, None in models of format 1; without textures in those of format 2, people in those before 6.

    Raises:
        ValueError: If shapes do not fit each other, or values are no numbers.
    """
    if "person.features" not in tensors:
        return None
    features, curves, heads = (tensors[f"person.{k}"].numpy() for k in PERSON)
    fitting = heads.ndim == 1 and heads.size > 0 and heads.dtype.kind == "i" and curves.shape == (*heads.shape, ranks)
    # Features are two equal blocks.
    if not fitting or features.shape[:1] != heads.shape or features.ndim != 2 or features.shape[1] % 2:
        raise ValueError(f"person has shapes {features.shape}, {curves.shape}, {heads.shape}")
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
    return PersonModel(features.astype(np.float64), curves.astype(np.float64), heads, textures, people)


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
    own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in make().state_dict().items()}
    if wrong := [k for k in wanted.keys() | own.keys() if k not in own or wanted.get(k) != own[k].shape]:
        raise ValueError(f"{part} has not the weights it describes: {min(wrong)[:60]} and {len(wrong) - 1} more")
    if bad := [k for k, v in own.items() if not v.isfinite().all()]:
        raise ValueError(f"{part} has weights that are no numbers: {bad[0][:60]}")
    network = make()
    network.load_state_dict(own)
    return network.eval().requires_grad_(False)
