"""Code blocks of the documentation, and how each is run."""

import contextlib
import io
import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from blindharmony.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = {"python", "sh", "shell", "bash", "console"}
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>slow|not run): ?(?P<why>[^>]*?) -->\n|^<!-- (?P<slow>slow) -->\n)?"
    r"^```(?P<language>[a-z]*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: File, from the root.
        line: Of its first fence.
        language: Empty if none is said.
        mark: ``slow``, ``not run`` or empty.
        why: Why it is not run.
        code: Its text.
    """

    page: str
    line: int
    language: str
    mark: str
    why: str
    code: str

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.mark != "not run"


def pages() -> list[Path]:
    """Every page that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        mark, why = match["slow"] or match["mark"] or "", match["why"] or ""
        found.append(Block(str(page.relative_to(ROOT)), line, match["language"], mark, why, match["code"]))
    return found


def run_block(block: Block, names: dict) -> str:
    """Run it in the current folder and return what it printed; blocks of a page share the variables ``names``."""
    if block.language == "python":
        code = compile("\n" * block.line + block.code, block.page, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        return out.getvalue()
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    if all(words[0] == "blindharmony" and not set("|$*><;") & set("".join(words)) for words in commands):
        return "".join(_main(words[1:], block) for words in commands)
    return _bash("\n".join(lines), block)


def _main(words: list[str], block: Block) -> str:
    """The command in this process: no second start of Python and torch."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    assert code == 0, f"{block.page}:{block.line}: blindharmony {shlex.join(words)}\n{err.getvalue()}"
    return out.getvalue()


def _bash(script: str, block: Block) -> str:
    shim = Path("bin", "blindharmony").absolute()
    if not shim.exists():
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blindharmony "$@"\n')
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["bash", "-euc", script], env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, f"{block.page}:{block.line}:\n{script}\n{done.stderr}"
    return done.stdout
