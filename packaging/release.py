"""Write everything that names version, address and authors of a release, from packaging/release.toml.

Version and address in pyproject.toml (both packages), CITATION.cff, container labels; the heading in CHANGELOG.md; the
address in the entry for public lists (packaging/list-entry.md); and two files made anew: .zenodo.json, and
conda/recipe.yaml for conda-forge. Run it by ``make release``; it refuses to write as long as a field is empty. Running
it twice changes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What conda-forge calls otherwise than PyPI.
CONDA = {"torch": "pytorch", "SimpleITK": "simpleitk"}
ARXIV = "2305.10732"


def filled(path: Path) -> dict[str, Any]:
    """The fields; ends the program with the names of empty ones."""
    fields = tomllib.loads(path.read_text("utf-8"))
    empty = [name for name in ("version", "date", "url") if not fields.get(name)]
    authors = fields.get("authors", [])
    empty += [f"authors.{name}" for name in ("family", "given") if not authors or not all(a.get(name) for a in authors)]
    if empty:
        sys.exit(f"{path}: fill in {', '.join(empty)}")
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", fields["version"]):
        sys.exit(f"{path}: version {fields['version']} is none, such as 0.2.0 or 0.2.0rc1")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", fields["date"]):
        sys.exit(f"{path}: date {fields['date']} is none, such as 2026-12-31")
    if not re.fullmatch(r"https://[\w./-]+[^/]", fields["url"]):
        sys.exit(f"{path}: url {fields['url']} is none, such as https://github.com/somebody/blindharmony")
    return fields


def replaced(text: str, pattern: str, by: str) -> str:
    """The text with the one place of a pattern replaced."""
    text, count = re.subn(pattern, lambda _: by, text, count=1, flags=re.MULTILINE)
    if not count:
        sys.exit(f"nothing matches {pattern}")
    return text


def project(text: str, fields: dict[str, Any]) -> str:
    """pyproject.toml with version and addresses."""
    url = fields["url"]
    text = re.sub(r"^\[project\.urls\]\n(?:.+\n)*\n", "", text, flags=re.MULTILINE)
    urls = f'[project.urls]\nSource = "{url}"\nIssues = "{url}/issues"\nChangelog = "{url}/blob/main/CHANGELOG.md"\n\n'
    text = replaced(text, r"^version = .*$", f'version = "{fields["version"]}"')
    return replaced(text, r"^\[project\.scripts\]\n", f"{urls}[project.scripts]\n")


def citation(text: str, fields: dict[str, Any]) -> str:
    """CITATION.cff with version, date, address and authors."""
    people = ""
    for author in fields["authors"]:
        people += f'  - family-names: "{author["family"]}"\n    given-names: "{author["given"]}"\n'
        people += f'    orcid: "https://orcid.org/{author["orcid"]}"\n' if author.get("orcid") else ""
        people += f'    affiliation: "{author["affiliation"]}"\n' if author.get("affiliation") else ""
    text = re.sub(r"^(date-released|repository-code): .*\n", "", text, flags=re.MULTILINE)
    about = f'version: {fields["version"]}\ndate-released: {fields["date"]}\nrepository-code: "{fields["url"]}"'
    text = replaced(text, r"^version: .*$", about)
    return replaced(text, r"^authors:\n(?:  .*\n)+", f"authors:\n{people}")


def changelog(text: str, fields: dict[str, Any]) -> str:
    """CHANGELOG.md with what was unreleased under the version's heading."""
    heading = f"## {fields['version']}"
    return text if f"\n{heading}\n" in text else replaced(text, r"^## Unreleased$", heading)


def labels(text: str, fields: dict[str, Any]) -> str:
    """Dockerfile or Apptainer.def with version and source in its labels."""
    for name, value in (("version", fields["version"]), ("source", fields["url"])):
        # A Dockerfile writes name="value", Apptainer name value.
        text = replaced(text, rf'(?<=image\.{name}=")[^"]*|(?<=image\.{name} )\S+', value)
    return text


def materials(text: str, fields: dict[str, Any]) -> str:
    """The bill of materials with the version of what it is about."""
    version = fields["version"]
    text = replaced(text, r'(?<="name": "blindharmony",\n   "version": ")[^"]*', version)
    return replaced(text, r'(?<=pkg:pypi/blindharmony@)[^"]*', version)


def entry(text: str, fields: dict[str, Any]) -> str:
    """The entry for lists of methods with the address."""
    return replaced(text, r"(?<=\*\*blindharmony\*\* \()[^,]+", fields["url"])


def zenodo(fields: dict[str, Any], about: dict[str, Any]) -> str:
    """.zenodo.json, which Zenodo reads when a release of the repository is archived."""
    creators = []
    for author in fields["authors"]:
        optional = {key: author[key] for key in ("orcid", "affiliation") if author.get(key)}
        creators.append({"name": f"{author['family']}, {author['given']}", **optional})
    content = {
        "title": f"blindharmony {fields['version']}",
        "description": about["description"],
        "upload_type": "software",
        "access_right": "open",
        "license": about["license"],
        "version": fields["version"],
        "publication_date": fields["date"],
        "keywords": about["keywords"],
        "creators": creators,
        "related_identifiers": [
            {"identifier": f"arXiv:{ARXIV}", "relation": "isDerivedFrom", "scheme": "arxiv"},
            {"identifier": "10.18112/openneuro.ds002748.v1.0.5", "relation": "isDerivedFrom", "scheme": "doi"},
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def recipe(fields: dict[str, Any], about: dict[str, Any]) -> str:
    """The recipe of conda-forge, format 1; the hash is that of the file on PyPI."""
    needs = [re.match(r"([\w-]+)(.*)", line) for line in about["dependencies"]]
    run = "".join(f"    - {CONDA.get(need[1], need[1].lower())} {need[2]}\n" for need in needs if need)
    least = about["requires-python"].removeprefix(">=")
    return f"""\
# Written by `make release`. Copy it to a fork of conda-forge/staged-recipes, recipes/blindharmony/recipe.yaml, and put
# the sha256 in that PyPI shows for the sdist.
schema_version: 1
context:
  version: "{fields["version"]}"
package:
  name: blindharmony
  version: ${{{{ version }}}}
source:
  url: https://pypi.org/packages/source/b/blindharmony/blindharmony-${{{{ version }}}}.tar.gz
  sha256: 0000000000000000000000000000000000000000000000000000000000000000
build:
  number: 0
  noarch: python
  script: python -m pip install . -vv --no-deps --no-build-isolation
  python:
    entry_points:
      - blindharmony = blindharmony.cli.main:main
requirements:
  host:
    - python {least}.*
    - pip
    - hatchling >=1.27
  run:
    - python >={least}
{run}tests:
  - python:
      imports: [blindharmony]
      python_version: {least}.*
  - script:
      - blindharmony --version
      - blindharmony targets
about:
  homepage: {fields["url"]}
  summary: {json.dumps(about["description"])}
  license: {about["license"]}
  license_file: [LICENSE, NOTICE]
extra:
  recipe-maintainers: []
"""


def main() -> None:
    """Write all files."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--root", type=Path, default=ROOT, help="the copy of the source")
    root = arguments.parse_args().root
    fields = filled(root / "packaging/release.toml")
    about = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    changes = {
        "pyproject.toml": project,
        "CITATION.cff": citation,
        "CHANGELOG.md": changelog,
        "Dockerfile": labels,
        "Apptainer.def": labels,
        "sbom.cdx.json": materials,
        "packaging/list-entry.md": entry,
    }
    texts = {name: change((root / name).read_text("utf-8"), fields) for name, change in changes.items()}
    benchmark = (root / "benchmarks/pyproject.toml").read_text("utf-8")
    benchmark = replaced(benchmark, r"^version = .*$", f'version = "{fields["version"]}"')
    texts["benchmarks/pyproject.toml"] = replaced(
        benchmark, r'"blindharmony>=[^"]*"', f'"blindharmony>={fields["version"]}"'
    )
    texts[".zenodo.json"] = zenodo(fields, about)
    texts["packaging/conda/recipe.yaml"] = recipe(fields, about)
    for name, text in texts.items():
        file = root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        print(name)


if __name__ == "__main__":
    main()
