"""Brain masks that another program has made of the same scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blindharmony.errors import InputError, UsageError
from blindharmony.image.names import entities, mask_name


def find_mask(folder: Path, scan: Path) -> Path | None:
    """A scan's own brain mask in a folder of derivatives (fMRIPrep, sMRIPrep, ...), in the scan's own space.

    Looked for is ``sub-01[/ses-1]/anat/sub-01[_ses-1][...]_desc-brain_mask.nii[.gz]`` with the scan's entities and no
    ``space-``; a mask of the participant as a whole is taken if it has no entity that the scan has not. For a scan
    that has no BIDS name it is ``NAME_desc-brain_mask.nii.gz``. Whether it lies on the scan's grid is checked when it
    is used.

    Args:
        folder: The derivatives.
        scan: The scan.
    """
    own = {k: v for k, v in entities(scan).items() if k not in ("suffix", "desc")}
    if "sub" not in own:
        plain = folder / mask_name(scan)
        return plain if plain.exists() else None
    sub = f"sub-{own['sub']}"
    best: tuple[int, str] | None = None
    for below in (*([f"{sub}/ses-{own['ses']}/anat"] if "ses" in own else []), f"{sub}/anat"):
        for file in sorted((folder / below).glob(f"{sub}_*desc-brain_mask.nii*")):
            words = entities(file)
            rest = {k: v for k, v in words.items() if k not in ("suffix", "desc")}
            if words.get("desc") != "brain" or any(own.get(k) != v for k, v in rest.items()):
                continue
            # The more entities agree, the more surely it is this scan's.
            best = max(best or (0, ""), (len(rest), str(file)))
    return Path(best[1]) if best else None


def find_masks(scans: Sequence[Path], folder: Path | None, *, command: str | None = None) -> dict[Path, Path]:
    """The brain mask of every scan in a folder of derivatives, see :func:`find_mask`.

    Args:
        scans: Files.
        folder: Where their masks are; there are none if it is None.
        command: What finds the brain of those without.

    Raises:
        UsageError: If there is no such folder.
        InputError: If a scan has no mask there, and no ``command`` makes one: the included network would find its
            brain, which is not what was asked for.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", remedy="check --mask-dir")
    found = {scan: mask for scan in scans if (mask := find_mask(folder, scan))}
    without = [scan for scan in scans if scan not in found]
    if without and command is None:
        raise InputError(
            f"no brain mask for this scan in {folder}" + (f", and for {len(without) - 1} more" if without[1:] else ""),
            remedy="add it, or give --mask-command for scans without",
            path=without[0],
        )
    return found
