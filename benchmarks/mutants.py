"""Do the tests notice a wrong program? Seeded small mistakes in the flow and the harmonization, one at a time.

    python benchmarks/mutants.py --mutants 150 --seed 0 --minutes 60 --out docs/measured_mutants.json
    python benchmarks/mutants.py --again docs/measured_mutants.json

A mutant is one changed operator, comparison, number or branch, chosen by chance alone. It is killed if the tests that
know its file best, or the module's own examples, fail or do not end. Survivors meet all tests of their folder and of
the pipeline, unless --quick. They are printed as they come, and the JSON holds them too. With --again those that
survived meet the tests of today, and so do programs that leave out a whole step.
"""

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("flows", "harmonization", "quality")
# What every user runs, from end to end.
_WHOLE = ("tests/test_exact_numbers.py", "tests/test_pipeline.py", "tests/test_real_target.py")
# Programs that leave out a step: file, pattern, what stands there instead.
_BIAS = ("src/blindharmony/api.py", r"= steps\.in_target_contrast\(first, model, shared.*", "= first, shared")
_REFINEMENT = ("src/blindharmony/harmonization/methods.py", r"return refined\(harmonized, .*", "return harmonized")
_OVERLAP = ("src/blindharmony/quality/checks.py", r"\boverlap = .*", "overlap = 1.0")
_REAL, _SMALL = ("tests/test_real_target.py",), ("tests/test_pipeline.py",)
BY_HAND = {
    "bias fields are never found again": (_REAL, [_BIAS]),
    "nothing is ever refined": (_REAL, [_REFINEMENT]),
    "the verdict never hears of the overlap": (_SMALL, [_OVERLAP]),
    "all three together": (_REAL, [_BIAS, _REFINEMENT, _OVERLAP]),
}
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


# The tests that know each room best; a room that is not here has the tests of its folder.
_ABOUT = {
    "flows/bijection": ("flows/test_laws.py", "flows/test_layers.py"),
    "flows/transforms": (
        "flows/test_laws.py",
        "flows/test_layers.py",
        "flows/test_spline.py",
        "flows/test_dequantise.py",
    ),
    "flows/networks": ("flows/test_layers.py", "flows/test_laws.py", "flows/test_refusals.py"),
    "flows/glow": ("flows/test_multiscale.py", "flows/test_laws.py", "flows/test_refusals.py"),
    "flows/latent": ("flows/test_multiscale.py", "flows/test_pyramid.py", "harmonization/test_published.py"),
    "flows/pyramid": ("flows/test_pyramid.py", "flows/test_refusals.py", "quality/test_typicality.py"),
    "harmonization/native": ("harmonization/test_native.py",),
    "harmonization/published": ("harmonization/test_published.py",),
    "harmonization/refine": ("harmonization/test_refine.py",),
    "harmonization/fidelity": ("harmonization/test_fidelity.py",),
    "harmonization/scanner": ("harmonization/test_scanner.py",),
    "harmonization/intensity": (
        "harmonization/test_intensity_curve_map.py",
        "harmonization/test_intensity_smooth.py",
        "harmonization/test_intensity_error_bar.py",
    ),
    "quality/checks": ("quality",),
    "quality/metrics": ("report/test_report_metrics.py",),
}


def tests_of(tree: Path, file: str) -> list[str]:
    """The module's own examples, and the tests that know it best."""
    room = f"{Path(file).parent.name}/{Path(file).stem}"
    folder = Path(file).parent.name if room.startswith(FOLDERS) else "harmonization"
    known = [tree / "tests" / name for name in ("test_exact_numbers.py", *_ABOUT.get(room, (folder,)))]
    return [file, *(str(path) for path in known if path.exists())]


def all_tests_of(tree: Path, file: str) -> list[str]:
    """Every test of the folder, and the method from end to end."""
    folders = [tree / "tests" / name for name in {Path(file).parent.name, "harmonization"}]
    return [*(str(folder) for folder in folders if folder.is_dir()), *_WHOLE, file]


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
    if done.returncode > 2:
        raise SystemExit(f"pytest could not run {' '.join(tests)}:\n{done.stdout.decode()[-1000:]}")
    return done.returncode == 0, time.monotonic() - start


def nearest(file: str, change: str, line: int) -> int | None:
    """The number of the place in a file where a change can be made, the nearest to a line; None if there is none."""
    lines = {}
    for index, node in enumerate(places(ast.parse((ROOT / file).read_text()))):
        before = ast.unparse(node).splitlines()[0]
        changed = copy.deepcopy(node)
        mutate(changed)
        if f"{before}  ->  {ast.unparse(ast.fix_missing_locations(changed)).splitlines()[0]}" == change:
            lines[index] = node.lineno
    return min(lines, key=lambda index: abs(lines[index] - line), default=None)


def meet_again(records: Path, limit: float) -> None:
    """Try those that survived, and programs that leave out a step, with the tests of today; write what comes of it."""
    summary = json.loads(records.read_text())
    with copied() as tree:
        for row in summary["mutants"]:
            if not row["alive"]:
                continue
            index = nearest(row["file"], row["change"], row["line"])
            if index is None:
                raise SystemExit(f"{row['file']} has no place for {row['change']}; say in the record where it went")
            source, _, row["line"] = mutant(row["file"], index)
            (tree / row["file"]).write_text(source)
            row["alive"], seconds = run_tests(tree, tests_of(tree, row["file"]), limit)
            if row["alive"]:
                row["alive"], more = run_tests(tree, all_tests_of(tree, row["file"]), 4 * limit)
                seconds += more
            else:
                row["first"] = "not noticed"
            shutil.copy(ROOT / row["file"], tree / row["file"])
            print("ALIVE" if row["alive"] else "killed", f"{seconds:.0f} s", row["file"], row["change"], flush=True)
            records.write_text(json.dumps(summary, indent=1) + "\n")
        summary["by_hand"] = []
        for what, (tests, edits) in BY_HAND.items():
            for file, pattern, instead in edits:
                text, times = re.subn(pattern, lambda _, new=instead: new, (tree / file).read_text(), count=1)
                if not times:
                    raise SystemExit(f"{file} has nothing like {pattern}: '{what}' is to be written anew")
                (tree / file).write_text(text)
            alive, seconds = run_tests(tree, list(tests), 4 * limit)
            for file, _, _ in edits:
                shutil.copy(ROOT / file, tree / file)
            summary["by_hand"].append({"what": what, "alive": alive})
            print("ALIVE" if alive else "killed", f"{seconds:.0f} s", what, flush=True)
            records.write_text(json.dumps(summary, indent=1) + "\n")


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of what tests need, to be changed; hypothesis does not look for smaller failures in it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        tree.mkdir()
        for part in ("src", "tests", "conftest.py", "pyproject.toml"):
            copier = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copier(ROOT / part, tree / part)
        with (tree / "conftest.py").open("a") as conftest:
            conftest.write(_NO_SHRINKING)
        yield tree


def page(summary: dict[str, object]) -> str:
    """The records as a page: how many were noticed, and those that were not, each with what was found about it."""
    mutants = summary["mutants"]
    rows = []
    for folder in (*FOLDERS, "sampling"):
        changed = [m for m in mutants if m["file"].startswith(f"src/blindharmony/{folder}")]
        if changed:
            now = len(changed) - sum(m["alive"] for m in changed)
            first = now - sum("first" in m and not m["alive"] for m in changed)
            rows.append(f"| {folder} | {len(changed)} | {first} | {now} |")
    where = "`{file}:{line}`"
    table = [
        f"| {where.format(**m | {'file': m['file'].removeprefix('src/blindharmony/')})} | `{m['change']}` "
        f"| {m.get('note', '')} | {'no' if m['alive'] else 'yes'} |"
        for m in mutants
        if m["alive"] or "note" in m
    ]
    by_hand = [f"| {m['what']} | {'no' if m['alive'] else 'yes'} |" for m in summary.get("by_hand", [])]
    return "\n".join(
        [
            "# Do the tests notice a wrong program?",
            "",
            f"Made by `python benchmarks/mutants.py --page docs/measured_mutants.json`. {len(mutants)} of "
            f"{summary['places']} places in the flow and the harmonization were changed, one at a time, chosen by "
            f"chance (seed {summary['seed']}): an operator, a comparison, a number, a branch."
            + (" Only the tests that know a file best were asked." if summary["quick"] else "")
            + " Those that survived were tried again after more tests were written (`--again`); the others were not.",
            "",
            "| part | changed | noticed at first | with the tests then added |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Small changes that were missed for long",
            "",
            "| place | change | what it is | noticed now |",
            "|---|---|---|---|",
            *table,
            "",
            "## Whole steps left out",
            "",
            "| program | noticed |",
            "|---|---|",
            *by_hand,
            "",
        ]
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--mutants", type=int, default=150)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--folder", choices=FOLDERS, help="one of them only")
    arguments.add_argument("--out", type=Path)
    arguments.add_argument(
        "--page", type=Path, metavar="JSON", help="write the page of these records, and nothing else"
    )
    arguments.add_argument("--limit", type=float, default=300, help="seconds after which a mutant counts as killed")
    arguments.add_argument("--quick", action="store_true", help="only the tests that know a file best")
    arguments.add_argument(
        "--again", type=Path, metavar="JSON", help="only those that survived, and programs that leave out a step"
    )
    options = arguments.parse_args()
    if options.again:
        meet_again(options.again, options.limit)
        return
    if options.page:
        options.page.with_suffix(".md").write_text(page(json.loads(options.page.read_text())))
        return
    chosen = [p for p in every_place() if options.folder in (None, Path(p[0]).parent.name)]
    total = len(chosen)
    random.Random(options.seed).shuffle(chosen)
    end = time.monotonic() + 60 * options.minutes
    results: list[dict[str, object]] = []
    with copied() as tree:
        for file, index in chosen[: options.mutants]:
            if time.monotonic() > end:
                break
            source, change, line = mutant(file, index)
            (tree / file).write_text(source)
            alive, seconds = run_tests(tree, tests_of(tree, file), options.limit)
            if alive and not options.quick:
                alive, more = run_tests(tree, all_tests_of(tree, file), 4 * options.limit)
                seconds += more
            shutil.copy(ROOT / file, tree / file)
            results.append({"file": file, "line": line, "change": change, "alive": alive})
            print(len(results), "ALIVE" if alive else "killed", f"{seconds:.0f} s", file, line, change, flush=True)
            summary = {"places": total, "seed": options.seed, "quick": options.quick, "mutants": results}
            if options.out:
                options.out.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
