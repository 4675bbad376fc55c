"""Names that browsers send: shown as they are, used as file names only after washing."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from blindharmony.errors import InputError, one_line
from blindharmony.image import result_names, split_name

EXTENSIONS = (".nii", ".nii.gz", ".mgz")
_LONGEST = 100
_SHOWN = 160
_KEPT = "-_.+"
# Windows takes these for devices, whatever follows the first dot.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def shown_name(name: str) -> str:
    r"""A name to show: its last part, one line, not endless.

    Example:
        >>> shown_name("C:\\scans\\Anna B.nii"), shown_name("../../etc/passwd")
        ('Anna B.nii', 'passwd')
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    line = one_line(last.encode("utf-8", "replace").decode())
    return (line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…") or "scan"


def safe_leaf(name: str) -> str:
    r"""A file name that is safe on any system and in any folder, with the scan's own extension in small letters.

    Raises:
        InputError: If the extension is not that of a scan.

    Example:
        >>> safe_leaf("sub-01_T1w.nii.gz"), safe_leaf("../../.ssh/Anna B?.NII"), safe_leaf("con.mgz")
        ('sub-01_T1w.nii.gz', 'Anna-B.nii', 'scan-con.mgz')
    """
    last = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode()).replace("\\", "/").rpartition("/")[2]
    # With a letter before it, even a name that is nothing but an ending has one.
    stem, extension = split_name(f"x{last}")
    if extension.lower() not in EXTENSIONS:
        raise InputError(
            f"its name ends in {one_line(extension)[:20]}" if extension else "its name has no ending",
            remedy=f"give a scan that ends in {', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}; DICOM folders have to "
            "be converted first, for example with dcm2niix",
        )
    washed = "".join(c if c.isalnum() or c in _KEPT else " " for c in stem[1:])
    washed = "-".join(washed.split()).encode()[:_LONGEST].decode(errors="ignore").strip("-_.+")
    if not washed or washed.partition(".")[0].lower() in _DEVICES:
        washed = f"scan-{washed}".rstrip("-")
    return washed + extension.lower()


def told_apart(leaves: Iterable[str]) -> tuple[str, ...]:
    """The same names, changed where results of two of them would have one name.

    Example:
        >>> told_apart(["a.nii", "b.nii", "a.mgz"])
        ('a.nii', 'b.nii', 'a-2.mgz')
    """
    found: list[str] = []
    taken: set[str] = set()
    for leaf in leaves:
        stem, extension = split_name(leaf)
        free, number = leaf, 1
        while not _results(free).isdisjoint(taken):
            number += 1
            free = f"{stem}-{number}{extension}"
        taken |= _results(free)
        found.append(free)
    return tuple(found)


def _results(leaf: str) -> set[str]:
    # Some disks do not tell capital letters from small ones.
    return {name.casefold() for name in result_names(leaf).values()}
