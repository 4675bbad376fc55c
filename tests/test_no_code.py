"""A model, a cache or a checkpoint holds numbers and words: nothing in the package can be made to run them."""

import ast
from pathlib import Path

import blindharmony

SOURCES = sorted(Path(blindharmony.__file__).parent.rglob("*.py"))
_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
_CALLS = {"torch.load", "torch.jit.load", "torch.hub.load", "pd.read_pickle", "np.load", "numpy.load", "eval", "exec"}


def forbidden(tree: ast.AST) -> list[str]:
    """What in a module could run what it reads."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in _MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{a.name}" for a in node.names} | {node.module.split(".")[0]}
            found += sorted(names & (_MODULES | _CALLS))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            shell = [k for k in node.keywords if k.arg == "shell"]
            found += [called] if called in _CALLS or shell or called in {"os.system", "os.popen"} else []
    return found


def test_the_scan_finds_what_it_looks_for():
    for text in ("import pickle", "from torch import load", "torch.load(p)", "np.load(p)", "run(c, shell=True)"):
        assert forbidden(ast.parse(text)), text


def test_nothing_in_the_package_runs_what_it_reads():
    assert len(SOURCES) > 100
    assert {p.name: f for p in SOURCES if (f := forbidden(ast.parse(p.read_text())))} == {}
