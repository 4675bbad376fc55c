"""What keeps the house in order: no room behind a room, a light import, licences, one truth about versions."""

import ast
import importlib
import importlib.util
import inspect
import json
import pydoc
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import blindharmony
from blindharmony.settings import Settings, SettingsGroup

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(blindharmony.__file__).parent
SOURCES = [p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def internal_imports(path: Path) -> set[str]:
    """Modules of the package that a source file imports, by their dotted names."""
    every = {dotted(p) for p in SOURCES}
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module]
    names = {f"{n.module}.{a.name}" for n in nodes for a in n.names} & every
    return names | {n.module for n in nodes if n.module in every}


def dotted(path: Path) -> str:
    return ".".join(("blindharmony", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


# Small modules with one importer beside them, each with the reason why it is a page of its own.
PAGES_OF_THEIR_OWN = {
    **{
        f"blindharmony.cli.{verb}": "a verb that users type"
        for verb in ("demo", "info", "rerun", "sample", "serve", "view")
    },
}


def test_no_small_module_serves_one_neighbour_alone():
    importers = {dotted(p): set() for p in SOURCES}
    for path in SOURCES:
        for name in internal_imports(path) - {dotted(path)}:
            importers[name].add(dotted(path))
    small = {dotted(p) for p in SOURCES if p.name != "__init__.py" and len(p.read_text().splitlines()) < 150}
    alone = {
        name
        for name in small
        if len(importers[name]) == 1 and next(iter(importers[name])).rpartition(".")[0] == name.rpartition(".")[0]
    }
    assert alone == set(PAGES_OF_THEIR_OWN)


@pytest.mark.parametrize("name", re.findall(r"^::: (\S+)", (ROOT / "docs/reference/python.md").read_text(), re.M))
def test_what_the_reference_lists_has_an_example(name):
    module, _, last = name.rpartition(".")
    thing = pydoc.locate(name) or getattr(importlib.import_module(module), last)
    if inspect.isclass(thing) and issubclass(thing, SettingsGroup) and not issubclass(thing, Settings):
        # A group of numbers is documented number by number.
        assert all(field.description for field in thing.model_fields.values()), name
    elif not inspect.ismodule(thing):
        assert ">>>" in inspect.getdoc(thing), name


READ_BY_PEOPLE = [
    path
    for place in (".", "docs", "src", "benchmarks")
    for path in ((ROOT / place).glob("*") if place == "." else (ROOT / place).rglob("*"))
    if path.suffix in {".md", ".py", ".toml", ".yml", ".html"}
    and "site-packages" not in path.parts
    and path.name != "CHANGELOG.md"  # it may speak of what was
]
HOMES = {PACKAGE.name: PACKAGE, "blindharmony_benchmark": ROOT / "benchmarks/src/blindharmony_benchmark"}
# A group of entry points and the image of a container: names that are no modules.
NO_MODULES = {"blindharmony.commands", "blindharmony.sif"}
DOTTED = re.compile(r"(?<![\w/.@-])((?:blindharmony|blindharmony_benchmark)(?:\.[A-Za-z_]\w*)+)")
FILES = re.compile(r"(?<![\w/.-])((?:src|tests|benchmarks|docs)/[\w./-]+\.(?:py|md|json|toml))\b")


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something that the module before it speaks of."""
    package, *parts = name.split(".")
    place = HOMES[package]
    for part in parts:
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").is_file():
            place /= f"{part}.py"
        else:
            module = place if place.suffix else place / "__init__.py"
            return module.is_file() and re.search(rf"\b{part}\b", module.read_text()) is not None
    return True


def test_a_module_that_is_gone_is_noticed():
    assert exists("blindharmony.io.volume.read_volume")
    assert exists("blindharmony.cli")
    assert not exists("blindharmony.image.volume")
    assert not exists("blindharmony.io.volume.nothing_of_this_name")


def test_every_module_that_is_named_exists():
    now = [path for path in READ_BY_PEOPLE if path.name != "CHANGELOG.md"]  # it tells of names that are gone
    named = {(name, path) for path in now for name in DOTTED.findall(path.read_text())}
    assert len(named) > 100
    assert {
        f"{path.relative_to(ROOT)}: {name}" for name, path in named if name not in NO_MODULES and not exists(name)
    } == set()


def test_every_file_that_a_page_names_exists():
    pages = [
        ROOT / "Makefile",
        *(path for path in READ_BY_PEOPLE if path.suffix == ".md" or path.is_relative_to(ROOT / "benchmarks")),
    ]
    named = {(name, path) for path in pages for name in FILES.findall(path.read_text())}
    assert len(named) > 20
    assert {f"{path.relative_to(ROOT)}: {name}" for name, path in named if not (ROOT / name).exists()} == set()


OLD = {
    "pipeline": "api",
    "image": "io",
    "prep": "preprocessing",
    "flow": "flows",
    "target": "models",
    "interop": "integrations",
    "evidence": "blindharmony_benchmark",
}


@pytest.mark.parametrize(("old", "new"), OLD.items())
def test_an_old_name_is_answered_with_the_new_one(old, new):
    whole = new if new.startswith("blindharmony") else f"blindharmony.{new}"
    importlib.import_module(whole)
    for statement in (
        f"import blindharmony.{old}",
        f"import blindharmony.{old}.part",
        f"from blindharmony import {old}",
    ):
        with pytest.raises(ModuleNotFoundError, match=rf"blindharmony\.{old} has another name .*: {whole}\b"):
            exec(statement)
    with pytest.raises(AttributeError, match=rf": {whole}\b"):
        getattr(blindharmony, old)


def test_a_name_that_never_was_is_python_s_to_answer():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'blindharmony\.nothing'"):
        importlib.import_module("blindharmony.nothing")
    assert importlib.util.find_spec("blindharmony.nothing") is None
    assert not hasattr(blindharmony, "prep")


def test_the_package_stays_under_forty_megabytes():
    assert sum(p.stat().st_size for p in PACKAGE.rglob("*") if p.suffix != ".pyc" and p.is_file()) < 40e6


@pytest.mark.parametrize(
    "asset", [p for p in sorted(PACKAGE.rglob("*")) if p.parent.name == "assets" and p.is_file()], ids=lambda p: p.name
)
def test_every_asset_has_an_entry_in_notice(asset):
    assert asset.name in (ROOT / "NOTICE").read_text()


HEAVY = ("torch", "numpy", "nibabel", "SimpleITK", "matplotlib", "scipy", "monai", "torchio", "sklearn", "distributed")


def modules_after(code: str) -> tuple[set[str], float]:
    """Modules that code loads in a Python of its own, and the seconds of computing it took."""
    script = f"import sys, time; sys.argv = ['x', '--help']; {code}; print(time.process_time(), *sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, *names = run.stdout.splitlines()[-1].split()
    return set(names), float(seconds)


def test_importing_the_package_costs_nothing():
    names, seconds = modules_after("import blindharmony")
    assert not names & set(HEAVY)
    assert seconds < 0.5


def test_help_needs_no_torch():
    names, seconds = modules_after("from blindharmony.cli.main import parser; parser()")
    assert not names & {"torch", "matplotlib", "monai", "torchio", "sklearn", "distributed"}
    assert not names & {"scipy.stats", "scipy.optimize"}
    assert seconds < 3


def test_harmonizing_loads_nothing_that_it_does_not_use():
    code = "import blindharmony.api, blindharmony.models.file as f; f.load_target('ds002748')"
    names, _ = modules_after(code)
    assert not names & {"torch._dynamo", "sympy", "scipy.stats", "pandas", "matplotlib", "starlette"}


def test_versions_agree():
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    # A version under way has no heading of its own yet.
    heading = "Unreleased" if ".dev" in version else re.escape(version)
    assert re.search(rf"^## {heading}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_citation_has_what_the_format_asks_for():
    keys = re.findall(r"^([a-z-]+):", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert {"cff-version", "message", "title", "authors"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_requirement_files_repeat_the_groups():
    groups = PROJECT["dependency-groups"]
    for name, parts in {"dev": ("test", "check"), "browser": ("browser",), "docs": ("docs",)}.items():
        lines = (ROOT / f"requirements-{name}.txt").read_text().splitlines()
        wanted = [line for part in parts for line in groups[part]]
        assert sorted(line for line in lines if line and line[0] not in "#-") == sorted(wanted), name


def test_the_lock_has_every_requirement_in_a_version_that_fits():
    locked = {}
    for name, version in re.findall(
        r"^([a-z0-9._-]+)==([^ \\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    ):
        locked.setdefault(name, set()).add(version)
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [Requirement(line) for line in (*PROJECT["project"]["dependencies"], *extras["dicom"], *extras["ui"])]
    for requirement in wanted:
        if requirement.name != "torch":
            assert all(requirement.specifier.contains(v) for v in locked[requirement.name.lower()]), requirement


def test_every_locked_file_has_a_hash():
    blocks = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text())[1:]
    assert blocks
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)


def test_the_bill_of_materials_is_that_of_today():
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "packaging" / "sbom.py")
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    assert json.loads((ROOT / "sbom.cdx.json").read_text()) == sbom.bill(), "run make lock"


@pytest.mark.parametrize(
    ("gpu", "words", "without"), [(False, (), True), (True, (), False), (False, ("TORCH_INDEX=",), False)]
)
def test_make_takes_pytorch_without_gpu_libraries_where_there_is_no_gpu(gpu, words, without, tmp_path):
    for program in ("make", "sh", *(("nvidia-smi",) if gpu else ())):
        (tmp_path / program).symlink_to(shutil.which(program) or "/bin/true")
    told = subprocess.run(
        [tmp_path / "make", "-n", "PACKAGE=package", *words, "package"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = [line for line in told.splitlines() if line.endswith(" torch")]
    assert ("download.pytorch.org/whl/cpu" in line) is without
