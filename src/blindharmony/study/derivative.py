"""What makes the output folder of a study a BIDS derivative that others can use.

Checks of data set and output folder before any work, the official validator where it is installed, and what lies at the
folder's top: ``dataset_description.json``, ``README.md``, ``LICENSE`` and ``.bidsignore``.

Source:
    BIDS specification 1.10, "BIDS Derivatives" and "Dataset description".
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from blindharmony.commands import run_command
from blindharmony.errors import InputError, OutputError, PreprocessingError, UsageError
from blindharmony.files import bytes_there, read_text, write_text
from blindharmony.study.ledger import SCANNERS, read_json, write_if_new
from blindharmony.version import VERSION

_BIDS = "1.10.1"  # with a folder for logs
_NAME = "blindharmony"
# What BIDS has no name for: pages, fitted scanners, records. A folder is named without its slash: the validator does
# not match "scanners/".
_IGNORED = ("*.html", SCANNERS, ".blindharmony/")
_FILE = "dataset_description.json"
#: What lies at the top of a derivative, beside tables and page.
TOP_FILES = (_FILE, ".bidsignore", "README.md", "LICENSE")


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
    """Write what lies at the top: description, README, what the validator passes over, and the source's terms.

    Equal input gives equal bytes.

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
    made_by = {"Name": _NAME, "Version": VERSION, **_home(), **_container()}
    content = {
        "Name": f"{description.get('Name', root.resolve().name)}: {suffix} scans harmonized to '{target}'",
        "BIDSVersion": _BIDS,
        "DatasetType": "derivative",
        "GeneratedBy": [made_by],
        "SourceDatasets": [source],
        "DatasetLinks": {"raw": link},
        # The scans stay the work of those who made them, under their terms.
        **{key: description[key] for key, right in _TAKEN_OVER.items() if right(description.get(key))},
    }
    write_if_new(out / _FILE, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    write_if_new(out / ".bidsignore", "\n".join(_IGNORED) + "\n")
    readme = _README.format(name=content["Name"], target=target, suffix=suffix, version=VERSION)
    if _ours(out / "README.md"):
        write_if_new(out / "README.md", readme)
    if (root / "LICENSE").is_file() and not (out / "LICENSE").exists():
        with suppress(InputError):  # terms that cannot be read stop no harmonization
            write_text(out / "LICENSE", read_text(root / "LICENSE", other_letters=True))


_MARK = "<!-- written by blindharmony; remove this line to keep changes of your own -->"
_README = (
    _MARK
    + """
# {name}

Made by blindharmony {version}: every {suffix} scan as the scanner of '{target}' would have shown it. Nothing else was
changed: no voxel was moved. For research, not for diagnosis.

- `*_desc-harmonized_{suffix}.nii.gz`: the harmonized scan, on the grid of its source; `.json`: how it was made, its
  verdict and warnings; `.html`: the report, for a browser.
- `*_desc-brain_mask.nii.gz`: the brain that was harmonized.
- `scanners/`: the model of each scanner that made several scans; sidecars name it.
- `cohort.html`, `logs/cohort.tsv`: all scans at a glance (`blindharmony bids DATA_SET THIS_FOLDER group`);
  `logs/failures.tsv`: scans without a result. `logs/cohort.json` and `logs/failures.json` say what the columns mean.
- `.blindharmony/`: records of the runs. With them the same command goes on where it ended, and `blindharmony verify`
  finds files that were changed since.

The terms of the source data set hold for these scans too.
"""
)


def _ours(readme: Path) -> bool:
    """Whether a README is not there yet, or is as a run has written it.

    Raises:
        OutputError: If the disk does not give it: it may be somebody's own.
    """
    try:
        content = bytes_there(readme)
        return content.startswith(_MARK.encode()) if content is not None else not os.path.lexists(readme)
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise OutputError(what, remedy="check the disk and run again, or remove the file", path=readme) from None


def _people(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


_TAKEN_OVER: dict[str, Callable[[object], bool]] = {
    "Authors": _people,
    "EthicsApprovals": _people,
    "License": lambda value: isinstance(value, str) and bool(value),
}


def _container() -> dict[str, Any]:
    """The image that this runs in, if it says so: ``BLINDHARMONY_CONTAINER="docker name:tag"``."""
    kind, _, tag = os.environ.get("BLINDHARMONY_CONTAINER", "").strip().partition(" ")
    return {"Container": {"Type": kind, "Tag": tag or f"{_NAME}:{VERSION}"}} if kind else {}


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
    issues = validation_issues(root)
    return issues if issues is None else [issue for issue in issues if issue.get("severity") == "error"]


def validation_issues(root: Path) -> list[dict[str, Any]] | None:
    """The validator's errors and warnings, None if there is no validator or it cannot run."""
    command = shutil.which(_COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(_COMMAND)
    if command is None:
        return None
    try:
        words, remedy = [command, str(root), "--json"], "pass --skip-bids-validation"
        ran = run_command(words, called="the BIDS validator", seconds=_VALIDATOR_S, remedy=remedy, check=False)
        return list(json.loads(ran.stdout)["issues"]["issues"])
    except (PreprocessingError, ValueError, KeyError, TypeError):
        return None
