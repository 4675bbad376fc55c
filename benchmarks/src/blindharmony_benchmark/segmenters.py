"""Who segments: the included network, taught by the target's manual labels, or an external program."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from blindharmony.commands import run_command
from blindharmony.errors import BlindHarmonyError, InputError, PreprocessingError, UsageError
from blindharmony.io.volume import read_volume
from blindharmony.preprocessing.registration import load_template
from blindharmony_benchmark.heads import network_labels
from blindharmony_benchmark.measures import WHITE
from blindharmony_benchmark.system import Picture, Say

_TIMEOUT_S = 4 * 3600


class Labels(Protocol):
    """Anything that segments."""

    def labels(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_], *, thorough: bool = True
    ) -> NDArray[np.uint8]:
        """Tissues of a prepared scan on the template grid, 3 white matter, same shape."""


@dataclass(frozen=True)
class ExternalSegmenter:
    """A program that takes a NIfTI file and writes labels on the same grid.

    Attributes:
        command: With ``{input}`` and ``{output}``; no shell is involved.
        white: Labels that are white matter.
        unit: Intensity of 1.0 in the flow's units: files are written in the target scanner's own.
    """

    command: str
    white: tuple[int, ...] = (WHITE,)
    unit: float = 1.0

    def labels(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_], *, thorough: bool = True
    ) -> NDArray[np.uint8]:
        """White matter as 3, anything else as 0.

        Raises:
            PreprocessingError: If the program fails or writes no labels of the scan's shape.
        """
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder, "scan.nii.gz"), Path(folder, "labels.nii.gz")
            values = np.where(mask, image * self.unit, 0).astype(np.float32)
            nib.save(nib.Nifti1Image(values, load_template().affine), given)
            run_command(
                self.command,
                {"input": given, "output": made},
                called="the segmenter",
                seconds=_TIMEOUT_S,
                remedy="check --segmenter",
            )
            try:
                found = np.rint(read_volume(made).data)
            except BlindHarmonyError as error:
                raise _failed(f"wrote no usable labels ({error.what})") from None
        if found.shape != image.shape:
            raise _failed(f"wrote labels of shape {found.shape}, not {image.shape}")
        return np.where(np.isin(found, self.white) & mask, WHITE, 0).astype(np.uint8)


class NetworkSegmenter:
    """The included tissue network, where no scan of the target is at hand to teach one.

    It was taught to see the same anatomy in any contrast: what scanners change, it forgives more than others do.
    """

    def labels(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_], *, thorough: bool = True
    ) -> NDArray[np.uint8]:
        """1 CSF, 2 grey, 3 white matter; 0 outside the mask."""
        return network_labels(image, mask)


def check_command(command: str) -> str:
    """The command, if it names input and output.

    Raises:
        InputError: If it does not.
    """
    if "{input}" not in command or "{output}" not in command:
        raise InputError("the segmenter lacks {input} or {output}", remedy="--segmenter 'PROGRAM {input} {output}'")
    return command


def _failed(what: str) -> PreprocessingError:
    return PreprocessingError(f"the segmenter {what}", remedy="check --segmenter")


def included_segmenter(
    training: Sequence[Picture], held_out: Sequence[Picture], folder: Path, minutes: float, seed: int, say: Say
) -> Labels:
    """The included network, taught by manual labels.

    Raises:
        UsageError: If MONAI is not installed.
    """
    try:
        module = import_module("blindharmony_benchmark.networks.segmenter")
    except ImportError as error:
        remedy = "pip install monai, or give --segmenter"
        raise UsageError(f"the included segmenter needs {error.name or 'more'}", remedy=remedy) from error
    found = module.Segmenter()
    found.fit(training, held_out, folder, minutes, seed, say)
    return found  # type: ignore[no-any-return]
