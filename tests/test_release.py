"""One file to fill in and one command make a release: every file that names version, address and authors follows."""

import json
import re
import runpy
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
NAMED = (
    "pyproject.toml",
    "CITATION.cff",
    "CHANGELOG.md",
    "Dockerfile",
    "Apptainer.def",
    "sbom.cdx.json",
    "packaging/list-entry.md",
)
FIELDS = """
version = "{version}"
date = "2031-02-03"
url = "https://example.org/lab/blindharmony"
[[authors]]
family = "Müller"
given = "Änne"
orcid = "0000-0002-1825-0097"
[[authors]]
family = "Roe"
given = "Jo"
affiliation = "Here"
"""


@pytest.fixture
def source(tmp_path):
    """The files of a copy that the release changes."""
    for name in (*NAMED, "benchmarks/pyproject.toml", "packaging/release.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- New.\n\n## 0.1.0\n\n- First.\n")
    return tmp_path


def release(source, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["release.py", "--root", str(source)])
    runpy.run_path(str(ROOT / "packaging/release.py"), run_name="__main__")
    return {str(path.relative_to(source)): path.read_text() for path in source.rglob("*") if path.is_file()}


def test_empty_fields_are_named_and_nothing_is_written(source, monkeypatch):
    before = {name: (source / name).read_text() for name in NAMED}
    with pytest.raises(SystemExit, match=r"fill in date, url, authors\.family, authors\.given"):
        release(source, monkeypatch)
    assert before == {name: (source / name).read_text() for name in NAMED}
    assert not (source / ".zenodo.json").exists()


def test_every_file_names_the_release_and_a_second_run_changes_nothing(source, monkeypatch):
    (source / "packaging/release.toml").write_text(FIELDS.format(version="7.8.9"))
    made = release(source, monkeypatch)
    about = tomllib.loads(made["pyproject.toml"])["project"]
    assert about["version"] == "7.8.9"
    assert about["urls"]["Source"] == "https://example.org/lab/blindharmony"
    assert about["scripts"] == {"blindharmony": "blindharmony.cli.main:main"}
    benchmark = tomllib.loads(made["benchmarks/pyproject.toml"])["project"]
    assert (benchmark["version"], benchmark["dependencies"][0]) == ("7.8.9", "blindharmony>=7.8.9")
    citation = yaml.safe_load(made["CITATION.cff"])
    assert (citation["version"], str(citation["date-released"])) == ("7.8.9", "2031-02-03")
    assert [author["family-names"] for author in citation["authors"]] == ["Müller", "Roe"]
    assert citation["authors"][0]["orcid"] == "https://orcid.org/0000-0002-1825-0097"
    assert citation["references"][0]["authors"][0]["family-names"] == "Jeong"
    assert "\n## 7.8.9\n\n- New." in made["CHANGELOG.md"]
    zenodo = json.loads(made[".zenodo.json"])
    assert zenodo["creators"][1] == {"name": "Roe, Jo", "affiliation": "Here"}
    for name in ("Dockerfile", "Apptainer.def"):
        assert re.search(r"image\.version[= ]\"?7\.8\.9\b", made[name])
        assert re.search(r"image\.source[= ]\"?https://example\.org/lab/blindharmony\b", made[name])
    assert json.loads(made["sbom.cdx.json"])["metadata"]["component"]["version"] == "7.8.9"
    assert "**blindharmony** (https://example.org/lab/blindharmony, Apache-2.0" in made["packaging/list-entry.md"]
    assert release(source, monkeypatch) == made


def test_the_recipe_needs_what_the_package_needs(source, monkeypatch):
    (source / "packaging/release.toml").write_text(FIELDS.format(version="7.8.9"))
    recipe = yaml.safe_load(release(source, monkeypatch)["packaging/conda/recipe.yaml"])
    needed = {line.split()[0]: line.split()[1] for line in recipe["requirements"]["run"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {"torch": "pytorch"}
    wanted = {names.get(r.name, r.name.lower()): str(r.specifier) for r in map(Requirement, project["dependencies"])}
    assert needed == {"python": project["requires-python"], **wanted}
    assert Version(recipe["context"]["version"]) == Version("7.8.9")


@pytest.mark.parametrize("wrong", ["7.8", "v7.8.9"])
def test_a_version_that_is_none_is_refused(source, monkeypatch, wrong):
    (source / "packaging/release.toml").write_text(FIELDS.format(version=wrong))
    with pytest.raises(SystemExit, match="is none"):
        release(source, monkeypatch)
