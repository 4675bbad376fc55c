"""MONAI: a dictionary transform, to stand after ``LoadImaged`` in a ``Compose``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blindharmony.api import harmonize
from blindharmony.errors import InputError
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.integrations.common import MissingLibraryError, as_image, checked_options
from blindharmony.models.target import Target

try:
    from monai.data import MetaTensor
    from monai.transforms import MapTransform
    from monai.utils import MetaKeys, SpaceKeys
except ImportError as error:
    raise MissingLibraryError("MONAI", extra="monai") from error


class BlindHarmonizeD(MapTransform):
    """Harmonize the scans of a data dictionary to a target scanner.

    Shape, affine, meta data and the record of earlier operations stay as they are; the intensities become those of the
    target scanner.

    Warning:
        A scan takes half a minute, not milliseconds. Put the transform before the random ones and keep what it makes,
        with ``PersistentDataset`` or ``CacheDataset``.

    Args:
        keys: Names of the scans, each a ``MetaTensor`` of shape ``(1, X, Y, Z)``.
        target: A model, its file, or the name of an included one.
        scanner: Model of the scanner that made the scans, or its file.
        mask_key: Name of the brain mask, same shape as the scan; found automatically if not given.
        verdict_postfix: If given, ``{key}_{postfix}`` gets level, headline and warnings of the result.
        allow_missing_keys: Whether a missing scan is passed over.
        options: The other options of :func:`~blindharmony.api.harmonize`, such as ``refine`` or ``device``.

    Example:
        >>> from monai.transforms import Compose, LoadImaged
        >>> load = LoadImaged(["image"], ensure_channel_first=True)
        >>> steps = Compose([load, BlindHarmonizeD(["image"], target="ds002748")])
        >>> steps({"image": "scan.nii.gz"})["image"].affine                       # doctest: +SKIP
    """

    def __init__(
        self,
        keys: Hashable | list[Hashable],
        target: str | PathLike[str] | Target = "ds002748",
        *,
        scanner: ScannerModel | str | PathLike[str] | None = None,
        mask_key: Hashable | None = None,
        verdict_postfix: str | None = None,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.target, self.mask_key, self.verdict_postfix = target, mask_key, verdict_postfix
        self.options = checked_options({"scanner": scanner, **options})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with its scans harmonized; ``data`` itself is left alone.

        Raises:
            InputError: If an image has no affine, or not one channel.
            BlindHarmonyError: If it cannot be harmonized.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            scan = as_image(_voxels(image), _affine(image, str(key)), str(key))
            mask = None if self.mask_key is None else _voxels(out[self.mask_key])[0] > 0
            result = harmonize(scan, self.target, mask=mask, **self.options)
            changed = torch.from_numpy(result.data[None]).to(image.device)
            out[key] = MetaTensor(changed, meta=image.meta, applied_operations=image.applied_operations)
            if self.verdict_postfix is not None:
                judged = result.verdict
                verdict = {"level": judged.level, "headline": judged.headline, "warnings": list(judged.warnings)}
                out[f"{key}_{self.verdict_postfix}"] = verdict
        return out


def _voxels(image: Any) -> NDArray[Any]:
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)


def _affine(image: Any, key: str) -> NDArray[np.float64]:
    """Voxel to world, RAS+.

    A scan without its place in space could be upside down, and nothing after would notice.
    """
    if not isinstance(image, MetaTensor):
        raise InputError(f"'{key}' is no MetaTensor", remedy="load it with LoadImaged, which keeps the affine")
    affine = np.asarray(image.affine.cpu().numpy(), np.float64)
    lps = image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if lps else affine
