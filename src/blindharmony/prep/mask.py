"""Which voxels are brain: a mask that is given, a scan already stripped, a network, or another program."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.errors import InputError, PreprocessingError
from blindharmony.image import read_volume
from blindharmony.image.volume import Source
from blindharmony.prep.extract import extract_brain
from blindharmony.prep.step import Params, Scan

# A brain with its CSF has 900 to 2000 ml; the smallest whole head on record here has 4000.
_STRIPPED_ML = (300.0, 2300.0)
_COMMAND_TIMEOUT_S = 1800


@dataclass(frozen=True, eq=False)
class BrainMask:
    """Attach the brain mask; intensities are left alone.

    Attributes:
        given: A mask on the scan's own (RAS+) grid, used as it is.
        command: A program to call instead of the included network, with ``{input}`` and ``{output}`` in it,
            e.g. ``"hd-bet -i {input} -o {output}"``.
        device: Where the network runs.
    """

    given: NDArray[np.bool_] | None = None
    command: str | None = None
    device: str = "cpu"
    name: str = "brain-mask"

    def params(self, scan: Scan) -> Params:
        """The mask and where it came from: ``given``, ``stripped``, ``command`` or ``network``.

        Raises:
            InputError: If the given mask does not fit the scan.
            PreprocessingError: If no plausible brain is found.
        """
        if self.given is not None:
            return {"mask": _fitting(self.given, scan), "source": "given"}
        foreground = stripped_foreground(scan)
        if foreground is not None:
            return {"mask": foreground, "source": "stripped"}
        if self.command is not None:
            return {"mask": _from_command(self.command, scan), "source": "command"}
        return {"mask": extract_brain(scan.data, scan.spacing, device=self.device), "source": "network"}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """The same scan, with its mask."""
        return replace(scan, mask=params["mask"])

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """The same scan, with the mask it had before."""
        return replace(changed, mask=before.mask)


def stripped_foreground(scan: Scan) -> NDArray[np.bool_] | None:
    """The brain of a scan whose skull is already removed, or None for a whole head.

    Stripped means: the background has one exact value, and what is left is the size of a brain, not a head.

    Example:
        >>> ball = (np.indices((80, 80, 80)) - 40).astype(float)
        >>> head = ((ball**2).sum(0) < 36**2).astype(np.float32)   # 195 ml at 1 mm
        >>> stripped_foreground(Scan(head, np.diag([2.0, 2, 2, 1]))).sum() == head.sum()   # 1563 ml at 2 mm
        np.True_
        >>> stripped_foreground(Scan(head, np.diag([3.0, 3, 3, 1]))) is None               # 5275 ml
        True
    """
    background = scan.data[0, 0, 0]
    foreground = scan.data != background
    millilitres = foreground.sum() * float(np.prod(scan.spacing)) / 1000
    if not _STRIPPED_ML[0] <= millilitres <= _STRIPPED_ML[1]:
        return None
    labels, count = ndimage.label(foreground)
    if count > 1:
        foreground = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return np.asarray(foreground)


def read_mask(mask: Source, affine: NDArray[np.float64] | None = None) -> Scan:
    """A mask (file, image or array) as a scan, everything above zero inside; see :class:`BrainMask` for the checks.

    Args:
        mask: The mask.
        affine: Of an array, which has no place of its own.

    Raises:
        InputError: If it cannot be read, or everything or nothing is inside.
    """
    try:
        volume = (
            read_volume(mask.astype(np.float32), affine=affine) if isinstance(mask, np.ndarray) else read_volume(mask)
        )
    except InputError as error:
        if error.path is not None:
            raise
        # Without a name of its own the trouble would seem to be the scan's.
        raise InputError(f"the mask cannot be used: {error.what}", remedy="give another mask") from error
    return Scan(volume.data, volume.affine, volume.data > 0)


def check_grid(mask: Scan, scan: Scan) -> None:
    """Check that a mask lies on the scan's own grid: same voxels, and corners less than half a voxel apart.

    Raises:
        InputError: If it does not.
    """
    _check_shape(mask.data.shape, scan)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(scan.data.shape) - 1)
    apart = corners @ (mask.affine - scan.affine)[:3, :3].T + (mask.affine - scan.affine)[:3, 3]
    worst = float(np.linalg.norm(apart, axis=1).max())
    if worst > min(scan.spacing) / 2:
        raise InputError(
            f"the mask lies elsewhere than the scan (by up to {worst:.1f} mm)",
            remedy="give a mask on the scan's own grid, with the scan's own header",
        )


def _check_shape(shape: tuple[int, ...], scan: Scan) -> None:
    if shape != scan.data.shape:
        raise InputError(
            f"the mask has {shape} voxels, the scan {scan.data.shape}",
            remedy="give a mask on the scan's own grid",
        )


def _fitting(mask: NDArray[np.bool_], scan: Scan) -> NDArray[np.bool_]:
    _check_shape(mask.shape, scan)
    if not (mask & (scan.data != scan.data[0, 0, 0])).any():
        raise InputError("the mask and the image do not overlap", remedy="check that they belong together")
    return mask


def _from_command(command: str, scan: Scan) -> NDArray[np.bool_]:
    with _temporary() as folder:
        head, brain = Path(folder, "head.nii.gz"), Path(folder, "brain.nii.gz")
        nifti: Any = nib.Nifti1Image
        nib.save(nifti(scan.data, scan.affine), head)
        _run(command, head, brain)
        try:
            mask = read_mask(brain)
            check_grid(mask, scan)
            return _fitting(mask.inside(), scan)
        except InputError as error:
            raise PreprocessingError(
                f"the mask command wrote no usable mask ({error.what})", remedy="check --mask-command"
            ) from None


def _temporary() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError:  # a container may be read-only but for the output
        raise PreprocessingError("no folder for temporary files can be written", remedy="set TMPDIR") from None


def _run(command: str, head: Path, brain: Path) -> None:
    remedy = "check --mask-command"
    try:
        # Split first, fill in afterwards: a path with a space stays one argument, and no shell is involved.
        words = [w.replace("{input}", str(head)).replace("{output}", str(brain)) for w in shlex.split(command)]
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        raise PreprocessingError(f"the mask command did not run ({error})", remedy=remedy) from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise PreprocessingError(f"the mask command failed with code {done.returncode} ({last[0]})", remedy=remedy)
    if not brain.exists():
        raise PreprocessingError("the mask command wrote no mask to {output}", remedy=remedy)
