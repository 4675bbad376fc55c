"""TorchIO: an intensity transform, to stand in a ``tio.Compose`` before the random ones."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch

from blindharmony.api import harmonize
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.integrations.common import MissingLibraryError, as_image, checked_options
from blindharmony.models.target import Target

try:
    from torchio import Subject
    from torchio.transforms.intensity_transform import IntensityTransform
except ImportError as error:
    raise MissingLibraryError("TorchIO", extra="torchio") from error


class BlindHarmonize(IntensityTransform):
    """Harmonize the intensity images of a subject to a target scanner; label maps stay as they are.

    Warning:
        A scan takes about a quarter of a minute. Apply it once and save the subjects, rather than in every epoch.

    Args:
        target: A model, its file, or the name of an included one.
        scanner: Model of the scanner that made the scans, or its file.
        mask_name: Name of the label map with the brain; found automatically if not given.
        options: The other options of :func:`~blindharmony.api.harmonize`, such as ``refine`` or ``device``.
        kwargs: Options of every TorchIO transform: ``p``, ``include``, ``exclude``, ``copy``, ``keep``.

    Example:
        >>> import torchio as tio
        >>> steps = tio.Compose([BlindHarmonize("ds002748"), tio.RandomNoise()])
        >>> steps(tio.Subject(t1=tio.ScalarImage("scan.nii.gz")))                 # doctest: +SKIP
    """

    def __init__(
        self,
        target: str | PathLike[str] | Target = "ds002748",
        scanner: ScannerModel | str | PathLike[str] | None = None,
        mask_name: str | None = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target, self.scanner, self.mask_name = target, scanner, mask_name
        self.options = checked_options(options or {})
        self.args_names = ["target", "scanner", "mask_name", "options"]

    def apply_transform(self, subject: Subject) -> Subject:
        """Harmonize every intensity image.

        Raises:
            BlindHarmonyError: If one cannot be harmonized.
        """
        mask = None if self.mask_name is None else subject[self.mask_name].data[0].numpy() > 0
        for name, image in self.get_images_dict(subject).items():
            scan = as_image(image.data.numpy(), image.affine, name)
            result = harmonize(scan, self.target, mask=mask, scanner=self.scanner, **self.options)
            image.set_data(torch.from_numpy(result.data[None]))
        return subject
