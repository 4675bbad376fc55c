"""Brain masks that another program has made of the same scans."""

from __future__ import annotations

from pathlib import Path

from blindharmony.image import entities
from blindharmony.study.layout import Scan


def find_mask(folder: Path, scan: Scan) -> Path | None:
    """A scan's own brain mask in a derivatives folder (fMRIPrep, sMRIPrep, ...), in the scan's own space.

    Looked for is ``sub-01[_ses-1][...]_desc-brain_mask.nii[.gz]`` with the scan's entities and no ``space-``; a mask
    of the participant as a whole is taken if it has no entity that the scan has not. Whether it lies on the scan's
    grid is checked when it is used.

    Args:
        folder: The derivatives.
        scan: The scan.
    """
    own = {k: v for k, v in scan.words.items() if k not in ("suffix", "desc")}
    sub = f"sub-{scan.words['sub']}"
    best: tuple[int, str] | None = None
    for below in (scan.folder, f"{sub}/anat"):
        for file in sorted((folder / below).glob(f"{sub}_*desc-brain_mask.nii*")):
            words = entities(file)
            rest = {k: v for k, v in words.items() if k not in ("suffix", "desc")}
            if words.get("desc") != "brain" or any(own.get(k) != v for k, v in rest.items()):
                continue
            # The more entities agree, the more surely it is this scan's.
            best = max(best or (0, ""), (len(rest), str(file)))
    return Path(best[1]) if best else None
