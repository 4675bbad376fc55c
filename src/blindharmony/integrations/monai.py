"""MONAI: transforms of an image or a data dictionary, to stand after ``LoadImage`` or ``LoadImaged``."""

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
from blindharmony.quality.verdict import Verdict

try:
    from monai.data import MetaTensor
    from monai.transforms import InvertibleTransform, MapTransform
    from monai.utils import MetaKeys, SpaceKeys
except ImportError as error:
    raise MissingLibraryError("MONAI", extra="monai") from error


class BlindHarmonize(InvertibleTransform):
    """Harmonize a scan to a target scanner.

    Shape, affine and meta data stay as they are; the intensities become those of the target scanner, and the record of
    operations says so.

    Warning:
        A scan takes a quarter of a minute, not milliseconds. Put the transform before the random ones and keep what it
        makes, with ``PersistentDataset`` or ``CacheDataset``.

    Args:
        target: A model, its file, or the name of an included one.
        scanner: Model of the scanner that made the scans, or its file.
        restore: What :meth:`inverse` does. False: it only takes the transform off the record, so that a segmentation
            can go back through the transforms around this one. True: it gives the scan's own intensities back, for
            which the record keeps the scan.
        options: The other options of :func:`~blindharmony.api.harmonize`, such as ``refine`` or ``device``.

    Attributes:
        verdict: On the last result.

    Example:
        >>> from monai.transforms import Compose, LoadImage
        >>> steps = Compose([LoadImage(ensure_channel_first=True), BlindHarmonize("ds002748")])
        >>> steps("scan.nii.gz").affine                                           # doctest: +SKIP
    """

    def __init__(
        self,
        target: str | PathLike[str] | Target = "ds002748",
        *,
        scanner: ScannerModel | str | PathLike[str] | None = None,
        restore: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.target, self.restore = target, restore
        self.options = checked_options({"scanner": scanner, **options})
        self.verdict: Verdict | None = None

    def __call__(self, img: Any, mask: Any = None, *, name: str = "img") -> Any:
        """The scan harmonized; ``img`` itself is left alone.

        Args:
            img: A ``MetaTensor`` of shape ``(1, X, Y, Z)``.
            mask: Brain mask, same shape; found automatically if not given.
            name: What messages call the scan.

        Raises:
            InputError: If the image has no affine, or not one channel.
            BlindHarmonyError: If it cannot be harmonized.
        """
        scan = as_image(_voxels(img), _affine(img, name), name)
        brain = None if mask is None else _voxels(mask)[0] > 0
        result = harmonize(scan, self.target, mask=brain, **self.options)
        self.verdict = result.verdict
        changed = torch.from_numpy(result.data[None]).to(img.device)
        out = MetaTensor(changed, meta=img.meta, applied_operations=img.applied_operations)
        kept = {"scan": torch.as_tensor(img).detach().clone()} if self.restore else {}
        self.push_transform(out, extra_info=kept)
        return out

    def inverse(self, data: Any) -> Any:
        """The image without this transform on its record, and with the scan's own intensities if they were kept."""
        kept = self.pop_transform(data)["extra_info"]
        if "scan" not in kept:
            return data
        scan = torch.as_tensor(kept["scan"]).to(data.device)
        return MetaTensor(scan, meta=data.meta, applied_operations=data.applied_operations)


class BlindHarmonizeD(MapTransform, InvertibleTransform):
    """Harmonize the scans of a data dictionary to a target scanner, as :class:`BlindHarmonize` does.

    Args:
        keys: Names of the scans, each a ``MetaTensor`` of shape ``(1, X, Y, Z)``.
        target: A model, its file, or the name of an included one.
        scanner: Model of the scanner that made the scans, or its file.
        mask_key: Name of the brain mask, same shape as the scan; found automatically if not given.
        verdict_postfix: If given, ``{key}_{postfix}`` gets level, headline and warnings of the result.
        restore: Whether :meth:`inverse` gives the scans' own intensities back.
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
        restore: bool = False,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key, self.verdict_postfix = mask_key, verdict_postfix
        self.harmonizer = BlindHarmonize(target, scanner=scanner, restore=restore, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with its scans harmonized; ``data`` itself is left alone.

        Raises:
            InputError: If an image has no affine, or not one channel.
            BlindHarmonyError: If it cannot be harmonized.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            mask = None if self.mask_key is None else out[self.mask_key]
            out[key] = self.harmonizer(out[key], mask, name=str(key))
            if self.verdict_postfix is not None and (judged := self.harmonizer.verdict):
                verdict = {"level": judged.level, "headline": judged.headline, "warnings": list(judged.warnings)}
                out[f"{key}_{self.verdict_postfix}"] = verdict
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with each scan as :meth:`BlindHarmonize.inverse` gives it back."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.harmonizer.inverse(out[key])
        return out


BlindHarmonized = BlindHarmonizeDict = BlindHarmonizeD


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
