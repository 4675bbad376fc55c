"""What makes the output folder of a study a BIDS derivative that others can use.

Checks of data set and output folder before any work, the official validator where it is installed, and what lies at the
folder's top: ``dataset_description.json`` and ``.bidsignore``.

Source:
    BIDS specification 1.10, "BIDS Derivatives" and "Dataset description".
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from blindharmony.commands import run_command
from blindharmony.errors import InputError, OutputError, PreprocessingError, UsageError
from blindharmony.study.ledger import SCANNERS, read_json, write_if_new
from blindharmony.version import VERSION

_BIDS = "1.10.0"
_NAME = "blindharmony"
# A folder is named without its slash: the validator does not match "scanners/".
_IGNORED = ("*.html", "*.tsv", SCANNERS, ".blindharmony/")
_FILE = "dataset_description.json"


def check_input(root: Path) -> dict[str, Any]:
    """A data set's description.

    Raises:
        InputError: If it has none with a name and a BIDS version.
    """
    description = read_json(root / _FILE)
    if description is None or not all(isinstance(description.get(k), str) for k in ("Name", "BIDSVersion")):
        raise InputError(
            f"no {_FILE} with Name and BIDSVersion",
            remedy="write one, or pass --skip-bids-validation",
            path=root,
        )
    return description


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
    description = read_json(root / _FILE) or {}
    # Relative, so that data set and results can be moved together.
    link = os.path.relpath(root.resolve(), out.resolve())
    doi = description.get("DatasetDOI")
    source = {"URL": f"https://doi.org/{_bare(doi)}", "DOI": doi} if isinstance(doi, str) and doi else {"URL": link}
    content = {
        "Name": f"{description.get('Name', root.resolve().name)}: {suffix} scans harmonized to '{target}'",
        "BIDSVersion": _BIDS,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _NAME, "Version": VERSION, **_home()}],
        "SourceDatasets": [source],
        "DatasetLinks": {"raw": link},
    }
    write_if_new(out / _FILE, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    write_if_new(out / ".bidsignore", "\n".join(_IGNORED) + "\n")


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


_COMMAND, _VALIDATOR_S = "bids-validator-deno", 3600


def check_with_validator(root: Path) -> None:
    """Stop at a data set that the official validator refuses; without a validator nothing is checked.

    Raises:
        InputError: With the first errors.
    """
    errors = validation_errors(root)
    if errors:
        first = "; ".join(sorted({f"{e.get('code')} in {e.get('location')}" for e in errors})[:3])
        raise InputError(
            f"the BIDS validator finds {len(errors)} errors, such as {first}",
            remedy="correct them, or pass --skip-bids-validation",
            path=root,
        )


def validation_errors(root: Path) -> list[dict[str, Any]] | None:
    """The validator's errors, None if there is no validator or it cannot run."""
    command = shutil.which(_COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(_COMMAND)
    if command is None:
        return None
    try:
        words, remedy = [command, str(root), "--json"], "pass --skip-bids-validation"
        ran = run_command(words, called="the BIDS validator", seconds=_VALIDATOR_S, remedy=remedy, check=False)
        issues = json.loads(ran.stdout)["issues"]["issues"]
    except (PreprocessingError, ValueError, KeyError, TypeError):
        return None
    return [issue for issue in issues if issue.get("severity") == "error"]
