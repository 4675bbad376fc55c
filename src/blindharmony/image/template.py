"""What a result must take over from its source's header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import nibabel as nib

Kind: TypeAlias = Literal["nifti1", "nifti2", "mgh", "array"]


@dataclass(frozen=True, eq=False)
class Template:
    """The source's header, kept to write results with the same geometry.

    Attributes:
        kind: File format the header comes from; ``array`` when there was none.
        shape: Shape in the file, with any trailing axes of length 1.
        header: The header, a copy; only its geometry is ever written.
    """

    kind: Kind
    shape: tuple[int, ...]
    header: Any  # nibabel's headers share no typed interface

    @classmethod
    def of(cls, image: nib.spatialimages.SpatialImage) -> Template:
        """Take the template from an image.

        Example:
            >>> import numpy as np
            >>> Template.of(nib.Nifti1Image(np.zeros((4, 4, 4, 1), np.int16), np.eye(4))).shape
            (4, 4, 4, 1)
        """
        return cls(_kind(image), tuple(int(n) for n in image.shape), image.header.copy())


def _kind(image: nib.spatialimages.SpatialImage) -> Kind:
    # A NIfTI-2 header is a subclass of a NIfTI-1 header, so it is asked first.
    if isinstance(image.header, nib.nifti2.Nifti2Header):
        return "nifti2"
    if isinstance(image.header, nib.nifti1.Nifti1Header):
        return "nifti1"
    if isinstance(image.header, nib.freesurfer.mghformat.MGHHeader):
        return "mgh"
    return "array"
