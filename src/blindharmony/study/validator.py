"""The official BIDS validator, where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from blindharmony.errors import InputError

_COMMAND = "bids-validator-deno"


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
    ran = subprocess.run([command, str(root), "--json"], capture_output=True, text=True, check=False)
    try:
        issues = json.loads(ran.stdout)["issues"]["issues"]
    except (ValueError, KeyError, TypeError):
        return None
    return [issue for issue in issues if issue.get("severity") == "error"]
