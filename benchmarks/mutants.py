"""Do the tests notice a wrong program? Seeded small mistakes in the flow and the harmonization, one at a time.

    python benchmarks/mutants.py --mutants 150 --seed 0 --minutes 60 --out docs/measured_mutants.json

A mutant is one changed operator, comparison, number or branch, chosen by chance alone. It is killed if the tests that
know its file best, or the module's own examples, fail or do not end. Survivors meet all tests of their folder and of
the pipeline, unless --quick. They are printed as they come, and the JSON holds them too.
"""

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("flow", "harmonization")
_SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


# A failure is all that counts: looking for a smaller one takes minutes.
_NO_SHRINKING = """
from hypothesis import Phase

settings.register_profile(
    "mutants", deadline=None, database=None, derandomize=True, max_examples=10, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("mutants")
"""


def places(tree: ast.Module) -> list[ast.AST]:
    """Nodes that can be changed: what runs, not annotations, decorators or messages."""
    found, skipped = [], set()
    for node in ast.walk(tree):
        for part in ("annotation", "returns"):
            if isinstance(getattr(node, part, None), ast.AST):
                skipped |= set(map(id, ast.walk(getattr(node, part))))
        if isinstance(node, ast.Raise):
            skipped |= set(map(id, ast.walk(node)))
        for decorator in getattr(node, "decorator_list", ()):
            skipped |= set(map(id, ast.walk(decorator)))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float, bool)
        swap = isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _SWAPS
        compare = isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS
        sign = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert)
        if number or swap or compare or sign or isinstance(node, ast.IfExp | ast.If):
            found.append(node)
    return found


def mutate(node: ast.AST) -> None:
    """Change one node in place."""
    if isinstance(node, ast.Constant):
        value = node.value
        node.value = (
            not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 1.5 + 0.01
        )
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        node.op = _SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = _SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):  # not x, ~x: looked at twice is not looked at
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.IfExp | ast.If):
        node.test = ast.UnaryOp(ast.Not(), node.test)


def every_place() -> list[tuple[str, int]]:
    """File and number of each place, in a fixed order."""
    files = sorted(p for folder in FOLDERS for p in (ROOT / "src/blindharmony" / folder).glob("*.py"))
    return [(str(f.relative_to(ROOT)), i) for f in files for i in range(len(places(ast.parse(f.read_text()))))]


def mutant(file: str, index: int) -> tuple[str, str, int]:
    """Source of the mutant, what was changed, and its line."""
    tree = ast.parse((ROOT / file).read_text())
    node = places(tree)[index]
    before = ast.unparse(copy.deepcopy(node)).splitlines()[0]
    mutate(node)
    ast.fix_missing_locations(tree)
    return ast.unparse(tree), f"{before}  ->  {ast.unparse(node).splitlines()[0]}", node.lineno


# Tests that are about a file without bearing its name.
_ABOUT = {
    "pyramid": ("pyramid",),
    "level": ("pyramid",),
    "multiscale": ("multiscale",),
    "presets": ("multiscale",),
    "split": ("multiscale", "layers"),
    "redraw": ("pyramid",),
    "latent": ("latent",),
    "dequantise": ("dequantise",),
}


def tests_of(tree: Path, file: str) -> list[str]:
    """The tests that know a file best: those of its name, and of the flow's laws or the parts of a verdict."""
    folder, stem = Path(file).parent.name, Path(file).stem
    words = {stem, *_ABOUT.get(stem, ("laws", "layers") if folder == "flow" else ())}
    if stem in ("coverage", "draw", "standing", "trust", "typicality"):
        words |= {"assess_parts"}
    if folder == "harmonization" and stem in ("curve", "match", "summary", "carry", "lifting", "methods", "order"):
        words |= {"curve_map", "ranks", "scanner", "carry", "match"}
    found = [p for p in sorted((tree / "tests" / folder).glob("test_*.py")) if p.stem.removeprefix("test_") in words]
    return [file, *map(str, found)]


def all_tests_of(tree: Path, file: str) -> list[str]:
    """Every test of the folder, and the method from end to end."""
    return [str(tree / "tests" / Path(file).parent.name), str(tree / "tests/test_pipeline.py"), file]


def run_tests(tree: Path, tests: list[str], limit: float) -> tuple[bool, float]:
    """Whether the tests pass, and how long they took."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree / "src")}
    start = time.monotonic()
    try:
        done = subprocess.run(
            words, cwd=tree, env=os.environ | threads, capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return False, limit  # a loop that no longer ends; give a busy machine a larger --limit
    return done.returncode == 0, time.monotonic() - start


def page(summary: dict[str, object]) -> str:
    """The records as a page: how many were noticed, and those that were not, each with what was found about it."""
    mutants = summary["mutants"]
    rows = []
    for folder in FOLDERS:
        own = [m for m in mutants if f"/{folder}/" in m["file"]]
        if own:
            now = len(own) - sum(m["alive"] for m in own)
            first = now - sum("first" in m for m in own)
            rows.append(f"| {folder} | {len(own)} | {first} | {now} |")
    alive = [
        f"| `{m['file'].removeprefix('src/blindharmony/')}:{m['line']}` | `{m['change']}` | {m.get('note', '')} |"
        for m in mutants
        if m["alive"]
    ]
    return "\n".join(
        [
            "# Do the tests notice a wrong program?",
            "",
            f"Made by `python benchmarks/mutants.py --page docs/measured_mutants.json`. {len(mutants)} of "
            f"{summary['places']} places in the flow and the harmonization were changed, one at a time, chosen by "
            f"chance (seed {summary['seed']}): an operator, a comparison, a number, a branch."
            + (" Only the tests that know a file best were asked." if summary["quick"] else ""),
            "",
            "| part | changed | noticed at first | with the tests then added |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Not noticed",
            "",
            "| place | change | what it is |",
            "|---|---|---|",
            *alive,
            "",
        ]
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--mutants", type=int, default=150)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--folder", choices=FOLDERS, help="one of the two only")
    arguments.add_argument("--out", type=Path)
    arguments.add_argument(
        "--page", type=Path, metavar="JSON", help="write the page of these records, and nothing else"
    )
    arguments.add_argument("--limit", type=float, default=300, help="seconds after which a mutant counts as killed")
    arguments.add_argument("--quick", action="store_true", help="only the tests that know a file best")
    given = arguments.parse_args()
    if given.page:
        given.page.with_suffix(".md").write_text(page(json.loads(given.page.read_text())))
        return
    chosen = [p for p in every_place() if given.folder in (None, Path(p[0]).parent.name)]
    total = len(chosen)
    random.Random(given.seed).shuffle(chosen)
    end = time.monotonic() + 60 * given.minutes
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        for part in ("src", "tests", "pyproject.toml"):
            copier = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            tree.mkdir(exist_ok=True)
            copier(ROOT / part, tree / part)
        with (tree / "tests/conftest.py").open("a") as conftest:
            conftest.write(_NO_SHRINKING)
        for file, index in chosen[: given.mutants]:
            if time.monotonic() > end:
                break
            source, change, line = mutant(file, index)
            (tree / file).write_text(source)
            alive, seconds = run_tests(tree, tests_of(tree, file), given.limit)
            if alive and not given.quick:
                alive, more = run_tests(tree, all_tests_of(tree, file), 4 * given.limit)
                seconds += more
            shutil.copy(ROOT / file, tree / file)
            results.append({"file": file, "line": line, "change": change, "alive": alive})
            print(len(results), "ALIVE" if alive else "killed", f"{seconds:.0f} s", file, line, change, flush=True)
            summary = {"places": total, "seed": given.seed, "quick": given.quick, "mutants": results}
            if given.out:
                given.out.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
