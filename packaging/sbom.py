"""Write sbom.cdx.json (CycloneDX 1.6): every locked package, torch, and the files of others inside the wheel.

Run by ``make lock``. The hashes of packages are those of requirements.lock; those of the files inside are computed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SBOM = ROOT / "sbom.cdx.json"


def locked() -> list[dict[str, object]]:
    """A component for each line of the lock, with the hashes of its files."""
    components = []
    for block in re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text()):
        if start := re.match(r"([A-Za-z0-9._-]+)==(\S+)", block):
            name, version = start.groups()
            hashes = sorted(re.findall(r"sha256:([0-9a-f]{64})", block))
            components.append(
                {
                    "type": "library",
                    "name": name,
                    "version": version,
                    "purl": f"pkg:pypi/{name}@{version}",
                    "hashes": [{"alg": "SHA-256", "content": digest} for digest in hashes],
                }
            )
    return components


def inside() -> list[dict[str, object]]:
    """A component for each file of others (weights, template, scan, viewer) in the wheel; licences are in NOTICE."""
    package = ROOT / "src" / "blindharmony"
    files = sorted(p for p in package.rglob("*") if p.parent.name == "assets" and p.is_file())
    return [
        {
            "type": "machine-learning-model" if p.suffix == ".safetensors" else "file",
            "name": p.relative_to(ROOT / "src").as_posix(),
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(p.read_bytes()).hexdigest()}],
        }
        for p in files
    ]


def bill() -> dict[str, object]:
    """The bill of materials."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = re.findall(r"^([a-z-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    torch = [{"type": "library", "name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}"} for n, v in pinned]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": f"pkg:pypi/{project['name']}@{project['version']}",
            }
        },
        "components": [*torch, *locked(), *inside()],
    }


if __name__ == "__main__":
    SBOM.write_text(json.dumps(bill(), indent=1) + "\n")
