"""Write requirements.lock: the exact versions and hashes of everything but torch that the package runs with.

Torch comes in several builds of one version (processors, CUDA), so its version is pinned in constraints.txt and what
it needs is locked here. Run ``make lock`` after a change to the dependencies in pyproject.toml.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
# What torch itself needs beside CUDA (its metadata, "Requires-Dist").
TORCH_NEEDS = ("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy>=1.13.3", "typing-extensions>=4.10")
HEAD = """\
# The exact packages that `make demo` and the container install, with their hashes; torch is pinned in constraints.txt.
# Written by `make lock`; a test holds it against pyproject.toml.
"""


def wanted() -> list[str]:
    """Requirements of the package and its container (reading DICOM, the page), without torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    every = [*project["dependencies"], *extras["dicom"], *extras["ui"], *TORCH_NEEDS]
    return sorted(line for line in every if re.split(r"[><=~! ]", line)[0] != "torch")


def main() -> None:
    """Resolve for every Python that is supported, and write the lock."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "requirements.in"), Path(folder, "requirements.lock")
        source.write_text("\n".join(wanted()) + "\n")
        options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "compile", "--quiet", *options, "-o", out, source], check=True
        )
        LOCK.write_text(HEAD + out.read_text())


if __name__ == "__main__":
    main()
