"""``dataset_description.json`` and ``.bidsignore`` of the results."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from blindharmony.errors import InputError, OutputError, UsageError
from blindharmony.image import write_sidecar, write_text
from blindharmony.study.ledger import read_json
from blindharmony.version import VERSION

_BIDS = "1.10.0"
_NAME = "blindharmony"
_IGNORED = ("*.html", "*.tsv", ".blindharmony/")
_FILE = "dataset_description.json"


def check_input(root: Path) -> dict[str, Any]:
    """A data set's description.

    Raises:
        InputError: If it has none with a name and a BIDS version.
    """
    found = read_json(root / _FILE)
    if found is None or not all(isinstance(found.get(k), str) for k in ("Name", "BIDSVersion")):
        raise InputError(
            f"no {_FILE} with Name and BIDSVersion",
            remedy="write one, or pass --skip-bids-validation",
            path=root,
        )
    return found


def check_output(root: Path, out: Path) -> None:
    """Refuse folders that belong to others.

    Raises:
        UsageError: If results would lie among the scans.
        OutputError: If the folder holds another program's results.
    """
    here, there = out.resolve(), root.resolve()
    if here == there or there.is_relative_to(here):
        raise UsageError(
            "the output folder holds the data set", remedy="choose another, such as derivatives/blindharmony"
        )
    below = here.relative_to(there).parts if here.is_relative_to(there) else ("derivatives",)
    if below[0] not in ("derivatives", "sourcedata", "code"):
        raise UsageError("the output folder lies among the scans", remedy="choose one below derivatives/")
    if (out / _FILE).exists():
        makers = (read_json(out / _FILE) or {}).get("GeneratedBy")
        names = [m.get("Name") for m in makers if isinstance(m, dict)] if isinstance(makers, list) else []
        if _NAME not in names:
            raise OutputError("holds another program's results", remedy="choose an empty folder", path=out)
    elif out.is_dir() and any(out.glob("sub-*")):
        raise OutputError("holds participants of something else", remedy="choose an empty folder", path=out)


def describe(root: Path, out: Path, target: str, suffix: str = "T1w") -> None:
    """Write both files; equal input gives equal bytes.

    Args:
        root: The data set.
        out: The output folder.
        target: Name of the target.
        suffix: BIDS suffix of the contrast.

    Raises:
        OutputError: If they cannot be written.
    """
    found = read_json(root / _FILE) or {}
    # Relative, so that data set and results can be moved together.
    link = os.path.relpath(root.resolve(), out.resolve())
    doi = found.get("DatasetDOI")
    source = {"URL": f"https://doi.org/{_bare(doi)}", "DOI": doi} if isinstance(doi, str) and doi else {"URL": link}
    content = {
        "Name": f"{found.get('Name', root.resolve().name)}: {suffix} scans harmonized to '{target}'",
        "BIDSVersion": _BIDS,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _NAME, "Version": VERSION, **_home()}],
        "SourceDatasets": [source],
        "DatasetLinks": {"raw": link},
    }
    write_sidecar(out / _FILE, content, overwrite=True)
    write_text(out / ".bidsignore", "\n".join(_IGNORED) + "\n", overwrite=True)


def _bare(doi: str) -> str:
    return doi.removeprefix("https://doi.org/").removeprefix("doi:")


def _home() -> dict[str, str]:
    """Where the code is, if the package says so."""
    try:
        links = metadata(_NAME).get_all("Project-URL") or []
    except PackageNotFoundError:
        return {}
    places = dict(str(link).split(", ", 1) for link in links if ", " in str(link))
    found = next((places[k] for k in ("Source", "Repository", "Homepage") if k in places), "")
    return {"CodeURL": found} if found else {}
