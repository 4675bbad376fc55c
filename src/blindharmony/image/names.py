"""File names in the BIDS manner, for any scan a user may have."""

from __future__ import annotations

import re
from pathlib import PurePath

IMAGE_EXTENSIONS = (".nii", ".nii.gz", ".mgz", ".mgh", ".img", ".hdr")
_DOUBLE = (".nii.gz", ".img.gz", ".hdr.gz")
# Separators of any system, what Windows forbids, and control characters.
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]+')
# Bytes; file systems take 255. What a result is called ends its name: cut is what comes before.
_LONGEST, _LONGEST_SOURCE = 200, 140


def split_name(path: str | PurePath) -> tuple[str, str]:
    """Split a file name into stem and extension, ``.nii.gz`` counting as one.

    Example:
        >>> split_name("data/sub-01_T1w.nii.gz")
        ('sub-01_T1w', '.nii.gz')
    """
    name = PurePath(path).name
    for extension in _DOUBLE:
        if name.lower().endswith(extension):
            return name[: -len(extension)], name[-len(extension) :]
    extension = PurePath(name).suffix
    return name.removesuffix(extension), extension


def entities(path: str | PurePath) -> dict[str, str]:
    """Return the BIDS entities of a name, with its last word as ``suffix``; empty for other names.

    Example:
        >>> entities("sub-01_ses-2_T1w.nii.gz")
        {'sub': '01', 'ses': '2', 'suffix': 'T1w'}
        >>> entities("scan.nii")
        {}
    """
    *pairs, suffix = split_name(path)[0].split("_")
    if not pairs or not pairs[0].startswith("sub-") or "-" in suffix:
        return {}
    found = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return {**found, "suffix": suffix}


def output_name(path: str | PurePath, desc: str, *, suffix_ext: str | None = None) -> str:
    """Name a result after its source: ``desc-<desc>`` goes last, before a BIDS suffix.

    Only the file's name counts, never its folders, and no result can lie outside the output folder.

    Args:
        path: The source scan.
        desc: What the result is, letters and digits only.
        suffix_ext: The result's extension, ``.nii.gz`` when not given.

    Raises:
        ValueError: If ``desc`` is not plain letters and digits.

    Example:
        >>> output_name("in/sub-01_desc-preproc_T1w.nii.gz", "harmonized")
        'sub-01_desc-harmonized_T1w.nii.gz'
        >>> output_name("scan.mgz", "harmonized", suffix_ext=".json")
        'scan_desc-harmonized.json'
    """
    return _named(path, desc, suffix=None) + (".nii.gz" if suffix_ext is None else suffix_ext)


def mask_name(path: str | PurePath) -> str:
    """Name a brain mask after its source scan.

    Example:
        >>> mask_name("sub-01_T1w.nii.gz"), mask_name("scan.nii")
        ('sub-01_desc-brain_mask.nii.gz', 'scan_desc-brain_mask.nii.gz')
    """
    return _named(path, "brain", suffix="mask") + ".nii.gz"


def sidecar_name(path: str | PurePath) -> str:
    """Name the JSON file beside an image.

    Example:
        >>> sidecar_name("sub-01_desc-harmonized_T1w.nii.gz")
        'sub-01_desc-harmonized_T1w.json'
    """
    return _safe(split_name(path)[0]) + ".json"


def report_name(path: str | PurePath) -> str:
    """Name the report of a scan.

    Example:
        >>> report_name("sub-01_T1w.nii.gz")
        'sub-01_T1w.html'
    """
    return _safe(split_name(path)[0]) + ".html"


def viewer_name(path: str | PurePath) -> str:
    """Name the page with both volumes of a harmonized scan.

    Example:
        >>> viewer_name("sub-01_desc-harmonized_T1w.nii.gz")
        'sub-01_desc-harmonized_T1w.viewer.html'
    """
    return _safe(split_name(path)[0]) + ".viewer.html"


def result_names(path: str | PurePath) -> dict[str, str]:
    """Name everything that may be written for a scan; the sidecar, which makes the others count, last.

    Example:
        >>> list(result_names("scan.nii"))
        ['scan', 'mask', 'error', 'report', 'viewer', 'sidecar']
        >>> len(result_names("x" * 250 + ".nii")["viewer"]) < 256
        True
    """
    scan = output_name(path, "harmonized")
    return {
        "scan": scan,
        "mask": mask_name(path),
        "error": output_name(path, "harmonizedSD"),
        "report": report_name(scan),
        "viewer": viewer_name(scan),
        "sidecar": sidecar_name(scan),
    }


def _named(path: str | PurePath, desc: str, *, suffix: str | None) -> str:
    if not (desc.isascii() and desc.isalnum()):
        raise ValueError(f"desc must be letters and digits, not {desc!r}")
    parts = split_name(path)[0].split("_")
    # Only in a BIDS name is the last word a suffix; a plain name is kept whole.
    own = [_safe(parts.pop())] if entities(path) else []
    kept = _safe("_".join(part for part in parts if not part.startswith("desc-")), _LONGEST_SOURCE)
    return "_".join([kept, f"desc-{desc}", *([suffix] if suffix else own)])


def _safe(stem: str, longest: int = _LONGEST) -> str:
    # Names that are no valid text (old disks) get "?" here, then "-" like other unsafe characters.
    text = _UNSAFE.sub("-", stem.encode("utf-8", "replace").decode())
    text = text.encode()[:longest].decode(errors="ignore")
    return text.strip(" .") or "scan"
