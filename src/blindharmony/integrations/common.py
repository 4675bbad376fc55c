"""What all adapters need: an image of one channel with its affine, options checked early, a library that is missing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from blindharmony.api import harmonize
from blindharmony.errors import BlindHarmonyError, InputError, UsageError
from blindharmony.settings import HarmonizeSettings


class MissingLibraryError(BlindHarmonyError, ImportError):  # type: ignore[misc]  # both have a path, None here
    """A library of others that this module stands on is not installed.

    Example:
        >>> str(MissingLibraryError("MONAI", extra="monai"))
        "MONAI is not installed; run 'pip install blindharmony[monai]'"
    """

    def __init__(self, library: str, *, extra: str) -> None:
        super().__init__(f"{library} is not installed", remedy=f"run 'pip install blindharmony[{extra}]'")


# A pipeline gives the first five itself, or has none of them; the last stands for the fields of the settings.
_NO_OPTIONS = {"scan", "target", "mask", "lesion_mask", "progress", "changes"}


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of :func:`~blindharmony.api.harmonize`, checked before the first scan is read.

    They are its keyword arguments, the fields of :class:`~blindharmony.settings.HarmonizeSettings` among them.

    Raises:
        UsageError: If one does not exist, or a setting makes no sense.

    Example:
        >>> checked_options({"refine": False, "curve": {"degree": 1}})
        {'refine': False, 'curve': {'degree': 1}}
        >>> checked_options({"refined": False})
        Traceback (most recent call last):
        blindharmony.errors.UsageError: there is no option 'refined'; ...
    """
    arguments = [name for name in inspect.signature(harmonize).parameters if name not in _NO_OPTIONS]
    names = list(dict.fromkeys((*arguments, *HarmonizeSettings.model_fields)))
    for name in options:
        if name not in names:
            raise UsageError(f"there is no option '{name}'", remedy=f"choose from {', '.join(names)}")
    HarmonizeSettings().updated(**{name: value for name, value in options.items() if name not in arguments})
    return dict(options)


def as_image(channels: NDArray[Any], affine: NDArray[np.float64], name: str) -> nib.Nifti1Image:
    """Channel-first voxels as a nibabel image.

    Args:
        channels: Shape ``(1, X, Y, Z)``.
        affine: Voxel to world (mm), RAS+.
        name: What the pipeline calls the image, for the message.

    Raises:
        InputError: If there is more than one channel, or the image is no volume.

    Example:
        >>> as_image(np.zeros((1, 4, 5, 6)), np.eye(4), "image").shape
        (4, 5, 6)
    """
    if channels.ndim != 4 or channels.shape[0] != 1:
        raise InputError(
            f"'{name}' has shape {tuple(channels.shape)}", remedy="give one channel and three axes, (1, X, Y, Z)"
        )
    return nib.Nifti1Image(np.asarray(channels[0], np.float32), np.asarray(affine, np.float64))
